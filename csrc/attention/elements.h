// Words of float32, bf16 and f16 to vectors of float32; for the files of an instruction set, see
// vector_kernel.h. All finite numbers stay what they are, subnormal ones too.
#pragma once

namespace nspjax {

template <class Simd>
struct F32Elements {
  static constexpr int kPerWord = 1;
  static void widen(typename Simd::Words words, typename Simd::Vector* to) {
    to[0] = Simd::as_floats(words);
  }
};

template <class Simd>
struct BF16Elements {
  static constexpr int kPerWord = 2;
  static void widen(typename Simd::Words words, typename Simd::Vector* to) {
    to[0] = Simd::lower_bf16(words);
    to[1] = Simd::upper_bf16(words);
  }
};

template <class Simd>
struct F16Elements {
  static constexpr int kPerWord = 2;
  static void widen(typename Simd::Words words, typename Simd::Vector* to) {
    to[0] = Simd::lower_f16(words);
    to[1] = Simd::upper_f16(words);
  }
};

}  // namespace nspjax
