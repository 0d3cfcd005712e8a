// How large tiles are and what a set of caches needs, before anything is reserved.
#pragma once

#include <cstdint>
#include <vector>

#include "format/tile.h"

namespace nspjax {

// What is chosen lies between these; what is asked for may be any power of two that a tile can be.
inline constexpr int64_t kSmallestTileTokens = 16;
inline constexpr int64_t kLargestTileTokens = 256;

// One host-memory budget: staging buffers first, then the tails of the caches, then pinned tiles.
struct HostBudget {
  int64_t slot_bytes;     // of one staging buffer; the largest single read or write
  int64_t slots;          // for each device
  int64_t staging_bytes;  // all of them
  int64_t cache_bytes;    // the rest: tails and pinned tiles
  // Of that, what pinned tiles leave alone, for the tails of caches that are made later.
  int64_t later_tails_bytes() const { return cache_bytes / 8; }
};
// block_bytes: how large reads the devices want.
HostBudget split_host_memory(int64_t host_memory_bytes, int64_t n_devices, int64_t block_bytes);

struct CacheNeeds {
  int64_t tile_tokens;
  std::vector<int64_t> device_bytes;   // [device], all layers and page runs
  int64_t tail_bytes;                  // all layers, runs and rows
  int64_t sketch_bytes;                // the same, of full rows
  int64_t smallest_host_memory_bytes;  // with which these tiles would do
  bool fits_host;
};

// Chooses the tile size unless `tile_tokens` says it: a power of two that makes the first run's
// tiles at least 128 KiB, but not more than a quarter of what a row keeps; the largest where there
// are sketches, of which a part is there once for each tile. It does not depend on
// the memory there is: where tiles end decides what is added to what, so the last bits of an
// answer.
CacheNeeds plan_caches(const CacheFormat& format, int64_t n_layers, int64_t n_devices,
                       const HostBudget& budget, int64_t free_tail_bytes, int64_t tile_tokens);
// Of K and V.
CacheNeeds plan_caches(const CacheShape& shape, int64_t n_layers, int64_t n_devices,
                       const HostBudget& budget, int64_t free_tail_bytes, int64_t tile_tokens);

// What one task attends over: small enough to share a row among workers, and the same on all
// devices and whatever memory there is, so that partial results add up alike.
inline constexpr int64_t kSegmentBytes = 1 << 20;

}  // namespace nspjax
