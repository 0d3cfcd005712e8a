// Stage 6: the weighted sum of a block's V, added to that of the blocks before it.
//
// A slot multiplies one part (two tokens) of 16 channels for the queries of a pack; the slots of a
// part walk over the channels before the next part's do. The earlier sums take part in a block as
// its first value, whose weight is the correction: the same multipliers rescale them.
#pragma once

#include <hls_stream.h>
#include <hls_streamofblocks.h>

#include "scores.h"

namespace nspjax::kernel {

// Two tokens' weights of each query, or one and nothing.
struct WeightPair {
  SeenGroup element[2];
};

// What is not seen adds exactly nothing, also where the value is infinite or NaN.
inline float weighted(float value, const SeenGroup& weight, int query) {
  const float product = value * weight.query[query];
  return weight.seen[query] ? product : 0.0f;
}

// sums: [head_dim / 16], those of the pack. Returns the slots that it took.
inline int add_values(const Job& job, const hls::read_lock<Block>& v, const PartScale* scales,
                      hls::stream<SeenGroup>& weights, GroupLanes* sums) {
  GroupLanes block_sums[kMostHeadBeats];
  const int parts = parts_per_word(job.type);
  const int n_beats = job.head_dim_beats();
  const int n_steps = 1 + job.block_tokens / elements_per_part(job.type);
  const int n_slots = at_least(n_beats, kLeastSlots);
  WeightPair weight = {};
  for (int step = 0; step < n_steps; ++step) {
    for (int slot = 0; slot < n_slots; ++slot) {
#pragma HLS pipeline II = 2
#pragma HLS dependence variable = block_sums type = inter direction = RAW distance = 4 true
#pragma HLS dependence variable = sums type = inter false
      const bool rescales = step == 0;
      if (slot == 0) {
        weight.element[0] = weights.read();
        if (!rescales && job.type != kF32) weight.element[1] = weights.read();
      }
      if (slot >= n_beats) continue;
      const int part = rescales ? 0 : step - 1;
      const Part v_part = decode(job.type, v[part / parts * n_beats + slot], part % parts,
                                 scales[part % (kBlockTokens / 2)]);
      const GroupLanes before = sums[slot];
      GroupLanes& sum = block_sums[slot];
      for (int i = 0; i < kGroup; ++i) {
#pragma HLS unroll
        for (int lane = 0; lane < kBeatWords; ++lane) {
#pragma HLS unroll
          const float first = rescales ? before.query[i][lane] : v_part.element[0][lane];
          const float products = weighted(first, weight.element[0], i) +
                                 weighted(v_part.element[1][lane], weight.element[1], i);
          sum.query[i][lane] = (rescales ? 0.0f : sum.query[i][lane]) + products;
        }
      }
      if (step == n_steps - 1) sums[slot] = sum;
    }
  }
  return n_steps * n_slots;
}

// sums: [head][n_queries][head_dim / 16]
inline void attend_values(hls::stream<Job>& jobs, hls::stream<Job>& next, VBlocks& v_blocks,
                          hls::stream<Beat>& v_scales, hls::stream<SeenGroup>& weights,
                          hls::stream<Beat>& sum_beats, hls::stream<std::uint32_t>& slots) {
  const Job job = jobs.read();
  next.write(job);
  GroupLanes sums[kMostPacks][kMostHeadBeats];
  PartScale scales[kBlockTokens / 2] = {};
  std::uint32_t n_slots = 0;
  for (int head = 0; head < job.n_heads; ++head) {
    for (int pack = 0; pack < job.n_packs(); ++pack) {
      for (int beat = 0; beat < job.head_dim_beats(); ++beat) sums[pack][beat] = {};
    }
    for (int block = job.block_begin; block < job.block_end; ++block) {
      if (is_quantised(job.type)) load_scales(job.block_beats(), v_scales, scales);
      const hls::read_lock<Block> v(v_blocks);
      for (int pack = 0; pack < job.n_packs(); ++pack) {
        n_slots += static_cast<std::uint32_t>(add_values(job, v, scales, weights, sums[pack]));
      }
    }
    for (int i = 0; i < job.n_queries; ++i) {
      for (int beat = 0; beat < job.head_dim_beats(); ++beat) {
#pragma HLS pipeline II = 1
        Beat words;
        for (int lane = 0; lane < kBeatWords; ++lane) {
          words[lane] = as_bits(sums[i / kGroup][beat].query[i % kGroup][lane]);
        }
        sum_beats.write(words);
      }
    }
  }
  slots.write(n_slots);
}

}  // namespace nspjax::kernel
