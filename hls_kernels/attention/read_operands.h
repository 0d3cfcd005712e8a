// Stage 1: the operands. What the other stages are to do goes down the line with them.
#pragma once

#include <hls_stream.h>

#include "job.h"

namespace nspjax::kernel {

// A query sees the tokens first <= j < last.
struct Visible {
  int first;
  int last;
};

// visible: [n_queries], once for all heads. queries: [n_heads][n_queries][head_dim / 16].
inline void read_operands(const Beat* operands, hls::stream<Job>& jobs,
                          hls::stream<Visible>& visible, hls::stream<Beat>& queries) {
  const Job job = parse_job(operands[0]);
  jobs.write(job);
  const int n_queries = job.status == kDone ? job.n_queries : 0;
  Beat beat;
  for (int i = 0; i < n_queries; ++i) {
#pragma HLS pipeline II = 1
    const int pair = i % (kBeatWords / 2);
    if (pair == 0) beat = operands[1 + i / (kBeatWords / 2)];
    const int first = static_cast<int>(beat[2 * pair]), last = static_cast<int>(beat[2 * pair + 1]);
    visible.write({at_least(first, job.token_begin), at_most(last, job.token_end)});
  }
  const std::int64_t n_beats = std::int64_t{job.n_heads} * n_queries * job.head_dim_beats();
  for (std::int64_t i = 0; i < n_beats; ++i) {
#pragma HLS pipeline II = 1
    queries.write(operands[1 + visible_beats(n_queries) + i]);
  }
}

}  // namespace nspjax::kernel
