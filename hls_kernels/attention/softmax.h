// Stages 4 and 5: scores to softmax weights, in two passes over a block's scores, a token of each
// query of a pack in a cycle.
//
// The first pass masks and finds the block's largest score. The second knows it and so the largest
// of all up to now, m' = max(m, m_block); its weights are e^(z - m') at once, so that the block's
// sum needs no factor of its own: l' = l e^(m - m') + sum of weights. What was summed before has to
// be multiplied by e^(m - m'), which goes ahead of the weights.
//
// Maxima pass NaN over, the sum carries it. What is masked is told by a bit: a score can be -inf.
#pragma once

#include <hls_math.h>
#include <hls_stream.h>

#include "job.h"
#include "read_operands.h"

namespace nspjax::kernel {

// softcap * tanh(z / softcap), through e^(-2 |z / softcap|).
inline float capped(float z, float softcap, float inverse_softcap) {
  const float y = z * inverse_softcap;
  const float e = hls::exp(-2.0f * hls::fabs(y));
  const float tanh = (1.0f - e) / (1.0f + e);
  return y < 0.0f ? -softcap * tanh : softcap * tanh;
}

// a where b is NaN.
inline float larger(float a, float b) { return b > a ? b : a; }

inline bool sees_any(const Visible& range, int begin, int end) {
  return at_least(range.first, begin) < at_most(range.last, end);
}

// scores -> masked: [head][block][pack][block_tokens]. largest: [head][block][pack], -inf where a
// query sees nothing of the block, at least the lowest float where it does.
inline void mask_scores(hls::stream<Job>& jobs, hls::stream<Job>& next,
                        hls::stream<Visible>& visible, hls::stream<GroupLanes>& scores,
                        hls::stream<SeenGroup>& masked, hls::stream<Group>& largest) {
  const Job job = jobs.read();
  next.write(job);
  const float kMinusInfinity = as_float(0xff800000u), kLowest = as_float(0xff7fffffu);
  const float inverse_softcap = job.softcap > 0.0f ? 1.0f / job.softcap : 0.0f;
  Visible seen[kMostPacks][kGroup] = {};  // nothing, where there is no query
  if (job.status == kDone) {
    for (int i = 0; i < job.n_queries; ++i) seen[i / kGroup][i % kGroup] = visible.read();
  }
  for (int head = 0; head < job.n_heads; ++head) {
    for (int block = job.block_begin; block < job.block_end; ++block) {
      for (int pack = 0; pack < job.n_packs(); ++pack) {
        const int position = job.first_token + block * job.block_tokens;
        Group most[kStrands];
#pragma HLS array_partition variable = most type = complete dim = 0
        for (int i = 0; i < kGroup; ++i) {
#pragma HLS unroll
          const bool sees = sees_any(seen[pack][i], position, position + job.block_tokens);
          for (int strand = 0; strand < kStrands; ++strand) {
            most[strand].query[i] = sees ? kLowest : kMinusInfinity;
          }
        }
        GroupLanes beat;
        for (int t = 0; t < job.block_tokens; ++t) {
#pragma HLS pipeline II = 1
          if (t % kBeatWords == 0) beat = scores.read();
          SeenGroup token;
          for (int i = 0; i < kGroup; ++i) {
#pragma HLS unroll
            const Visible& range = seen[pack][i];
            float z = beat.query[i][t % kBeatWords] * job.scale;
            if (job.softcap > 0.0f) z = capped(z, job.softcap, inverse_softcap);
            const bool sees = position + t >= range.first && position + t < range.last;
            float& strand = most[t % kStrands].query[i];
            strand = sees ? larger(strand, z) : strand;
            token.query[i] = z;
            token.seen[i] = sees;
          }
          masked.write(token);
        }
        Group block_most = most[0];
        for (int strand = 1; strand < kStrands; ++strand) {
          for (int i = 0; i < kGroup; ++i) {
#pragma HLS unroll
            block_most.query[i] = larger(block_most.query[i], most[strand].query[i]);
          }
        }
        largest.write(block_most);
      }
    }
  }
}

// A query's max and sum.
struct Statistics {
  float max;
  float sum;
};

// weights: [head][block][pack](correction | [block_tokens]). statistics: [head][n_queries]
inline void exponentiate(hls::stream<Job>& jobs, hls::stream<Job>& next,
                         hls::stream<SeenGroup>& masked, hls::stream<Group>& largest,
                         hls::stream<SeenGroup>& weights, hls::stream<Statistics>& statistics) {
  const Job job = jobs.read();
  next.write(job);
  const float kMinusInfinity = as_float(0xff800000u);
  Group max[kMostPacks];
  Group sum[kMostPacks];
  for (int head = 0; head < job.n_heads; ++head) {
    for (int pack = 0; pack < job.n_packs(); ++pack) {
      for (int i = 0; i < kGroup; ++i) {
        max[pack].query[i] = kMinusInfinity;
        sum[pack].query[i] = 0.0f;
      }
    }
    for (int block = job.block_begin; block < job.block_end; ++block) {
      for (int pack = 0; pack < job.n_packs(); ++pack) {
        const Group block_most = largest.read();
        SeenGroup correction;
        for (int i = 0; i < kGroup; ++i) {
#pragma HLS pipeline II = 1
          const float before = max[pack].query[i];
          const float now = larger(before, block_most.query[i]);
          correction.query[i] = now == before ? 1.0f : hls::exp(before - now);
          correction.seen[i] = true;
          max[pack].query[i] = now;
        }
        weights.write(correction);
        Group sums[kStrands] = {};
#pragma HLS array_partition variable = sums type = complete dim = 0
        for (int t = 0; t < job.block_tokens; ++t) {
#pragma HLS pipeline II = 1
#pragma HLS dependence variable = sums type = inter direction = RAW distance = 8 true
          const SeenGroup z = masked.read();
          SeenGroup weight;
          for (int i = 0; i < kGroup; ++i) {
#pragma HLS unroll
            const float x = hls::exp(z.query[i] - max[pack].query[i]);
            weight.query[i] = z.seen[i] ? x : 0.0f;
            weight.seen[i] = z.seen[i];
            sums[t % kStrands].query[i] += weight.query[i];
          }
          weights.write(weight);
        }
        for (int i = 0; i < kGroup; ++i) {
#pragma HLS pipeline II = 8
          float block_sum = 0.0f;
          for (int strand = 0; strand < kStrands; ++strand) block_sum += sums[strand].query[i];
          sum[pack].query[i] = sum[pack].query[i] * correction.query[i] + block_sum;
        }
      }
    }
    for (int i = 0; i < job.n_queries; ++i) {
      statistics.write({max[i / kGroup].query[i % kGroup], sum[i / kGroup].query[i % kGroup]});
    }
  }
}

}  // namespace nspjax::kernel
