// Log-sum-exp merge of partial attention results (max, sum, acc).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace nspjax {

inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// into += from. A partial that saw no token (max -inf, see kLowestMax) adds exactly nothing.
inline void merge_partial(float& into_max, float& into_sum, float* into_acc, float from_max,
                          float from_sum, const float* from_acc, int64_t head_dim) {
  if (from_max == kMinusInfinity) return;
  const float max = std::max(into_max, from_max);
  const float keep = std::exp(into_max - max);
  const float add = std::exp(from_max - max);
  into_max = max;
  into_sum = into_sum * keep + from_sum * add;
  for (int64_t d = 0; d < head_dim; ++d) into_acc[d] = into_acc[d] * keep + from_acc[d] * add;
}

// acc becomes the attention output; returns its log-sum-exp. No token seen: 0 and -inf. All scores
// -inf: NaN, as 0 / 0 is, and -inf, which merges with other tokens as a weight of 0 does, or NaN if
// a channel was NaN before.
inline float normalise_partial(float max, float sum, float* acc, int64_t head_dim) {
  if (max == kMinusInfinity) return kMinusInfinity;
  float lse = max + std::log(sum);
  for (int64_t d = 0; sum == 0.0f && d < head_dim; ++d) lse += acc[d];
  const float inverse = 1.0f / sum;
  for (int64_t d = 0; d < head_dim; ++d) acc[d] *= inverse;
  return lse;
}

}  // namespace nspjax
