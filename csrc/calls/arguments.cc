#include "calls/arguments.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace nspjax::calls {
namespace {

bool is_size(char axis) { return axis >= '0' && axis <= '9'; }

// "[B = 2, T, 2, 32]": what is known of each axis.
std::string wanted_text(std::string_view axes, const Sizes& sizes) {
  std::string text;
  for (const char axis : axes) {
    text += concat(text.empty() ? "" : ", ", axis);
    if (!is_size(axis) && sizes[axis] != Sizes::kUnknown) text += concat(" = ", sizes[axis]);
  }
  return concat("[", text, "]");
}

// An axis that is seen first says how long it is.
bool fits(std::span<const int64_t> got, std::string_view axes, Sizes& sizes) {
  if (got.size() != axes.size()) return false;
  for (size_t i = 0; i < axes.size(); ++i) {
    if (is_size(axes[i])) {
      if (got[i] != axes[i] - '0') return false;
      continue;
    }
    int64_t& size = sizes[axes[i]];
    if (size == Sizes::kUnknown) size = got[i];
    if (size != got[i]) return false;
  }
  return true;
}

bool is_float(std::string_view type) {
  constexpr std::array kFloats = {DType::kF32, DType::kBF16, DType::kF16};
  return std::ranges::find(kFloats, type, dtype_name) != kFloats.end();
}

void check_type(const Call& call, const Parameter& wanted, const Array& got,
                std::string_view cache_type) {
  const auto refuse = [&](const auto&... why) {
    fail(ErrorKind::kInvalidArgument, "nspjax.", call.name, ": ", wanted.name, " is ", got.type,
         ", ", why...);
  };
  if (wanted.type == "bytes") {
    if (got.element_bytes == 0) refuse("it must have elements of whole bytes");
  } else if (wanted.type == "float") {
    if (!is_float(got.type)) refuse("it must be f32, bf16 or f16");
  } else if (wanted.type == "cache") {
    if (got.type != cache_type) refuse("but the cache is ", cache_type);
  } else if (got.type != wanted.type) {
    refuse("it must be ", wanted.type);
  }
}

bool is_transposed(const Call& call, const Arguments& given) {
  return given.attributes[call.attributes.index("transposed")].integer != 0;
}

}  // namespace

std::string shape_text(std::span<const int64_t> sizes) {
  std::string text;
  for (const int64_t size : sizes) text += concat(text.empty() ? "" : ", ", size);
  return concat("[", text, "]");
}

Sizes::Sizes(std::initializer_list<Known> known) {
  sizes_.fill(kUnknown);
  for (const auto& [letter, size] : known) (*this)[letter] = size;
}

Sizes check(const Call& call, const Arguments& given, std::initializer_list<Sizes::Known> known,
            std::string_view cache_type) {
  Sizes sizes(known);
  const auto check_all = [&](const Named<Parameter>& wanted, std::span<const Array> got) {
    for (size_t i = 0; i < wanted.size(); ++i) {
      if (wanted[i].kind != Kind::kArray) continue;
      check_type(call, wanted[i], got[i], cache_type);
      if (wanted[i].axes == "*") continue;
      const bool other = !wanted[i].transposed_axes.empty() && is_transposed(call, given);
      const std::string_view axes = other ? wanted[i].transposed_axes : wanted[i].axes;
      if (fits(got[i].sizes, axes, sizes)) continue;
      fail(ErrorKind::kInvalidArgument, "nspjax.", call.name, ": ", wanted[i].name, " is ",
           shape_text(got[i].sizes), ", it must be ", wanted_text(axes, sizes));
    }
  };
  check_all(call.operands, given.operands);
  check_all(call.results, given.results);
  return sizes;
}

}  // namespace nspjax::calls
