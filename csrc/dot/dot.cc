#include "dot/dot.h"

#include <algorithm>

#include "base/error.h"
#include "dot/block.h"

namespace nspjax {

bool can_dot() {
#ifdef NSPJAX_X86
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

void dot(const Dot& dot, [[maybe_unused]] int n_threads,
         [[maybe_unused]] const Schedule& schedule) {
  if (!can_dot()) {
    fail(ErrorKind::kInvalidArgument,
         "nspjax.dot needs a CPU with AVX512-BF16: leave host-dot out of the pipeline");
  }
  if (dot.k % kDotMultiple != 0 || dot.n % kDotMultiple != 0) {
    fail(ErrorKind::kInvalidArgument, "nspjax.dot takes weights whose sizes are multiples of ",
         kDotMultiple, ", got ", dot.k, " to ", dot.n);
  }
#ifdef NSPJAX_X86
  dot_blocks(dot, std::max(n_threads, 1), schedule);
#endif
}

}  // namespace nspjax
