// What the elements of each type stand for: their bits from and to float32.
#pragma once

#include <bit>
#include <cstdint>

#include "format/dtype.h"

namespace nspjax {

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

// How a type's elements are numbers. Element<kDType> has
//   decode(bits)  the number; only as many of the lowest bits count as the type has
//   encode(x)     the nearest element's bits, ties to even, 0 above them
// A code's number is the whole one, without scale and offset.
template <DType kDType>
struct Element {
  static_assert(is_quantised(kDType), "a float type needs its own Element");
  static constexpr int kBits = row_of(kDType).bits;
  static constexpr float kLeast = -static_cast<float>(1 << (kBits - 1)), kMost = -kLeast - 1.0f;

  static float decode(uint32_t bits) {
    return static_cast<float>(static_cast<int32_t>(bits << (32 - kBits)) >> (32 - kBits));
  }
  // NaN is 0; what is beyond the largest code becomes it.
  static uint32_t encode(float x) {
    x = x == x ? x : 0.0f;
    x = x > kLeast ? x : kLeast;
    x = x < kMost ? x : kMost;
    // at 1.5 * 2^23 floats are whole numbers: the addition rounds to the nearest
    return std::bit_cast<uint32_t>(x + 0x1.8p23f) & ((1u << kBits) - 1);
  }
};

template <>
struct Element<DType::kF32> {
  static float decode(uint32_t bits) { return std::bit_cast<float>(bits); }
  static uint32_t encode(float x) { return std::bit_cast<uint32_t>(x); }
};

template <>
struct Element<DType::kBF16> {
  static float decode(uint32_t bits) { return std::bit_cast<float>(bits << 16); }
  static uint32_t encode(float x) { return f32_to_bf16(x); }
};

template <>
struct Element<DType::kF16> {
  static float decode(uint32_t bits) { return f16_to_f32(static_cast<uint16_t>(bits)); }
  static uint32_t encode(float x) { return f32_to_f16(x); }
};

// to[i] = from[begin + i] for n elements of an array of an appended dtype.
void to_f32(const void* from, DType dtype, int64_t begin, int64_t n, float* to);

}  // namespace nspjax
