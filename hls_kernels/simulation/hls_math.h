// Stand-in for Vitis HLS's header of this name, for C simulation: what our kernels use of it.
#pragma once

#include <cmath>

namespace hls {

inline float exp(float x) { return std::exp(x); }
inline float fabs(float x) { return std::fabs(x); }

}  // namespace hls
