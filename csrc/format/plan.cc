#include "format/plan.h"

#include <algorithm>
#include <bit>

namespace nspjax {
namespace {

constexpr int64_t kWantedTileBytes = 128 << 10;
constexpr int64_t kMostStagingBytes = 256 << 20;  // of a device: a tenth of a second of a fast one
constexpr int64_t kFewestSlots = 8;
constexpr int64_t kStagingShare = 4;  // a quarter of host memory at most

// Of one layer. What is another run's tokens in another order is made of that one's tail.
int64_t tail_bytes_of(const TileGeometry& geometry) {
  if (geometry.run().derived) return 0;
  int64_t bytes = 0;
  for (int64_t row = 0; row < geometry.shape().batch; ++row) {
    bytes += round_up(geometry.tail_bytes(row), kPageBytes);
  }
  return bytes;
}

}  // namespace

HostBudget split_host_memory(int64_t host_memory_bytes, int64_t n_devices, int64_t block_bytes) {
  const int64_t per_device = host_memory_bytes / kStagingShare / n_devices;
  HostBudget budget{};
  budget.slot_bytes = std::min(block_bytes, round_down(per_device / kFewestSlots, kPageBytes));
  if (budget.slot_bytes == 0) {
    fail(ErrorKind::kInvalidArgument, "host_memory of ", bytes_text(host_memory_bytes),
         " is too little for staging buffers: give at least ",
         bytes_text(kStagingShare * n_devices * kFewestSlots * kPageBytes));
  }
  budget.slots =
      std::max(kFewestSlots, std::min(per_device, kMostStagingBytes) / budget.slot_bytes);
  budget.staging_bytes = n_devices * budget.slots * budget.slot_bytes;
  budget.cache_bytes = host_memory_bytes - budget.staging_bytes;
  return budget;
}

CacheNeeds plan_caches(const CacheFormat& format, int64_t n_layers, int64_t n_devices,
                       const HostBudget& budget, int64_t free_tail_bytes, int64_t tile_tokens) {
  int64_t tokens = tile_tokens;
  if (tokens == 0) {
    const int64_t kept = format.window_tokens > 0
                             ? std::min(format.window_tokens, format.capacity_tokens)
                             : format.capacity_tokens;
    const auto quarter = static_cast<uint64_t>(ceil_div(kept, 4));
    const int64_t most = std::clamp(static_cast<int64_t>(std::bit_floor(quarter)),
                                    kSmallestTileTokens, kLargestTileTokens);
    tokens = kSmallestTileTokens;
    const auto is_small = [&] {
      return largest_tile_bytes(format.runs.front(), n_devices, tokens) < kWantedTileBytes;
    };
    while (tokens < most && (format.sketch || is_small())) tokens *= 2;
  }
  CacheNeeds needs{tokens, std::vector<int64_t>(static_cast<size_t>(n_devices)), 0, 0, 0, false};
  int64_t largest = 0;
  for (const PageRun& run : format.runs) {
    const TileGeometry geometry(format, run, n_devices, tokens, kSegmentBytes);
    for (int64_t device = 0; device < n_devices; ++device) {
      needs.device_bytes[static_cast<size_t>(device)] += n_layers * geometry.device_bytes(device);
    }
    needs.tail_bytes += n_layers * tail_bytes_of(geometry);
    needs.sketch_bytes += n_layers * format.batch * geometry.row_sketch_bytes();
    largest = std::max(largest, largest_tile_bytes(run, n_devices, tokens));
  }
  const int64_t host_bytes = needs.tail_bytes + needs.sketch_bytes;
  needs.fits_host = largest <= budget.slot_bytes && host_bytes <= free_tail_bytes;
  const int64_t staging = kStagingShare * n_devices * kFewestSlots * largest;
  const int64_t taken = budget.cache_bytes - free_tail_bytes;
  needs.smallest_host_memory_bytes =
      std::max(staging, ceil_div((host_bytes + taken) * kStagingShare, kStagingShare - 1));
  return needs;
}

CacheNeeds plan_caches(const CacheShape& shape, int64_t n_layers, int64_t n_devices,
                       const HostBudget& budget, int64_t free_tail_bytes, int64_t tile_tokens) {
  return plan_caches(shape.format(), n_layers, n_devices, budget, free_tail_bytes, tile_tokens);
}

}  // namespace nspjax
