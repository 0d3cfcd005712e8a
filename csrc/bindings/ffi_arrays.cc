#include "bindings/ffi_arrays.h"

#include <algorithm>

#include "base/error.h"

namespace nspjax {
namespace {

struct ElementType {
  std::string_view name;  // as MLIR spells it
  int64_t bytes;          // 0: XLA may pack several into one
};

ElementType element_type(ffi::DataType type) {
  switch (type) {
    case ffi::PRED:
      return {"i1", 1};
    case ffi::S1:
      return {"i1", 0};
    case ffi::S2:
      return {"i2", 0};
    case ffi::S4:
      return {"i4", 0};
    case ffi::S8:
      return {"i8", 1};
    case ffi::S16:
      return {"i16", 2};
    case ffi::S32:
      return {"i32", 4};
    case ffi::S64:
      return {"i64", 8};
    case ffi::U1:
      return {"ui1", 0};
    case ffi::U2:
      return {"ui2", 0};
    case ffi::U4:
      return {"ui4", 0};
    case ffi::U8:
      return {"ui8", 1};
    case ffi::U16:
      return {"ui16", 2};
    case ffi::U32:
      return {"ui32", 4};
    case ffi::U64:
      return {"ui64", 8};
    case ffi::F16:
      return {"f16", 2};
    case ffi::F32:
      return {"f32", 4};
    case ffi::F64:
      return {"f64", 8};
    case ffi::BF16:
      return {"bf16", 2};
    case ffi::C64:
      return {"complex<f32>", 8};
    case ffi::C128:
      return {"complex<f64>", 16};
    case ffi::F4E2M1FN:
      return {"f4E2M1FN", 0};
    case ffi::DataType::INVALID:
    case ffi::TOKEN:
      return {"none", 0};
    default:
      return {"f8", 1};
  }
}

// What XLA's classes keep to those derived of them.
struct Operands : ffi::RemainingArgs {
  explicit Operands(const ffi::RemainingArgs& all) : ffi::RemainingArgs(all) {}
  using ffi::RemainingArgs::args;
};
struct Results : ffi::RemainingRets {
  explicit Results(const ffi::RemainingRets& all) : ffi::RemainingRets(all) {}
  using ffi::RemainingRets::rets;
};

template <typename T>
bool get(const ffi::Dictionary& attributes, std::string_view name, T& value) {
  const auto found = attributes.get<T>(name);
  if (found.has_value()) value = *found;
  return found.has_value();
}

}  // namespace

Buffers buffers_of(const ffi::RemainingArgs& operands) {
  const XLA_FFI_Args& all = *Operands(operands).args();
  return {all.args, static_cast<size_t>(all.size)};
}

Buffers buffers_of(const ffi::RemainingRets& results) {
  const XLA_FFI_Rets& all = *Results(results).rets();
  return {all.rets, static_cast<size_t>(all.size)};
}

calls::Array array_of(const void* buffer) {
  const auto& given = *static_cast<const XLA_FFI_Buffer*>(buffer);
  const auto [name, bytes] = element_type(ffi::DataType(given.dtype));
  return {.type = name,
          .element_bytes = bytes,
          .sizes = {given.dims, static_cast<size_t>(given.rank)},
          .data = given.data};
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
