// How large tiles are and what a set of caches needs, before anything is reserved.
#pragma once

#include <cstdint>
#include <vector>

#include "layout/tile.h"

namespace nspjax {

inline constexpr int64_t kSmallestTileTokens = 16;
inline constexpr int64_t kLargestTileTokens = 256;

// One host-memory budget is split into staging buffers and tails.
struct HostBudget {
  int64_t slot_bytes;     // of one staging buffer; the largest single read or write
  int64_t slots;          // for each device
  int64_t staging_bytes;  // all of them
  int64_t tail_bytes;     // the rest
};
HostBudget split_host_memory(int64_t host_memory_bytes, int64_t n_devices);

struct CacheNeeds {
  int64_t tile_tokens;
  std::vector<int64_t> device_bytes;   // [device], all layers
  int64_t tail_bytes;                  // all layers and rows
  int64_t smallest_host_memory_bytes;  // with which the smallest tiles would do
  bool fits_host;
};

// Chooses the tile size unless `tile_tokens` says it: a power of two that makes tiles of at least
// 128 KiB, but not more than a quarter of the capacity, shrunk until the tails of all rows and
// layers fit in `free_tail_bytes`.
CacheNeeds plan_caches(const CacheShape& shape, int64_t n_layers, int64_t n_devices,
                       const HostBudget& budget, int64_t free_tail_bytes, int64_t tile_tokens);

}  // namespace nspjax
