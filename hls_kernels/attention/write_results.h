// Stage 7: the results, and their header when all else is written.
#pragma once

#include <hls_stream.h>

#include "job.h"
#include "softmax.h"

namespace nspjax::kernel {

inline void write_results(hls::stream<Job>& jobs, hls::stream<Statistics>& statistics,
                          hls::stream<Beat>& sums, hls::stream<std::uint32_t>& beats_read,
                          hls::stream<std::uint32_t>& score_slots,
                          hls::stream<std::uint32_t>& value_slots, Beat* results) {
  const Job job = jobs.read();
  const int query_beats = 1 + job.head_dim_beats();
  const std::int64_t n_beats = std::int64_t{job.n_heads} * job.n_queries * query_beats;
  int beat = 0;
  for (std::int64_t i = 0; i < n_beats; ++i) {
#pragma HLS pipeline II = 1
    Beat words;
    if (beat == 0) {
      const Statistics of_query = statistics.read();
      words[0] = as_bits(of_query.max);
      words[1] = as_bits(of_query.sum);
    } else {
      words = sums.read();
    }
    results[1 + i] = words;
    beat = beat == query_beats - 1 ? 0 : beat + 1;
  }
  Beat header;
  header[kResultMagic] = kMagic;
  header[kResultRunNumber] = job.run_number;
  header[kStatus] = job.status;
  header[kBeatsRead] = beats_read.read();
  header[kScoreSlots] = score_slots.read();
  header[kValueSlots] = value_slots.read();
  results[0] = header;
}

}  // namespace nspjax::kernel
