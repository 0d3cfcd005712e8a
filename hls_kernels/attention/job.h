// What a run is asked, as every stage needs it, and where things lie in the card's memory.
#pragma once

#include "elements.h"
#include "structure.h"

namespace nspjax::kernel {

// Blocks are counted from the first tile's first token, over tile boundaries.
struct Job {
  Status status;
  std::uint32_t run_number;
  StoredType type;
  int head_dim;
  int block_tokens;
  int tile_blocks;
  int n_heads;  // 0 where the status is not kDone: no stage does anything
  int n_queries;
  int first_token;
  int token_begin;  // what is seen at all
  int token_end;
  int block_begin;  // what is read
  int block_end;
  float scale;
  float softcap;
  std::uint64_t first_beat;
  std::uint64_t tile_beats;
  std::uint64_t head_beats;

  int n_packs() const { return (n_queries + kGroup - 1) / kGroup; }
  int head_dim_beats() const { return head_dim / kBeatWords; }
  int block_beats() const { return block_tokens / kBeatWords; }
  // K or V of a block, in beats of the memory.
  int kv_block_beats() const { return block_tokens * head_dim_beats() / elements_per_word(type); }
  // What has scales begins a tile with those of K's channels.
  bool reads_k_scales(int block) const {
    return is_quantised(type) && (block == block_begin || block % tile_blocks == 0);
  }
};

inline bool is_good(const Beat& header) {
  const std::uint32_t head_dim = header[kHeadDim], tile_tokens = header[kTileTokens];
  const std::uint64_t last =
      std::uint64_t{header[kTiles]} * tile_tokens + std::uint64_t{header[kFirstToken]};
  return header[kOperandMagic] == kMagic && header[kStoredType] < kStoredTypeCount &&
         head_dim >= kBeatWords && head_dim <= kMostHeadDim && head_dim % kBeatWords == 0 &&
         tile_tokens >= kLeastTileTokens && tile_tokens <= kMostTileTokens &&
         (tile_tokens & (tile_tokens - 1)) == 0 && header[kQueries] >= 1 &&
         header[kQueries] <= kMostQueries && header[kHeads] <= 0x7fffffffu && last <= 0x7fffffffu;
}

inline int at_least(int x, int least) { return x < least ? least : x; }
inline int at_most(int x, int most) { return x > most ? most : x; }

inline Job parse_job(const Beat& header) {
  Job job = {};
  job.status = kBadOperands;
  job.run_number = header[kRunNumber];
  if (!is_good(header)) return job;
  const int tile_tokens = static_cast<int>(header[kTileTokens]);
  const int n_tokens = static_cast<int>(header[kTiles]) * tile_tokens;
  job.status = kDone;
  job.type = static_cast<StoredType>(header[kStoredType]);
  job.head_dim = static_cast<int>(header[kHeadDim]);
  job.block_tokens = at_most(tile_tokens, kBlockTokens);
  job.tile_blocks = tile_tokens / job.block_tokens;
  job.n_heads = static_cast<int>(header[kHeads]);
  job.n_queries = static_cast<int>(header[kQueries]);
  job.first_token = static_cast<int>(header[kFirstToken]);
  job.token_begin = at_least(static_cast<int>(header[kTokenBegin]), job.first_token);
  job.token_end = at_most(static_cast<int>(header[kTokenEnd]), job.first_token + n_tokens);
  if (job.token_begin < job.token_end) {
    const int begin = job.token_begin - job.first_token, end = job.token_end - job.first_token;
    job.block_begin = begin / job.block_tokens;
    job.block_end = (end - 1) / job.block_tokens + 1;
  }
  job.scale = as_float(header[kScale]);
  job.softcap = as_float(header[kSoftcap]);
  job.first_beat = header[kFirstBeat];
  job.tile_beats = header[kTileBeats];
  job.head_beats = header[kHeadBeats];
  return job;
}

}  // namespace nspjax::kernel
