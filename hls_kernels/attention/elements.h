// Stored words to float32. A word is cut into parts of two elements, one of float32.
//
// Part p of a word is its bits from p * element bits up: the first element there, the second 16
// bits further (csrc/format/head_tile.h).
#pragma once

#include "structure.h"

namespace nspjax::kernel {

inline int elements_per_part(StoredType type) { return type == kF32 ? 1 : 2; }
inline int parts_per_word(StoredType type) {
  return elements_per_word(type) == 4 ? 2 : elements_per_word(type) == 8 ? 4 : 1;
}

// Vitis HLS knows unions for this, not std::bit_cast; so does every compiler for C simulation.
inline float as_float(std::uint32_t bits) {
  union {
    std::uint32_t bits;
    float value;
  } word;
  word.bits = bits;
  return word.value;
}
inline std::uint32_t as_bits(float value) {
  union {
    float value;
    std::uint32_t bits;
  } word;
  word.value = value;
  return word.bits;
}

// half: 16 bits. All numbers stay what they are, subnormal ones too: those are whole numbers of
// 2^-24, of which a float has the exponent 24 less.
inline float f16_to_float(std::uint32_t half) {
  const std::uint32_t magnitude = half & 0x7fffu;
  const std::uint32_t normal = (magnitude << 13) + 0x38000000u;
  const std::uint32_t special = (magnitude << 13) | 0x7f800000u;
  const std::uint32_t whole = as_bits(static_cast<float>(static_cast<std::int32_t>(magnitude)));
  const std::uint32_t subnormal = magnitude == 0 ? 0u : whole - (24u << 23);
  const std::uint32_t bits = magnitude >= 0x7c00u   ? special
                             : magnitude >= 0x0400u ? normal
                                                    : subnormal;
  return as_float(bits | (half & 0x8000u) << 16);
}

// The lowest bits of a word, two's complement.
inline float code_to_float(std::uint32_t word, int bits) {
  return static_cast<float>(static_cast<std::int32_t>(word << (32 - bits)) >> (32 - bits));
}

// An element is offset + scale * code; the two elements of a part have their own.
struct PartScale {
  float scale[2];
  float offset[2];
};

// scale: bf16 in the lower half of a word, offset: bf16 in the upper half
inline PartScale part_scale(std::uint32_t first, std::uint32_t second) {
  return {{as_float(first << 16), as_float(second << 16)},
          {as_float(first & 0xffff0000u), as_float(second & 0xffff0000u)}};
}

// The two elements of 16 words' parts; 0 for a second one that is not there.
struct Part {
  Lanes element[2];
};

inline Part decode_codes(const Beat& words, int bits, int part, const PartScale& scale) {
  Part to;
  for (int lane = 0; lane < kBeatWords; ++lane) {
#pragma HLS unroll
    const std::uint32_t codes = words[lane] >> (part * bits);
    to.element[0][lane] = scale.offset[0] + scale.scale[0] * code_to_float(codes, bits);
    to.element[1][lane] = scale.offset[1] + scale.scale[1] * code_to_float(codes >> 16, bits);
  }
  return to;
}

inline Part decode_halves(const Beat& words) {
  Part to;
  for (int lane = 0; lane < kBeatWords; ++lane) {
#pragma HLS unroll
    to.element[0][lane] = f16_to_float(words[lane] & 0xffffu);
    to.element[1][lane] = f16_to_float(words[lane] >> 16);
  }
  return to;
}

inline Part decode_bf16(const Beat& words) {
  Part to;
  for (int lane = 0; lane < kBeatWords; ++lane) {
#pragma HLS unroll
    to.element[0][lane] = as_float(words[lane] << 16);
    to.element[1][lane] = as_float(words[lane] & 0xffff0000u);
  }
  return to;
}

inline Part decode_floats(const Beat& words) {
  Part to;
  for (int lane = 0; lane < kBeatWords; ++lane) {
#pragma HLS unroll
    to.element[0][lane] = as_float(words[lane]);
    to.element[1][lane] = 0.0f;
  }
  return to;
}

inline Part decode(StoredType type, const Beat& words, int part, const PartScale& scale) {
  switch (type) {
    case kF32:
      return decode_floats(words);
    case kBF16:
      return decode_bf16(words);
    case kF16:
      return decode_halves(words);
    case kInt8:
    case kInt4:  // one set of multipliers for both
      break;
  }
  return decode_codes(words, type == kInt8 ? 8 : 4, part, scale);
}

}  // namespace nspjax::kernel
