// The weighted sum of a block's V, as HeadTile lays it; for the files of an instruction set, see
// vector_kernel.h.
//
// A lane is a channel; a channel's sum takes the tokens in their order. QB queries x N vectors of
// acc stay in registers over the block's tokens.
#pragma once

#include "attention/tile_view.h"

namespace nspjax {

// Calls columns.template run<N>(channel) for N vectors of channels from there, with n channels of
// the last vector: columns.template run<1>(channel, n).
template <class Simd, int N, class Columns>
void for_each_column(int head_dim, Columns columns, int channel = 0) {
  for (; channel + N * Simd::kWidth <= head_dim; channel += N * Simd::kWidth) {
    columns.template run<N>(channel);
  }
  if constexpr (N > 1) {
    for_each_column<Simd, N / 2>(head_dim, columns, channel);
  } else {
    if (channel < head_dim) columns.run_last(channel);
  }
}

// float32 weights over float32, bf16 and f16: exact products.
template <class Simd, class Elements>
class FloatValues {
  using Vector = typename Simd::Vector;
  using Words = typename Simd::Words;
  static constexpr int kPerWord = Elements::kPerWord;

 public:
  // acc[i] = acc[i] * correction[i] + sum over the t that i sees of weights[i, t] v_t
  //
  // A weight of 0 does not make nothing of a V that is not finite. So tokens that only some of the
  // queries see are added for those alone, before and after the ones that all see.
  template <int QB>
  static void run(const TileAttention& a, const TileView& tile, int query, const Block& block,
                  const Seen* seen, const float* weights, const float* correction) {
    Block common = block;
    for (int i = 0; i < QB; ++i) {
      if (seen[i].begin > common.begin) common.begin = seen[i].begin;
      if (seen[i].end < common.end) common.end = seen[i].end;
    }
    if (common.begin == block.begin && common.end == block.end) {
      add<QB>(a, tile, query, block, weights, correction);
    } else {
      run_seen<QB>(a, tile, query, common, seen, weights, correction);
    }
  }

 private:
  // common: what all of the queries see, if anything.
  template <int QB>
  [[gnu::noinline]] static void run_seen(const TileAttention& a, const TileView& tile, int query,
                                         Block common, const Seen* seen, const float* weights,
                                         const float* correction) {
    if (common.begin >= common.end) common.begin = common.end = kBlockTokens;
    float rest[QB];
    for (int i = 0; i < QB; ++i) {
      const int end = seen[i].end < common.begin ? seen[i].end : common.begin;
      const Block before{common.token, seen[i].begin, end};
      rest[i] = before.begin < before.end ? 1.0f : correction[i];
      if (before.begin < before.end) {
        add<1>(a, tile, query + i, before, weights + i * kBlockTokens, correction + i);
      }
    }
    if (common.begin == common.end) return;
    add<QB>(a, tile, query, common, weights, rest);
    constexpr float kUnchanged = 1.0f;
    for (int i = 0; i < QB; ++i) {
      const Block behind{common.token, common.end, seen[i].end};
      if (behind.begin < behind.end) {
        add<1>(a, tile, query + i, behind, weights + i * kBlockTokens, &kUnchanged);
      }
    }
  }

  // Over tokens that all of the queries see.
  template <int QB>
  static void add(const TileAttention& a, const TileView& tile, int query, const Block& block,
                  const float* weights, const float* correction) {
    constexpr int kMost = Simd::kAccumulators / QB > 8 ? 8 : Simd::kAccumulators / QB;
    for_each_column<Simd, kMost>(
        tile.head_dim,
        Columns<QB>{a.acc + int64_t{query} * tile.padded_dim, tile, block, weights, correction});
  }

  template <int QB>
  struct Columns {
    float* acc;
    const TileView& tile;
    const Block& block;
    const float* weights;
    const float* correction;

    template <int N>
    void run(int channel) const {
      sum<N>(channel, [](const uint32_t* p) { return Simd::load_words(p); });
    }
    void run_last(int channel) const {
      const int n = tile.head_dim - channel;
      sum<1>(channel, [n](const uint32_t* p) { return Simd::load_words(p, n); });
    }

    template <int N, class Load>
    void sum(int channel, Load load) const {
      float* out = acc + channel;
      Vector sums[QB][N];
      for (int i = 0; i < QB; ++i) {
        for (int j = 0; j < N; ++j) {
          sums[i][j] = Simd::multiply(Simd::load(out + i * tile.padded_dim + j * Simd::kWidth),
                                      Simd::set(correction[i]));
        }
      }
      const uint32_t* v = tile.v + int64_t{block.token / kPerWord} * tile.head_dim + channel;
      // Elements of tokens outside [begin, end) may be anything: in the words at the edges they are
      // made 0.
      const int begin = block.begin, end = block.end;
      int w = begin / kPerWord;
      const auto at_edge = [&](int word) {
        const uint32_t keep = kept_bits(word * kPerWord, begin, end);
        add<N>(sums, v, word, [&](const uint32_t* p) { return Simd::masked(load(p), keep); });
      };
      if (begin % kPerWord) at_edge(w++);
      for (; (w + 1) * kPerWord <= end; ++w) add<N>(sums, v, w, load);
      if (w * kPerWord < end) at_edge(w);
      for (int i = 0; i < QB; ++i) {
        for (int j = 0; j < N; ++j) {
          Simd::store(out + i * tile.padded_dim + j * Simd::kWidth, sums[i][j]);
        }
      }
    }

    template <int N, class Load>
    void add(Vector (*sums)[N], const uint32_t* v, int word, Load load) const {
      const float* weight = weights + word * kPerWord;
      Vector element[N][kPerWord];
      for (int j = 0; j < N; ++j) {
        const uint32_t* p = v + int64_t{word} * tile.head_dim + j * Simd::kWidth;
        Simd::template prefetch<QB>(p);
        Elements::widen(load(p), element[j]);
      }
      // one weight at a time: more of them would not find a register
      for (int i = 0; i < QB; ++i) {
        for (int e = 0; e < kPerWord; ++e) {
          const Vector of_query = Simd::set(weight[i * kBlockTokens + e]);
          for (int j = 0; j < N; ++j) {
            sums[i][j] = Simd::multiply_add(element[j][e], of_query, sums[i][j]);
          }
        }
      }
    }
  };

  // The bits of a word whose elements belong to the tokens [begin, end), the first to `token`.
  static uint32_t kept_bits(int token, int begin, int end) {
    constexpr int kBits = 32 / kPerWord;
    uint32_t bits = 0;
    for (int e = 0; e < kPerWord; ++e) {
      if (token + e >= begin && token + e < end) {
        bits |= (0xffffffffu >> (32 - kBits)) << (e / 2 * kBits + e % 2 * 16);
      }
    }
    return bits;
  }
};

}  // namespace nspjax
