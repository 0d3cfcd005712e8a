// The vector kernel, once for all instruction sets and stored types.
//
// `Simd` has the width and the operations, `Scores` and `Values` know the stored type (scores.h,
// values.h, codes.h). Simd is in an anonymous namespace of the file that is compiled for the
// instruction set, so what is instantiated with it stays in that file. For the same reason nothing
// in these headers calls the standard library or an inline function that is not a template: the
// linker could keep a copy with instructions that an older CPU has not.
//
// A block of tokens is worked on for up to 8 queries at once: scores, softmax, values. Whatever the
// number of queries, a score and an element of acc are summed in the same order.
#pragma once

#include "attention/softmax.h"
#include "attention/tile_view.h"

namespace nspjax {

template <class Simd, class Scores, class Values>
class VectorKernel {
 public:
  static constexpr TypeKernels all() { return {attend, weigh, add_values}; }

 private:
  static void attend(const TileAttention& a) {
    for_prepared_queries(
        a, [&](const TileView& tile, int begin, int end, const int32_t* prepared, int stride) {
          attend_queries(a, tile, begin, end, prepared, stride);
        });
  }

  static void weigh(const TileAttention& a, float* weights, int weight_stride) {
    for_prepared_queries(
        a, [&](const TileView& tile, int begin, int end, const int32_t* prepared, int stride) {
          const int token = a.begin / kBlockTokens * kBlockTokens;
          const Block block{token, a.begin - token, a.end - token};
          in_blocks(begin, end, [&]<int QB>(int query) {
            float* to = weights + int64_t{query} * weight_stride;
            weigh_block<QB>(a, tile, query, prepared + int64_t{query - begin} * stride, block, to,
                            weight_stride);
          });
        });
  }

  template <int QB>
  static void weigh_block(const TileAttention& a, const TileView& tile, int query,
                          const int32_t* prepared, const Block& block, float* to, int to_stride) {
    alignas(64) float weights[QB * kBlockTokens];
    Seen seen[QB];
    for (int i = 0; i < QB; ++i) seen[i] = seen_by(a, query + i, block);
    float correction[QB];
    Scores::template run<QB>(a, tile, query, prepared, block, weights);
    BlockSoftmax<Simd>::template update<QB>(a, query, block, seen, weights, correction);
    for (int i = 0; i < QB; ++i) {
      for (int t = block.begin; t < block.end; ++t) {
        to[i * int64_t{to_stride} + t - block.begin] = weights[i * kBlockTokens + t];
      }
    }
  }

  static void add_values(const WeightedValues& a) {
    const TileView tile{.k = nullptr,
                        .v = reinterpret_cast<const uint32_t*>(a.words),
                        .k_scales = nullptr,
                        .v_scales = reinterpret_cast<const uint32_t*>(a.scales),
                        .head_dim = a.head_dim,
                        .padded_dim = a.padded_dim,
                        .channel_words = 0,
                        .lanes = 0};
    const TileAttention into{.queries = nullptr,
                             .scale = 0.0f,
                             .n_queries = a.n_queries,
                             .head_dim = a.head_dim,
                             .padded_dim = a.padded_dim,
                             .first = nullptr,
                             .last = nullptr,
                             .tile = nullptr,
                             .data = nullptr,
                             .first_token = 0,
                             .begin = 0,
                             .end = a.n_tokens,
                             .softcap = 0.0f,
                             .max = nullptr,
                             .sum = nullptr,
                             .acc = a.acc};
    const Block block{0, 0, a.n_tokens};
    in_blocks(0, a.n_queries, [&]<int QB>(int query) {
      alignas(64) float weights[QB * kBlockTokens];
      Seen seen[QB];
      float unchanged[QB];
      for (int i = 0; i < QB; ++i) {
        seen[i] = {0, a.n_tokens};
        unchanged[i] = 1.0f;
        const float* from = a.weights + int64_t{query + i} * a.stride;
        float* weight = weights + i * kBlockTokens;
        int t = 0;
        for (; t < a.n_tokens; ++t) weight[t] = from[t];
        for (; t % Simd::kWidth != 0; ++t) weight[t] = 0.0f;
      }
      Values::template run<QB>(into, tile, query, block, seen, weights, unchanged);
    });
  }

  // Calls fn.operator()<n>(query) for n = 8, 4, 2 or 1 queries from there, as many as there are.
  template <class Fn>
  static void in_blocks(int begin, int end, const Fn& fn) {
    int query = begin;
    const auto blocks_of = [&]<int QB>() {
      for (; query + QB <= end; query += QB) fn.template operator()<QB>(query);
    };
    blocks_of.template operator()<8>();
    blocks_of.template operator()<4>();
    blocks_of.template operator()<2>();
    blocks_of.template operator()<1>();
  }

  // fn(the tile, the first and the last query + 1, those prepared, and words of each).
  template <class Fn>
  static void for_prepared_queries(const TileAttention& a, const Fn& fn) {
    const HeadTile& layout = *a.tile;
    const auto* words = reinterpret_cast<const uint32_t*>(a.data);
    const TileView tile{.k = words,
                        .v = words + layout.v_offset() / 4,
                        .k_scales = words + layout.k_scales_offset() / 4,
                        .v_scales = words + layout.v_scales_offset() / 4,
                        .head_dim = a.head_dim,
                        .padded_dim = a.padded_dim,
                        .channel_words = static_cast<int>(layout.channel_words()),
                        .lanes = static_cast<int>(layout.lanes())};
    alignas(64) int32_t prepared[kPreparedWords];
    const int stride = Scores::prepared_words(tile);
    const int most = stride ? kPreparedWords / stride : a.n_queries;
    for (int query = 0; query < a.n_queries; query += most) {
      const int end = query + most < a.n_queries ? query + most : a.n_queries;
      for (int i = query; i < end; ++i) {
        Scores::prepare(a, tile, i, prepared + int64_t{i - query} * stride);
      }
      fn(tile, query, end, prepared, stride);
    }
  }

  // Of prepared queries: 2 of the largest head_dim, 160 of head_dim 128.
  static constexpr int kPreparedWords = 16384;
  static constexpr int kMostQueries = 8;

  static void attend_queries(const TileAttention& a, const TileView& tile, int query_begin,
                             int query_end, const int32_t* prepared, int stride) {
    alignas(64) float weights[kMostQueries * kBlockTokens];
    for (int token = a.begin / kBlockTokens * kBlockTokens; token < a.end; token += kBlockTokens) {
      const Block block{token, token < a.begin ? a.begin - token : 0,
                        token + kBlockTokens < a.end ? kBlockTokens : a.end - token};
      in_blocks(query_begin, query_end, [&]<int QB>(int query) {
        attend_block<QB>(a, tile, query, prepared + int64_t{query - query_begin} * stride, block,
                         weights);
      });
    }
  }

  static Seen seen_by(const TileAttention& a, int query, const Block& block) {
    const int32_t position = a.first_token + block.token;
    const int begin = a.first[query] - position, end = a.last[query] - position;
    return {begin < block.begin ? block.begin : begin, end > block.end ? block.end : end};
  }

  template <int QB>
  static void attend_block(const TileAttention& a, const TileView& tile, int query,
                           const int32_t* prepared, const Block& block, float* weights) {
    Seen seen[QB];
    bool visible = false;
    for (int i = 0; i < QB; ++i) {
      seen[i] = seen_by(a, query + i, block);
      visible |= !seen[i].none();
    }
    if (!visible) return;
    Scores::template run<QB>(a, tile, query, prepared, block, weights);
    float correction[QB];
    BlockSoftmax<Simd>::template update<QB>(a, query, block, seen, weights, correction);
    Values::template run<QB>(a, tile, query, block, seen, weights, correction);
  }
};

}  // namespace nspjax
