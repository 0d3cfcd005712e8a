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
  static void run(const TileAttention& a) {
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
      attend_queries(a, tile, query, end, prepared, stride);
    }
  }

 private:
  // Of prepared queries: 2 of the largest head_dim, 160 of head_dim 128.
  static constexpr int kPreparedWords = 16384;
  static constexpr int kMostQueries = 8;

  static void attend_queries(const TileAttention& a, const TileView& tile, int query_begin,
                             int query_end, const int32_t* prepared, int stride) {
    alignas(64) float weights[kMostQueries * kBlockTokens];
    for (int token = a.begin / kBlockTokens * kBlockTokens; token < a.end; token += kBlockTokens) {
      const Block block{token, token < a.begin ? a.begin - token : 0,
                        token + kBlockTokens < a.end ? kBlockTokens : a.end - token};
      int query = query_begin;
      const auto attend = [&]<int QB>() {
        for (; query + QB <= query_end; query += QB) {
          attend_block<QB>(a, tile, query, prepared + int64_t{query - query_begin} * stride, block,
                           weights);
        }
      };
      attend.template operator()<8>();
      attend.template operator()<4>();
      attend.template operator()<2>();
      attend.template operator()<1>();
    }
  }

  template <int QB>
  static void attend_block(const TileAttention& a, const TileView& tile, int query,
                           const int32_t* prepared, const Block& block, float* weights) {
    const int32_t position = a.first_token + block.token;
    Seen seen[QB];
    bool visible = false;
    for (int i = 0; i < QB; ++i) {
      const int begin = a.first[query + i] - position, end = a.last[query + i] - position;
      seen[i] = {begin < block.begin ? block.begin : begin, end > block.end ? block.end : end};
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
