// The kernel in plain C++: the reference for the others, and for CPUs without AVX2. All stored
// types in float32, with the loops over lanes and channels left to the compiler.
#include <algorithm>
#include <cmath>

#include "attention/kernel.h"
#include "format/numbers.h"

namespace nspjax {
namespace {

// Element e of a word, without its scale.
template <DType kType>
float element(uint32_t word, int e) {
  return Element<kType>::decode(word >> element_shift(element_bits(kType), e));
}

// Of as many tokens as lie side by side in K.
constexpr int kBlock = static_cast<int>(kMostLanes);

template <DType kType>
class ScalarKernel {
 public:
  static constexpr TypeKernels all() { return {run, weigh, add_values}; }

  static void run(const TileAttention& a) { ScalarKernel(a).attend(); }

  static void weigh(const TileAttention& a, float* weights, int stride) {
    for (int query = 0; query < a.n_queries; ++query) {
      float* to = weights + int64_t{query} * stride;
      std::fill_n(to, a.end - a.begin, 0.0f);
      ScalarKernel(a).weigh_tokens(query, to);
    }
  }

  static void add_values(const WeightedValues& a) {
    for (int query = 0; query < a.n_queries; ++query) {
      for (int t = 0; t < a.n_tokens; ++t) {
        add_value(reinterpret_cast<const uint32_t*>(a.words),
                  reinterpret_cast<const uint32_t*>(a.scales), a.head_dim, t,
                  a.weights[int64_t{query} * a.stride + t], a.acc + int64_t{query} * a.padded_dim);
      }
    }
  }

 private:
  static constexpr int kPerWord = 32 / element_bits(kType);
  static constexpr bool kScaled = is_quantised(kType);

  explicit ScalarKernel(const TileAttention& a)
      : a_(a),
        k_(reinterpret_cast<const uint32_t*>(a.data)),
        v_(k_ + a.tile->v_offset() / 4),
        k_scales_(k_ + a.tile->k_scales_offset() / 4),
        v_scales_(k_ + a.tile->v_scales_offset() / 4),
        lanes_(static_cast<int>(a.tile->lanes())),
        channel_words_(static_cast<int>(a.tile->channel_words())) {}

  void attend() const {
    const int first_block = a_.begin / kBlock * kBlock;
    for (int block = first_block; block < a_.end; block += kBlock) {
      for (int query = 0; query < a_.n_queries; ++query) {
        const int begin = std::max({a_.begin, block, a_.first[query] - a_.first_token});
        const int end = std::min({a_.end, block + kBlock, a_.last[query] - a_.first_token});
        if (begin < end) attend_block(query, block, begin, end);
      }
    }
  }

  // to [end - begin], 0
  void weigh_tokens(int query, float* to) const {
    float weights[kBlock];
    const int first = std::max(a_.begin, a_.first[query] - a_.first_token);
    const int last = std::min(a_.end, a_.last[query] - a_.first_token);
    if (first >= last) return;
    float max = kLowestMax;
    for (int block = first / kBlock * kBlock; block < last; block += kBlock) {
      const int begin = std::max(first, block), end = std::min(last, block + kBlock);
      max = std::max(max, block_scores(query, block, begin, end, weights));
      std::copy(weights + begin - block, weights + end - block, to + begin - a_.begin);
    }
    a_.max[query] = max;
    a_.sum[query] = 0.0f;
    for (int t = first; t < last; ++t) {
      float& weight = to[t - a_.begin];
      weight = std::exp(weight - max);
      a_.sum[query] += weight;
    }
  }

  // weights [kBlock]: the scores of tokens [begin, end); returns the largest number among them.
  float block_scores(int query, int block, int begin, int end, float* weights) const {
    scores(a_.queries + int64_t{query} * a_.padded_dim, block, weights);
    float block_max = kLowestMax;
    for (int t = begin - block; t < end - block; ++t) {
      weights[t] *= a_.scale;
      if (a_.softcap > 0.0f) weights[t] = a_.softcap * std::tanh(weights[t] / a_.softcap);
      block_max = std::max(block_max, weights[t]);  // passes NaN over
    }
    return block_max;
  }

  void attend_block(int query, int block, int begin, int end) const {
    float* acc = a_.acc + int64_t{query} * a_.padded_dim;
    float weights[kBlock];
    const float block_max = block_scores(query, block, begin, end, weights);
    const float new_max = std::max(a_.max[query], block_max);
    const float correction = std::exp(a_.max[query] - new_max);
    a_.max[query] = new_max;
    a_.sum[query] *= correction;
    for (int d = 0; d < a_.head_dim; ++d) acc[d] *= correction;
    for (int t = begin; t < end; ++t) {
      const float weight = std::exp(weights[t - block] - new_max);
      a_.sum[query] += weight;
      add_value(v_, v_scales_, a_.head_dim, t, weight, acc);
    }
  }

  // q . k of the tokens that lie side by side from `token`: those of a block.
  void scores(const float* q, int token, float* to) const {
    const uint32_t* words = k_ + int64_t{token} * channel_words_;
    float sums[kBlock] = {};
    for (int d = 0; d < a_.head_dim; ++d) {
      const uint32_t* word = words + int64_t{d / kPerWord} * lanes_;
      const float x = kScaled ? q[d] * scale(k_scales_[d]) : q[d];
      const float added = kScaled ? q[d] * offset(k_scales_[d]) : 0.0f;
      for (int lane = 0; lane < lanes_; ++lane) {
        sums[lane] += x * element<kType>(word[lane], d % kPerWord);
        if (kScaled) sums[lane] += added;
      }
    }
    std::copy_n(sums, lanes_, to);
  }

  static void add_value(const uint32_t* v, const uint32_t* scales, int head_dim, int token,
                        float weight, float* acc) {
    const uint32_t* words = v + int64_t{token / kPerWord} * head_dim;
    const float x = kScaled ? weight * scale(scales[token]) : weight;
    const float added = kScaled ? weight * offset(scales[token]) : 0.0f;
    for (int d = 0; d < head_dim; ++d) {
      acc[d] += x * element<kType>(words[d], token % kPerWord);
      if (kScaled) acc[d] += added;
    }
  }

  static float scale(uint32_t word) { return bf16_to_f32(static_cast<uint16_t>(word)); }
  static float offset(uint32_t word) { return bf16_to_f32(static_cast<uint16_t>(word >> 16)); }

  const TileAttention& a_;
  const uint32_t* k_;
  const uint32_t* v_;
  const uint32_t* k_scales_;
  const uint32_t* v_scales_;
  int lanes_;
  int channel_words_;
};

}  // namespace

KernelSet scalar_kernels() {
  return kernels_of_all_types("scalar", []<DType kType>() { return ScalarKernel<kType>::all(); });
}

}  // namespace nspjax
