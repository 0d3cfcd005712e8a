// Scores and values of int8 and int4 tiles in whole numbers: codes times 16-bit queries or weights,
// two to a 32-bit lane; for the files of an instruction set, see vector_kernel.h.
//
// An element is offset + scale * code. With K the scale belongs to the channel and goes into the
// query, which is then rounded to 16 bits of its largest; with V it belongs to the token and goes
// into the weight, which is rounded alike. What the offsets add is a number for each query in K,
// and in V one for each query and block. That number is NaN where a query is not finite, and where
// the offset of a token that it sees is NaN.
#pragma once

#include "attention/scores.h"
#include "attention/values.h"

namespace nspjax {

inline constexpr float kMost16 = 32767.0f;
// Less than this times 16 bits is nothing: its inverse would not be finite.
inline constexpr float kLeastScaled = 1e-30f;

// The pairs of codes in a word, each sign-extended to 16 bits.
template <class Simd, int kBits>
struct CodePairs {
  static constexpr int kPairs = 16 / kBits;
  typename Simd::Words pair[kPairs];

  explicit CodePairs(typename Simd::Words words) { split<0>(words); }

 private:
  template <int j>
  void split(typename Simd::Words words) {
    pair[j] =
        Simd::template right_16<16 - kBits>(Simd::template left_16<16 - kBits*(j + 1)>(words));
    if constexpr (j + 1 < kPairs) split<j + 1>(words);
  }
};

template <class Simd, int kBits>
class CodeScores {
  using Vector = typename Simd::Vector;
  static constexpr int kPerWord = 32 / kBits;
  // of which the products fit 32 bits: 2^7 * 2^15 * 2^9
  static constexpr int kMostChannels = 512;

  struct Dot {
    using Sum = typename Simd::Words;
    using Query = int32_t;
    static constexpr int kQueryElements = kPerWord / 2;
    using Parts = CodePairs<Simd, kBits>;
    static Sum zero() { return Simd::zero_words(); }
    static Parts split(Sum words) { return Parts(words); }
    static Sum add(Sum sum, const Parts& parts, const int32_t* q) {
      for (int j = 0; j < Parts::kPairs; ++j) {
        sum = Simd::add_pair_products(sum, parts.pair[j], Simd::set_words(q[j]));
      }
      return sum;
    }
  };

  // A prepared query: what a unit stands for, what the offsets add, then the 16-bit channels.
  static constexpr int kHeader = 16;

 public:
  static int prepared_words(const TileView& tile) { return kHeader + tile.padded_dim / 2; }

  static void prepare(const TileAttention& a, const TileView& tile, int query, int32_t* into) {
    const float* q = a.queries + int64_t{query} * tile.padded_dim;
    Vector most = Simd::zero(), offset = Simd::zero();
    for (int d = 0; d < tile.head_dim; d += Simd::kWidth) {
      const auto scales = load_scales(tile, d);
      const Vector x = Simd::load(q + d);
      const Vector scaled = Simd::multiply(x, Simd::lower_bf16(scales));
      most = Simd::max(Simd::absolute(scaled), most);
      offset = Simd::multiply_add(x, Simd::upper_bf16(scales), offset);
      offset = Simd::multiply_add(scaled, Simd::zero(), offset);
    }
    const float largest = Simd::max_of(most);
    const Vector units = Simd::set(largest > kLeastScaled ? kMost16 / largest : 0.0f);
    auto* header = reinterpret_cast<float*>(into);
    header[0] = largest / kMost16;
    header[1] = Simd::sum_of(offset);
    auto* channels = reinterpret_cast<int16_t*>(into + kHeader);
    for (int d = 0; d < tile.padded_dim; d += Simd::kWidth) {
      const Vector x = d < tile.head_dim ? Simd::multiply(Simd::load(q + d),
                                                          Simd::lower_bf16(load_scales(tile, d)))
                                         : Simd::zero();
      Simd::store_16(channels + d, Simd::multiply(x, units));
    }
  }

  template <int QB>
  static void run(const TileAttention&, const TileView& tile, int, const int32_t* prepared,
                  const Block& block, float* weights) {
    const int stride = prepared_words(tile);
    for (int from = 0; from < tile.channel_words; from += kMostChannels / kPerWord) {
      const int most = from + kMostChannels / kPerWord;
      BlockScores<Simd, Dot, QB>::run(
          tile, block, Dot{}, prepared + kHeader, stride, from,
          most < tile.channel_words ? most : tile.channel_words,
          [=](int i, int t, typename Simd::Words sum) {
            const auto* header = reinterpret_cast<const float*>(prepared + i * stride);
            float* to = weights + i * kBlockTokens + t;
            const Vector before = from ? Simd::load(to) : Simd::set(header[1]);
            Simd::store(to, Simd::multiply_add(Simd::to_float(sum), Simd::set(header[0]), before));
          });
    }
  }

 private:
  static typename Simd::Words load_scales(const TileView& tile, int channel) {
    const int n = tile.head_dim - channel;
    return n < Simd::kWidth ? Simd::load_words(tile.k_scales + channel, n)
                            : Simd::load_words(tile.k_scales + channel);
  }
};

template <class Simd, int kBits>
class CodeValues {
  static_assert(kBlockTokens <= 512,
                "the sum of a block's products fits 32 bits: 2^7 * 2^15 * 2^9");
  using Vector = typename Simd::Vector;
  using Words = typename Simd::Words;
  static constexpr int kPerWord = 32 / kBits;

 public:
  // acc[i] = acc[i] * correction[i] + sum over the t that i sees of weights[i, t] v_t
  template <int QB>
  static void run(const TileAttention& a, const TileView& tile, int query, const Block& block,
                  const Seen* seen, const float* weights, const float* correction) {
    constexpr int kMost = Simd::kAccumulators / QB > 8 ? 8 : Simd::kAccumulators / QB;
    Columns<QB> columns{
        a.acc + int64_t{query} * tile.padded_dim, tile, block, correction, {}, {}, {}};
    for (int i = 0; i < QB; ++i) columns.scale_weights(i, seen[i], weights + i * kBlockTokens);
    for_each_column<Simd, kMost, const Columns<QB>&>(tile.head_dim, columns);
  }

 private:
  template <int QB>
  struct Columns {
    float* acc;
    const TileView& tile;
    const Block& block;
    const float* correction;
    float unit[QB];
    float offset[QB];
    alignas(64) int32_t pairs[QB][kBlockTokens / 2];  // 16-bit weights

    // Scales of tokens that the query does not see are 0: they may be NaN.
    void scale_weights(int i, const Seen& seen, const float* weights) {
      const int begin = block.begin / Simd::kWidth * Simd::kWidth;
      if (seen.begin <= begin && seen.end >= block.end && block.end % Simd::kWidth == 0) {
        scale_weights(i, begin, weights, [this](int t) { return load_scales(t); });
      } else {
        scale_weights(i, begin, weights, [this, &seen](int t) {
          return Simd::only(load_scales(t), seen.begin - t, seen.end - t);
        });
      }
    }

    template <class Load>
    void scale_weights(int i, int begin, const float* weights, Load load) {
      Vector most = Simd::zero(), offsets = Simd::zero();
      for (int t = begin; t < block.end; t += Simd::kWidth) {
        const Words scales = load(t);
        const Vector weight = Simd::load(weights + t);
        most = Simd::max(Simd::multiply(weight, Simd::lower_bf16(scales)), most);
        offsets = Simd::multiply_add(weight, Simd::upper_bf16(scales), offsets);
      }
      const float largest = Simd::max_of(most);
      const Vector units = Simd::set(largest > kLeastScaled ? kMost16 / largest : 0.0f);
      unit[i] = largest / kMost16;
      offset[i] = Simd::sum_of(offsets);
      auto* to = reinterpret_cast<int16_t*>(pairs[i]);
      for (int t = begin; t < block.end; t += Simd::kWidth) {
        const Vector weight = Simd::multiply(Simd::load(weights + t), Simd::lower_bf16(load(t)));
        Simd::store_16(to + t, Simd::multiply(weight, units));
      }
    }

    Words load_scales(int t) const { return Simd::load_words(tile.v_scales + block.token + t); }

    template <int N>
    void run(int channel) const {
      sum<N>(channel, [](const uint32_t* p) { return Simd::load_words(p); });
    }
    void run_last(int channel) const {
      const int n = tile.head_dim - channel;
      sum<1>(channel, [n](const uint32_t* p) { return Simd::load_words(p, n); });
    }

    // Every code of a word is a number, and weights outside [begin, end) are 0: edges need no care.
    template <int N, class Load>
    void sum(int channel, Load load) const {
      Words sums[QB][N];
      for (int i = 0; i < QB; ++i) {
        for (int j = 0; j < N; ++j) sums[i][j] = Simd::zero_words();
      }
      const uint32_t* v = tile.v + int64_t{block.token / kPerWord} * tile.head_dim + channel;
      for (int w = block.begin / kPerWord; w * kPerWord < block.end; ++w) {
        for (int j = 0; j < N; ++j) {
          const uint32_t* p = v + int64_t{w} * tile.head_dim + j * Simd::kWidth;
          Simd::template prefetch<QB>(p);
          const CodePairs<Simd, kBits> codes(load(p));
          for (int i = 0; i < QB; ++i) {
            const int32_t* weight = pairs[i] + w * (kPerWord / 2);
            for (int e = 0; e < kPerWord / 2; ++e) {
              sums[i][j] =
                  Simd::add_pair_products(sums[i][j], codes.pair[e], Simd::set_words(weight[e]));
            }
          }
        }
      }
      for (int i = 0; i < QB; ++i) {
        for (int j = 0; j < N; ++j) {
          float* out = acc + channel + i * tile.padded_dim + j * Simd::kWidth;
          // nothing beyond head_dim
          const Vector added =
              Simd::only(Simd::set(offset[i]), 0, tile.head_dim - channel - j * Simd::kWidth, 0.0f);
          const Vector before =
              Simd::multiply_add(Simd::load(out), Simd::set(correction[i]), added);
          Simd::store(out,
                      Simd::multiply_add(Simd::to_float(sums[i][j]), Simd::set(unit[i]), before));
        }
      }
    }
  };
};

}  // namespace nspjax
