// The kernels of one instruction set.
#pragma once

#include "attention/codes.h"
#include "attention/elements.h"
#include "attention/scores.h"
#include "attention/values.h"
#include "attention/vector_kernel.h"

namespace nspjax {

template <class Simd, class Elements>
constexpr TileKernel float_kernel() {
  return VectorKernel<Simd, FloatScores<Simd, Elements>, FloatValues<Simd, Elements>>::attend_tile;
}

template <class Simd, int kBits>
constexpr TileKernel code_kernel() {
  return VectorKernel<Simd, CodeScores<Simd, kBits>, CodeValues<Simd, kBits>>::attend_tile;
}

template <class Simd>
constexpr KernelSet vector_kernels(std::string_view name) {
  return {name,
          float_kernel<Simd, F32Elements<Simd>>(),
          float_kernel<Simd, BF16Elements<Simd>>(),
          float_kernel<Simd, F16Elements<Simd>>(),
          code_kernel<Simd, 8>(),
          code_kernel<Simd, 4>()};
}

}  // namespace nspjax
