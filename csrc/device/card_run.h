// One run of the cards' attention kernel: what it is asked and what comes back, as
// hls_kernels/attention/interface.h lays it out.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "device/attend_call.h"
#include "device/host_attention.h"

namespace nspjax {

// Some queries of some of the device's heads over tiles that arrived.
struct CardRun {
  const AttendCall& call;
  int64_t device;
  const ArrivedTiles& tiles;
  int64_t first_head;  // of those on the device
  int64_t n_heads;
  int64_t first_query;  // of the pass
  int64_t n_queries;
  uint32_t number;  // comes back with the results
};

// How many heads fit a run beside so many queries.
int64_t heads_a_run(int64_t n_queries, int64_t head_dim);

// buffer: the card's memory, where the tiles are.
std::vector<uint32_t> pack_operands(const CardRun& run, const std::byte* buffer);
// Room for what comes back.
std::vector<uint32_t> make_results(const CardRun& run);
void add_results(const CardRun& run, std::span<const uint32_t> results, Partial& into);

}  // namespace nspjax
