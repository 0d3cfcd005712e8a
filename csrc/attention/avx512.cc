// The vector kernels with AVX-512 (F, BW, VL, DQ).
#include "attention/avx512_simd.h"
#include "attention/vector_kernels.h"

namespace nspjax {

KernelSet avx512_kernels() {
  static constexpr KernelSet kKernels = vector_kernels<Avx512>("avx512");
  return kKernels;
}

}  // namespace nspjax
