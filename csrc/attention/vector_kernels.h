// The kernels of one instruction set.
#pragma once

#include "attention/codes.h"
#include "attention/elements.h"
#include "attention/scores.h"
#include "attention/values.h"
#include "attention/vector_kernel.h"

namespace nspjax {

template <class Simd, DType kType>
constexpr TypeKernels vector_kernels_of() {
  if constexpr (is_quantised(kType)) {
    constexpr int kBits = row_of(kType).bits;
    return VectorKernel<Simd, CodeScores<Simd, kBits>, CodeValues<Simd, kBits>>::all();
  } else {
    using Elements = FloatElements<Simd, kType>;
    return VectorKernel<Simd, FloatScores<Simd, Elements>, FloatValues<Simd, Elements>>::all();
  }
}

template <class Simd>
constexpr KernelSet vector_kernels(std::string_view name) {
  return kernels_of_all_types(name, []<DType kType>() { return vector_kernels_of<Simd, kType>(); });
}

}  // namespace nspjax
