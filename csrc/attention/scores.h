// q . k of a block of tokens, K's words as HeadTile lays them; for the files of an instruction set,
// see vector_kernel.h.
//
// A lane is a token: nothing is summed across lanes, and a token's sum takes the channels in their
// order. A `Dot` says how a word of K is multiplied with a query:
//
//   Query, kQueryElements  the prepared query has so many of these for each channel word
//   Parts split(Words)     what is done once for all queries
//   Sum add(Sum, Parts, const Query*)
#pragma once

#include "attention/tile_view.h"

namespace nspjax {

// finish(query of QB, first token of the block, sum) for each vector of tokens and query.
template <class Simd, class Dot, int QB>
class BlockScores {
  using Sum = typename Dot::Sum;
  using Query = typename Dot::Query;
  static constexpr int kWidth = Simd::kWidth;
  static constexpr int kWide = Simd::kAccumulators / QB > 4 ? 4 : Simd::kAccumulators / QB;

 public:
  // The channel words [from, to), of prepared queries `stride` elements apart.
  template <class Finish>
  static void run(const TileView& tile, const Block& block, const Dot& dot, const Query* queries,
                  int stride, int from, int to, Finish finish) {
    int t = block.begin / kWidth * kWidth;
    if (tile.lanes < kWidth) {
      return vectors<1, true>(tile, block.token, 0, dot, queries, stride, from, to, finish);
    }
    for (; t + (kWide - 1) * kWidth < block.end; t += kWide * kWidth) {
      vectors<kWide, false>(tile, block.token, t, dot, queries, stride, from, to, finish);
    }
    for (; t < block.end; t += kWidth) {
      vectors<1, false>(tile, block.token, t, dot, queries, stride, from, to, finish);
    }
  }

 private:
  template <int N, bool kNarrow, class Finish>
  static void vectors(const TileView& tile, int block_token, int t, const Dot& dot,
                      const Query* queries, int stride, int from, int to, Finish finish) {
    const uint32_t* k[N];
    for (int j = 0; j < N; ++j) {
      const int token = block_token + t + j * kWidth;
      k[j] = tile.k + int64_t{token / tile.lanes} * tile.channel_words * tile.lanes +
             token % tile.lanes;
    }
    Sum sum[QB][N];
    for (int i = 0; i < QB; ++i) {
      for (int j = 0; j < N; ++j) sum[i][j] = Dot::zero();
    }
    for (int w = from; w < to; ++w) {
      const Query* q = queries + w * Dot::kQueryElements;
      for (int j = 0; j < N; ++j) {
        const uint32_t* p = k[j] + int64_t{w} * tile.lanes;
        Simd::template prefetch<QB>(p);
        const auto parts =
            Dot::split(kNarrow ? Simd::load_words(p, tile.lanes) : Simd::load_words(p));
        for (int i = 0; i < QB; ++i) sum[i][j] = dot.add(sum[i][j], parts, q + i * stride);
      }
    }
    for (int i = 0; i < QB; ++i) {
      for (int j = 0; j < N; ++j) finish(i, t + j * kWidth, sum[i][j]);
    }
  }
};

// float32 queries as they come, for float32, bf16 and f16.
template <class Simd, class Elements>
class FloatScores {
 public:
  static int prepared_words(const TileView&) { return 0; }
  static void prepare(const TileAttention&, const TileView&, int, int32_t*) {}

  template <int QB>
  static void run(const TileAttention& a, const TileView& tile, int query, const int32_t*,
                  const Block& block, float* weights) {
    BlockScores<Simd, Dot, QB>::run(
        tile, block, Dot{}, a.queries + int64_t{query} * tile.padded_dim, tile.padded_dim, 0,
        tile.channel_words, [weights](int i, int t, typename Simd::Vector sum) {
          Simd::store(weights + i * kBlockTokens + t, sum);
        });
  }

 private:
  struct Dot {
    using Sum = typename Simd::Vector;
    using Query = float;
    static constexpr int kQueryElements = Elements::kPerWord;
    struct Parts {
      Sum element[Elements::kPerWord];
    };
    static Sum zero() { return Simd::zero(); }
    static Parts split(typename Simd::Words words) {
      Parts parts;
      Elements::widen(words, parts.element);
      return parts;
    }
    static Sum add(Sum sum, const Parts& parts, const float* q) {
      for (int e = 0; e < Elements::kPerWord; ++e) {
        sum = Simd::multiply_add(parts.element[e], Simd::set(q[e]), sum);
      }
      return sum;
    }
  };
};

}  // namespace nspjax
