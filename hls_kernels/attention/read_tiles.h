// Stage 2: K and V, block by block, each once for all queries and in one burst.
#pragma once

#include <hls_burst_maxi.h>
#include <hls_stream.h>
#include <hls_streamofblocks.h>

#include "job.h"

namespace nspjax::kernel {

using KBlocks = hls::stream_of_blocks<Block, kKBlocks>;
using VBlocks = hls::stream_of_blocks<Block, kVBlocks>;

// Where a block's parts lie, in beats.
struct BlockBursts {
  std::uint64_t k;
  std::uint64_t v;
  std::uint64_t k_scales;
  std::uint64_t v_scales;
  int kv_beats;
  int k_scale_beats;  // 0: none
  int v_scale_beats;
};

inline BlockBursts find_bursts(const Job& job, int head, int block) {
  const std::uint64_t tile = static_cast<std::uint64_t>(block / job.tile_blocks);
  const std::uint64_t in_tile = static_cast<std::uint64_t>(block % job.tile_blocks);
  const std::uint64_t begin =
      job.first_beat + tile * job.tile_beats + static_cast<std::uint64_t>(head) * job.head_beats;
  const int kv_beats = job.kv_block_beats();
  const auto block_beats = static_cast<std::uint64_t>(kv_beats);
  const std::uint64_t section = block_beats * static_cast<std::uint64_t>(job.tile_blocks);
  const int v_scale_beats = is_quantised(job.type) ? job.block_beats() : 0;
  BlockBursts bursts;
  bursts.k = begin + in_tile * block_beats;
  bursts.v = begin + section + in_tile * block_beats;
  bursts.k_scales = begin + 2 * section;
  bursts.v_scales = bursts.k_scales + static_cast<std::uint64_t>(job.head_dim_beats()) +
                    in_tile * static_cast<std::uint64_t>(v_scale_beats);
  bursts.kv_beats = kv_beats;
  bursts.k_scale_beats = job.reads_k_scales(block) ? job.head_dim_beats() : 0;
  bursts.v_scale_beats = v_scale_beats;
  return bursts;
}

inline void request(hls::burst_maxi<Beat>& kv, const BlockBursts& bursts) {
  if (bursts.k_scale_beats) kv.read_request(bursts.k_scales, bursts.k_scale_beats);
  kv.read_request(bursts.k, bursts.kv_beats);
  if (bursts.v_scale_beats) kv.read_request(bursts.v_scales, bursts.v_scale_beats);
  kv.read_request(bursts.v, bursts.kv_beats);
}

inline void receive(hls::burst_maxi<Beat>& kv, int n_beats, hls::stream<Beat>& to) {
  for (int i = 0; i < n_beats; ++i) {
#pragma HLS pipeline II = 1
    to.write(kv.read());
  }
}

template <typename Blocks>
inline void receive_block(hls::burst_maxi<Beat>& kv, int n_beats, Blocks& to) {
  hls::write_lock<Block> block(to);
  for (int i = 0; i < n_beats; ++i) {
#pragma HLS pipeline II = 1
    block[i] = kv.read();
  }
}

// The next block is asked for before this one is received, so that the memory's latency is hidden.
inline void read_tiles(hls::burst_maxi<Beat> kv, hls::stream<Job>& jobs, hls::stream<Job>& next,
                       KBlocks& k, VBlocks& v, hls::stream<Beat>& k_scales,
                       hls::stream<Beat>& v_scales, hls::stream<std::uint32_t>& beats_read) {
  const Job job = jobs.read();
  next.write(job);
  std::uint32_t n_beats = 0;
  for (int head = 0; head < job.n_heads; ++head) {
    BlockBursts bursts = find_bursts(job, head, job.block_begin);
    if (job.block_begin < job.block_end) request(kv, bursts);
    for (int block = job.block_begin; block < job.block_end; ++block) {
      const BlockBursts ahead = find_bursts(job, head, block + 1);
      if (block + 1 < job.block_end) request(kv, ahead);
      receive(kv, bursts.k_scale_beats, k_scales);
      receive_block(kv, bursts.kv_beats, k);
      receive(kv, bursts.v_scale_beats, v_scales);
      receive_block(kv, bursts.kv_beats, v);
      n_beats += static_cast<std::uint32_t>(bursts.k_scale_beats + bursts.v_scale_beats +
                                            2 * bursts.kv_beats);
      bursts = ahead;
    }
  }
  beats_read.write(n_beats);
}

}  // namespace nspjax::kernel
