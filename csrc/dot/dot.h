// The product of some rows with a matrix of bf16 weights: what the host computes between two
// attentions. With few rows it is bound by reading the weights.
#pragma once

#include <cstdint>
#include <functional>

namespace nspjax {

// out [m, n] = x [m, k] · w, float32 sums of bf16's products. w is [k, n], or [n, k] if transposed.
// An element is summed in the same order whatever m and the number of threads are.
struct Dot {
  const uint16_t* x;
  const uint16_t* w;
  float* out;
  int64_t m, k, n;
  bool transposed;
};

// k and n are multiples of this.
inline constexpr int64_t kDotMultiple = 32;

// Whether this CPU can: AVX512-BF16.
bool can_dot();

// Has a function run on another thread, whenever that is free.
using Schedule = std::function<void(std::function<void()>)>;

// Returns when `out` is there; the calling thread takes part, n_threads - 1 others may.
void dot(const Dot& dot, int n_threads, const Schedule& schedule);

}  // namespace nspjax
