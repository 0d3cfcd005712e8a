// The kernel in plain C++: the reference for the others, and for CPUs without AVX2.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "attention/kernel.h"

namespace nspjax {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

template <DType kDType>
using Element = std::conditional_t<kDType == DType::kF32, float, uint16_t>;

template <DType kDType>
float to_f32(Element<kDType> x) {
  if constexpr (kDType == DType::kBF16) {
    return bf16_to_f32(x);
  } else if constexpr (kDType == DType::kF16) {
    return f16_to_f32(x);
  } else {
    return x;
  }
}

template <DType kDType>
void attend_block(const TileAttention& a, int query, int begin, int end) {
  const auto* keys = reinterpret_cast<const Element<kDType>*>(a.data);
  const auto* values = reinterpret_cast<const Element<kDType>*>(a.data + a.tile->v_offset());
  const float* q = a.queries + query * a.padded_dim;
  float* acc = a.acc + query * a.padded_dim;

  float weights[kBlockTokens];
  float block_max = kMinusInfinity;
  for (int t = begin; t < end; ++t) {
    float score = 0.0f;
    for (int d = 0; d < a.head_dim; ++d) score += q[d] * to_f32<kDType>(keys[t * a.head_dim + d]);
    if (a.softcap > 0.0f) score = a.softcap * std::tanh(score / a.softcap);
    weights[t - begin] = score;
    block_max = std::max(block_max, score);
  }
  const float new_max = std::max(a.max[query], block_max);
  const float correction = std::exp(a.max[query] - new_max);
  a.max[query] = new_max;
  a.sum[query] *= correction;
  for (int d = 0; d < a.head_dim; ++d) acc[d] *= correction;
  for (int t = begin; t < end; ++t) {
    const float weight = std::exp(weights[t - begin] - new_max);
    a.sum[query] += weight;
    for (int d = 0; d < a.head_dim; ++d) {
      acc[d] += weight * to_f32<kDType>(values[t * a.head_dim + d]);
    }
  }
}

template <DType kDType>
void attend_tile(const TileAttention& a) {
  for (int block = a.begin / kBlockTokens * kBlockTokens; block < a.end; block += kBlockTokens) {
    for (int query = 0; query < a.n_queries; ++query) {
      const int begin = std::max({a.begin, block, a.first[query] - a.first_token});
      const int end = std::min({a.end, block + kBlockTokens, a.last[query] - a.first_token});
      if (begin < end) attend_block<kDType>(a, query, begin, end);
    }
  }
}

}  // namespace

KernelSet scalar_kernels() {
  return {"scalar", attend_tile<DType::kF32>, attend_tile<DType::kBF16>, attend_tile<DType::kF16>};
}

}  // namespace nspjax
