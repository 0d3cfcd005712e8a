// The element types of a cache, and their conversion to float32.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

#include "base/error.h"

namespace nspjax {

enum class DType { kF32, kBF16, kF16 };

constexpr int64_t size_bytes(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

constexpr std::string_view dtype_name(DType dtype) {
  return dtype == DType::kF32 ? "f32" : dtype == DType::kBF16 ? "bf16" : "f16";
}

inline DType parse_dtype(std::string_view name) {
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    if (name == dtype_name(dtype)) return dtype;
  }
  fail(ErrorKind::kInvalidArgument, "a KV cache cannot be \"", name, "\": use f32, bf16 or f16");
}

// How a tile keeps K and V: as they were appended, or in fewer bits.
enum class KVType { kF32, kBF16, kF16, kInt8, kInt4 };

constexpr KVType kv_type_of(DType dtype) { return static_cast<KVType>(dtype); }

inline KVType parse_kv_type(std::string_view name) { return kv_type_of(parse_dtype(name)); }
constexpr std::string_view kv_type_name(KVType type) {
  return dtype_name(static_cast<DType>(type));
}

inline float bf16_to_f32(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

inline float f16_to_f32(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent_mantissa = bits & 0x7fffu;
  if (exponent_mantissa >= 0x7c00u) {  // infinity, NaN
    return std::bit_cast<float>(sign | 0x7f800000u | ((exponent_mantissa & 0x3ffu) << 13));
  }
  if (exponent_mantissa < 0x400u) {  // zero, subnormal: a multiple of 2^-24
    const float magnitude = static_cast<float>(exponent_mantissa) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent_mantissa << 13) + 0x38000000u));
}

// to[i] = scale * from[begin + i] for n elements of an array of `dtype`.
inline void scale_to_f32(const void* from, DType dtype, int64_t begin, int64_t n, float scale,
                         float* to) {
  const auto copy = [&](const auto* elements, auto as_f32) {
    for (int64_t i = 0; i < n; ++i) to[i] = scale * as_f32(elements[begin + i]);
  };
  switch (dtype) {
    case DType::kF32:
      return copy(static_cast<const float*>(from), [](float x) { return x; });
    case DType::kBF16:
      return copy(static_cast<const uint16_t*>(from), bf16_to_f32);
    case DType::kF16:
      return copy(static_cast<const uint16_t*>(from), f16_to_f32);
  }
}

}  // namespace nspjax
