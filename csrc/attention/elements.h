// Words of a float type to vectors of float32; for the files of an instruction set, see
// vector_kernel.h. All finite numbers stay what they are, subnormal ones too.
#pragma once

#include "format/dtype.h"

namespace nspjax {

// Every float type needs one: kPerWord vectors of a word's elements.
template <class Simd, DType kType>
struct FloatElements;

template <class Simd>
struct FloatElements<Simd, DType::kF32> {
  static constexpr int kPerWord = 1;
  static void widen(typename Simd::Words words, typename Simd::Vector* to) {
    to[0] = Simd::as_floats(words);
  }
};

template <class Simd>
struct FloatElements<Simd, DType::kBF16> {
  static constexpr int kPerWord = 2;
  static void widen(typename Simd::Words words, typename Simd::Vector* to) {
    to[0] = Simd::lower_bf16(words);
    to[1] = Simd::upper_bf16(words);
  }
};

template <class Simd>
struct FloatElements<Simd, DType::kF16> {
  static constexpr int kPerWord = 2;
  static void widen(typename Simd::Words words, typename Simd::Vector* to) {
    to[0] = Simd::lower_f16(words);
    to[1] = Simd::upper_f16(words);
  }
};

}  // namespace nspjax
