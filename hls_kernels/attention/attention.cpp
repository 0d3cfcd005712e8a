// The stages and what joins them.
#include "attention.h"

#include "read_operands.h"
#include "read_tiles.h"
#include "scores.h"
#include "softmax.h"
#include "values.h"
#include "write_results.h"

extern "C" void nspjax_attention(nspjax::kernel::KVPort kv, const nspjax::kernel::Beat* operands,
                                 nspjax::kernel::Beat* results) {
  // clang-format off
#pragma HLS interface mode=m_axi port=kv bundle=gmem_kv offset=slave latency=64 \
    max_read_burst_length=64 num_read_outstanding=16 max_write_burst_length=2 num_write_outstanding=1
#pragma HLS interface mode=m_axi port=operands bundle=gmem_operands offset=slave \
    max_read_burst_length=16 num_read_outstanding=4 max_write_burst_length=2 num_write_outstanding=1
#pragma HLS interface mode=m_axi port=results bundle=gmem_results offset=slave \
    max_write_burst_length=16 num_write_outstanding=4 max_read_burst_length=2 num_read_outstanding=1
// clang-format on
#pragma HLS interface mode = s_axilite port = kv
#pragma HLS interface mode = s_axilite port = operands
#pragma HLS interface mode = s_axilite port = results
#pragma HLS interface mode = s_axilite port = return
#pragma HLS dataflow
  using namespace nspjax::kernel;
  hls::stream<Job, 2> to_tiles, to_keys, to_masks, to_exponentials, to_values, to_results;
  hls::stream<Visible, 2> visible;
  hls::stream<Beat, 32> queries;
  KBlocks k;
  VBlocks v;
#pragma HLS bind_storage variable = k type = ram_s2p impl = uram
#pragma HLS bind_storage variable = v type = ram_s2p impl = uram
  hls::stream<Beat, kMostHeadBeats> k_scales;
  hls::stream<Beat, kVBlocks * kBlockBeats> v_scales;
  hls::stream<GroupLanes, 2 * kBlockBeats> scores;
  hls::stream<SeenGroup, kScoreDepth> masked;
  hls::stream<Group, 4> largest;
  hls::stream<SeenGroup, kScoreDepth> weights;
  hls::stream<Statistics, kMostQueries> statistics;
  hls::stream<Beat, 32> sums;
  hls::stream<std::uint32_t, 2> beats_read, score_slots, value_slots;

  read_operands(operands, to_tiles, visible, queries);
  read_tiles(kv, to_tiles, to_keys, k, v, k_scales, v_scales, beats_read);
  attend_keys(to_keys, to_masks, queries, k, k_scales, scores, score_slots);
  mask_scores(to_masks, to_exponentials, visible, scores, masked, largest);
  exponentiate(to_exponentials, to_values, masked, largest, weights, statistics);
  attend_values(to_values, to_results, v, v_scales, weights, sums, value_slots);
  write_results(to_results, statistics, sums, beats_read, score_slots, value_slots, results);
}
