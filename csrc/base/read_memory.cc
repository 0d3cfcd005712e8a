#include "base/read_memory.h"

#include <cstring>

namespace nspjax {
namespace {

using Vector16 = uint64_t __attribute__((vector_size(16)));
using Vector32 = uint64_t __attribute__((vector_size(32)));
using Vector64 = uint64_t __attribute__((vector_size(64)));

// 8 vectors in flight, as the compiler makes them for the caller's target.
template <class Vector>
[[gnu::always_inline]] inline uint64_t sum_vectors(const std::byte* p, int64_t bytes) {
  constexpr int kBytes = sizeof(Vector), kAccumulators = 8, kPrefetchBytes = 4096;
  Vector sums[kAccumulators] = {};
  for (int64_t at = 0; at < bytes; at += kAccumulators * kBytes) {
    for (int i = 0; i < kAccumulators; ++i) {
      const std::byte* from = p + at + i * kBytes;
      if (i * kBytes % 64 == 0) __builtin_prefetch(from + kPrefetchBytes);
      Vector x;
      std::memcpy(&x, from, kBytes);
      sums[i] += x;
    }
  }
  uint64_t sum = 0;
  for (const Vector& x : sums) {
    for (int i = 0; i < kBytes / 8; ++i) sum += x[i];
  }
  return sum;
}

#ifdef NSPJAX_X86
[[gnu::target("avx512f")]] uint64_t sum_avx512(const std::byte* p, int64_t bytes) {
  return sum_vectors<Vector64>(p, bytes);
}
[[gnu::target("avx2")]] uint64_t sum_avx2(const std::byte* p, int64_t bytes) {
  return sum_vectors<Vector32>(p, bytes);
}
#endif

}  // namespace

uint64_t sum_memory(const std::byte* p, int64_t bytes) {
#ifdef NSPJAX_X86
  if (__builtin_cpu_supports("avx512f")) return sum_avx512(p, bytes);
  if (__builtin_cpu_supports("avx2")) return sum_avx2(p, bytes);
#endif
  return sum_vectors<Vector16>(p, bytes);
}

}  // namespace nspjax
