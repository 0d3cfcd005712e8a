// Stand-in for Vitis HLS's header of this name, for C simulation: what our kernels use of it.
#pragma once

#include <cstddef>

namespace hls {

template <typename T, std::size_t N>
class alignas(sizeof(T) * N) vector {
  static_assert((N & (N - 1)) == 0, "sizes of which the alignment is the size");

 public:
  vector() = default;
  vector(const T& value) {
    for (T& element : elements_) element = value;
  }
  T& operator[](std::size_t i) { return elements_[i]; }
  const T& operator[](std::size_t i) const { return elements_[i]; }

 private:
  T elements_[N] = {};
};

}  // namespace hls
