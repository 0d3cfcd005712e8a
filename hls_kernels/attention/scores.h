// Stage 3: q . k of a block's tokens, for one pack of queries after the other.
//
// A slot multiplies one part (two channels) of 16 tokens for the queries of a pack. K lies with
// tokens side by side, so no sum goes across lanes; the slots of a part walk over the block's
// tokens before the next part's do, so that an addition is done when its sum is needed again.
#pragma once

#include <hls_stream.h>
#include <hls_streamofblocks.h>

#include "job.h"
#include "read_tiles.h"

namespace nspjax::kernel {

// Two neighbouring channels of each query of a pack.
struct GroupPair {
  Group element[2];
};

// queries: [pack][head_dim / 2]. What is not a query is 0.
inline void load_queries(const Job& job, hls::stream<Beat>& beats,
                         GroupPair queries[kMostPacks][kMostHeadDim / 2]) {
  for (int i = 0; i < job.n_packs() * kGroup; ++i) {
    for (int beat = 0; beat < job.head_dim_beats(); ++beat) {
      Beat words;
      if (i < job.n_queries) words = beats.read();
      for (int pair = 0; pair < kBeatWords / 2; ++pair) {
#pragma HLS pipeline II = 1
        GroupPair& to = queries[i / kGroup][beat * (kBeatWords / 2) + pair];
        to.element[0].query[i % kGroup] = as_float(words[2 * pair]);
        to.element[1].query[i % kGroup] = as_float(words[2 * pair + 1]);
      }
    }
  }
}

// n elements' scales, a pair for each part.
inline void load_scales(int n_beats, hls::stream<Beat>& beats, PartScale* scales) {
  for (int beat = 0; beat < n_beats; ++beat) {
    const Beat words = beats.read();
    for (int pair = 0; pair < kBeatWords / 2; ++pair) {
#pragma HLS pipeline II = 1
      scales[beat * (kBeatWords / 2) + pair] = part_scale(words[2 * pair], words[2 * pair + 1]);
    }
  }
}

// The step's part of the query: two channels, or one of float32.
inline GroupPair query_part(StoredType type, const GroupPair* query, int step) {
  if (type != kF32) return query[step];
  GroupPair part = {};
  part.element[0] = query[step / 2].element[step % 2];
  return part;
}

// 64 tokens or fewer lie side by side in a group: [group][channel word][beats of a group].
inline int k_beat(const Job& job, int channel_word, int block_beat) {
  const int group_beats = at_most(job.block_beats(), 4);
  const int channel_words = job.head_dim / elements_per_word(job.type);
  return (block_beat / group_beats * channel_words + channel_word) * group_beats +
         block_beat % group_beats;
}

// Returns the slots that it took.
inline int score_pack(const Job& job, const hls::read_lock<Block>& k, const GroupPair* query,
                      const PartScale* scales, hls::stream<GroupLanes>& scores) {
  GroupLanes sums[kBlockBeats];
#pragma HLS array_partition variable = sums type = complete dim = 0
  const int parts = parts_per_word(job.type);
  const int n_steps = job.head_dim / elements_per_part(job.type);
  const int n_slots = at_least(job.block_beats(), kLeastSlots);
  for (int step = 0; step < n_steps; ++step) {
    for (int slot = 0; slot < n_slots; ++slot) {
#pragma HLS pipeline II = 2
#pragma HLS dependence variable = sums type = inter direction = RAW distance = 4 true
      if (slot >= job.block_beats()) continue;
      const Part k_part = decode(job.type, k[k_beat(job, step / parts, slot)], step % parts,
                                 scales[step % (kMostHeadDim / 2)]);
      const GroupPair q = query_part(job.type, query, step);
      GroupLanes& sum = sums[slot];
      for (int i = 0; i < kGroup; ++i) {
#pragma HLS unroll
        for (int lane = 0; lane < kBeatWords; ++lane) {
#pragma HLS unroll
          const float products = k_part.element[0][lane] * q.element[0].query[i] +
                                 k_part.element[1][lane] * q.element[1].query[i];
          sum.query[i][lane] = (step == 0 ? 0.0f : sum.query[i][lane]) + products;
        }
      }
      if (step == n_steps - 1) scores.write(sum);
    }
  }
  return n_steps * n_slots;
}

// scores: [head][block][pack][block_tokens / 16]
inline void attend_keys(hls::stream<Job>& jobs, hls::stream<Job>& next,
                        hls::stream<Beat>& query_beats, KBlocks& k_blocks,
                        hls::stream<Beat>& k_scales, hls::stream<GroupLanes>& scores,
                        hls::stream<std::uint32_t>& slots) {
  const Job job = jobs.read();
  next.write(job);
  GroupPair queries[kMostPacks][kMostHeadDim / 2];
#pragma HLS aggregate variable = queries
  PartScale scales[kMostHeadDim / 2] = {};
  std::uint32_t n_slots = 0;
  for (int head = 0; head < job.n_heads; ++head) {
    load_queries(job, query_beats, queries);
    for (int block = job.block_begin; block < job.block_end; ++block) {
      if (job.reads_k_scales(block)) load_scales(job.head_dim_beats(), k_scales, scales);
      const hls::read_lock<Block> k(k_blocks);
      for (int pack = 0; pack < job.n_packs(); ++pack) {
        n_slots += static_cast<std::uint32_t>(score_pack(job, k, queries[pack], scales, scores));
      }
    }
  }
  slots.write(n_slots);
}

}  // namespace nspjax::kernel
