// The table of element types: of what is appended to a cache, and of what full tiles are stored in.
//
// A type is an enumerator and a row. What its elements stand for is in numbers.h, what the vector
// kernels make of them in attention/elements.h, the card's kernel in hls_kernels/attention: where
// one of these is missing, the engine does not compile. Python reads the table (nspjax/dtypes.py).
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string_view>

namespace nspjax {

enum class DType : uint8_t { kF32, kBF16, kF16, kInt8, kInt4 };

struct DTypeRow {
  DType dtype;
  std::string_view name;   // in the engine and in files; in MLIR, of those that are appended
  std::string_view numpy;  // in NumPy with ml_dtypes, in JAX, on the command line
  int bits;
  bool is_code;   // an element is offset + scale * code, a whole number in two's complement
  bool appended;  // a cache can be of this type, and its tails are; the others are stored only
};

inline constexpr DTypeRow kDTypes[] = {
    {DType::kF32, "f32", "float32", 32, false, true},
    {DType::kBF16, "bf16", "bfloat16", 16, false, true},
    {DType::kF16, "f16", "float16", 16, false, true},
    {DType::kInt8, "int8", "int8", 8, true, false},
    {DType::kInt4, "int4", "int4", 4, true, false},
};
inline constexpr size_t kDTypeCount = std::size(kDTypes);

constexpr const DTypeRow& row_of(DType dtype) { return kDTypes[static_cast<size_t>(dtype)]; }

constexpr std::string_view dtype_name(DType dtype) { return row_of(dtype).name; }
constexpr int64_t element_bits(DType dtype) { return row_of(dtype).bits; }
constexpr bool is_quantised(DType dtype) { return row_of(dtype).is_code; }
// Of an appended one.
constexpr int64_t size_bytes(DType dtype) { return element_bits(dtype) / 8; }

// Throw InvalidArgument: a type that can be appended, and any.
DType parse_dtype(std::string_view name);
DType parse_kv_dtype(std::string_view name);

// Calls fn.operator()<dtype>() for the one that is given.
template <size_t kIndex = 0, class Fn>
decltype(auto) with_dtype(DType dtype, const Fn& fn) {
  if constexpr (kIndex + 1 < kDTypeCount) {
    if (dtype != kDTypes[kIndex].dtype) return with_dtype<kIndex + 1>(dtype, fn);
  }
  return fn.template operator()<kDTypes[kIndex].dtype>();
}

namespace dtype_table {

constexpr bool is_sound() {
  for (size_t i = 0; i < kDTypeCount; ++i) {
    const DTypeRow& row = kDTypes[i];
    if (static_cast<size_t>(row.dtype) != i) return false;
    // a word holds a power of two of elements in pairs, an appended one travels as 2 or 4 bytes
    if (row.bits != 32 && row.bits != 16 && row.bits != 8 && row.bits != 4) return false;
    if (row.appended && (row.is_code || row.bits < 16)) return false;
  }
  return true;
}
static_assert(is_sound());

}  // namespace dtype_table

}  // namespace nspjax
