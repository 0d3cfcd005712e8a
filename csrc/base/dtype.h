// The element types of a cache, as given and as stored, and their conversion from and to float32.
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

// How K and V are stored: as they come, or quantised once a tile is full.
enum class KVType { kF32, kBF16, kF16, kInt8, kInt4 };

inline constexpr KVType kKVTypes[] = {KVType::kF32, KVType::kBF16, KVType::kF16, KVType::kInt8,
                                      KVType::kInt4};

constexpr KVType kv_type_of(DType dtype) {
  return dtype == DType::kF32 ? KVType::kF32 : dtype == DType::kBF16 ? KVType::kBF16 : KVType::kF16;
}

constexpr bool is_quantised(KVType type) { return type == KVType::kInt8 || type == KVType::kInt4; }

constexpr int64_t element_bits(KVType type) {
  return type == KVType::kF32 ? 32 : type == KVType::kInt8 ? 8 : type == KVType::kInt4 ? 4 : 16;
}

constexpr std::string_view kv_type_name(KVType type) {
  switch (type) {
    case KVType::kF32:
      return "f32";
    case KVType::kBF16:
      return "bf16";
    case KVType::kF16:
      return "f16";
    case KVType::kInt8:
      return "int8";
    case KVType::kInt4:
      return "int4";
  }
  return "";
}

inline KVType parse_kv_type(std::string_view name) {
  for (KVType type : kKVTypes) {
    if (name == kv_type_name(type)) return type;
  }
  fail(ErrorKind::kInvalidArgument, "KV cannot be stored as \"", name,
       "\": use f32, bf16, f16, int8 or int4");
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

// To the nearest, ties to even.
inline uint16_t f32_to_bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  if (x != x) return static_cast<uint16_t>(bits >> 16 | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline uint16_t f32_to_f16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);   // NaN
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and above
  if (magnitude < 0x38800000u) {  // subnormal: float's own rounding does it, at 2^-24
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

// to[i] = from[begin + i] for n elements of an array of `dtype`.
inline void to_f32(const void* from, DType dtype, int64_t begin, int64_t n, float* to) {
  const auto copy = [&](const auto* elements, auto as_f32) {
    for (int64_t i = 0; i < n; ++i) to[i] = as_f32(elements[begin + i]);
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
