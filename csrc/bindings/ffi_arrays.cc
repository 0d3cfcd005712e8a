#include "bindings/ffi_arrays.h"

#include <algorithm>

#include "base/error.h"

namespace nspjax {
namespace {

// As MLIR spells it.
std::string_view type_name(ffi::DataType type) {
  switch (type) {
    case ffi::PRED:
    case ffi::S1:
      return "i1";
    case ffi::S2:
      return "i2";
    case ffi::S4:
      return "i4";
    case ffi::S8:
      return "i8";
    case ffi::S16:
      return "i16";
    case ffi::S32:
      return "i32";
    case ffi::S64:
      return "i64";
    case ffi::U1:
      return "ui1";
    case ffi::U2:
      return "ui2";
    case ffi::U4:
      return "ui4";
    case ffi::U8:
      return "ui8";
    case ffi::U16:
      return "ui16";
    case ffi::U32:
      return "ui32";
    case ffi::U64:
      return "ui64";
    case ffi::F16:
      return "f16";
    case ffi::F32:
      return "f32";
    case ffi::F64:
      return "f64";
    case ffi::BF16:
      return "bf16";
    case ffi::C64:
      return "complex<f32>";
    case ffi::C128:
      return "complex<f64>";
    case ffi::F4E2M1FN:
      return "f4E2M1FN";
    case ffi::DataType::INVALID:
    case ffi::TOKEN:
      return "none";
    default:
      return "f8";
  }
}

// XLA may pack several elements into a byte, where ByteWidth() says one.
bool is_packed(ffi::DataType type) {
  constexpr std::array kPacked = {ffi::S1,   ffi::S2, ffi::S4,       ffi::U1,
                                  ffi::U2,   ffi::U4, ffi::F4E2M1FN, ffi::DataType::INVALID,
                                  ffi::TOKEN};
  return std::ranges::find(kPacked, type) != kPacked.end();
}

template <typename Buffers>
auto decoded(const Buffers& buffers, size_t i) {
  auto buffer = buffers.template get<ffi::AnyBuffer>(i);
  if (buffer.has_error()) fail(ErrorKind::kInvalidArgument, buffer.error().message());
  return *buffer;
}

template <typename T>
bool get(const ffi::Dictionary& attributes, std::string_view name, T& value) {
  if (!attributes.contains<T>(name)) return false;
  value = *attributes.get<T>(name);
  return true;
}

}  // namespace

calls::Array array_of(const ffi::AnyBuffer& buffer) {
  const ffi::DataType type = buffer.element_type();
  const auto sizes = buffer.dimensions();
  return {.type = type_name(type),
          .element_bytes = is_packed(type) ? 0 : static_cast<int64_t>(ffi::ByteWidth(type)),
          .sizes = {sizes.begin(), sizes.size()},
          .data = buffer.untyped_data()};
}

ffi::AnyBuffer buffer_at(const ffi::RemainingArgs& operands, size_t i) {
  return decoded(operands, i);
}

ffi::AnyBuffer buffer_at(const ffi::RemainingRets& results, size_t i) {
  return *decoded(results, i);
}

calls::Value attribute_value(const calls::Call& call, const calls::Attribute& attribute,
                             const ffi::Dictionary& attributes) {
  calls::Value value{};
  const bool real = attribute.type == "f32";
  if (real ? get(attributes, attribute.name, value.real)
           : get(attributes, attribute.name, value.integer)) {
    return value;
  }
  fail(ErrorKind::kInvalidArgument, "nspjax.", call.name, ": its attribute ", attribute.name,
       attributes.contains(attribute.name) ? " is of another type, it must be " : " is missing, ",
       real ? "f32" : "i64");
}

void refuse_attributes(const calls::Call& call, const ffi::Dictionary& attributes) {
  const auto known = [&](std::string_view name) {
    return std::ranges::find(call.attributes, name, &calls::Attribute::name) !=
           call.attributes.end();
  };
  for (const std::string_view name : attributes) {
    if (!known(name)) {
      fail(ErrorKind::kInvalidArgument, "nspjax.", call.name, " has no attribute ", name);
    }
  }
  fail(ErrorKind::kInvalidArgument, "nspjax.", call.name, " was given an attribute twice");
}

}  // namespace nspjax
