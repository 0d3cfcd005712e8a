// Full tiles of a lane: to devices and to where they are pinned, and back.
#include <algorithm>

#include "base/crc32c.h"
#include "store/lane.h"
#include "store/tile_scan.h"

namespace nspjax {

void Lane::store_tiles(const TileGeometry& geometry, std::span<const NewTiles> tiles) {
  std::vector<std::vector<TileWrite>> writes(devices_.size());
  TaskGroup pinning(*workers_);
  int64_t padding_bytes = 0;
  for (const NewTiles& run : tiles) {
    Region& region = run.region;
    const int64_t pinned_end = std::clamp(region.pinned_tiles, run.begin, run.end);
    if (const int64_t more = std::min(region.pinned_tiles, run.end) - region.n_pinned; more > 0) {
      region.n_pinned += more;
      counters_.pinned_bytes += more * geometry.pinned_tile_bytes(region.row);
    }
    for (int64_t d = 0; d < geometry.n_devices(); ++d) {
      const int64_t n_heads = geometry.heads(region.row, d).count;
      if (n_heads == 0) continue;
      for (int64_t tile = run.begin; tile < pinned_end; ++tile) {
        pinning.run([&run, d, tile, to = pinned_tile(geometry, region, d, tile)] {
          run.pack(d, tile, to);
        });
      }
      const int64_t tile_bytes = geometry.tile_bytes(region.row, d);
      std::vector<uint32_t>& checksums = region.checksums[static_cast<size_t>(d)];
      if (std::ssize(checksums) < run.end) checksums.resize(static_cast<size_t>(run.end));
      const bool sums = checksums_ && !device(d).in_memory();
      const int64_t most = std::max<int64_t>(1, memory_.slot_bytes / tile_bytes);
      for (int64_t first = pinned_end; first < run.end;) {
        const int64_t stop = std::min({first + geometry.segment_tiles(), first + most, run.end});
        const auto pack = [=, &run, &checksums](std::byte* to) {
          for (int64_t tile = first; tile < stop; ++tile, to += tile_bytes) {
            run.pack(d, tile, to);
            if (!sums) continue;
            checksums[static_cast<size_t>(tile)] = crc32c({to, static_cast<size_t>(tile_bytes)});
          }
        };
        writes[static_cast<size_t>(d)].push_back(
            {{tile_offset(geometry, region, d, first), (stop - first) * tile_bytes}, pack});
        padding_bytes += (stop - first) * (tile_bytes - n_heads * geometry.stored().bytes());
        first = stop;
      }
    }
  }
  on_all_devices([&](Device& device, int64_t d) {
    const auto& of_device = writes[static_cast<size_t>(d)];
    if (!of_device.empty()) device.write(of_device, *workers_);
  });
  pinning.wait();
  counters_.padding_bytes += padding_bytes;
}

void Lane::read_tiles(const TileGeometry& geometry, const TilesToRead& tiles) {
  on_all_devices([&](Device& device, int64_t d) {
    TileScan scan(geometry, tiles.spans, device, d,
                  {.read_bytes = memory_.slot_bytes,
                   .verify = tiles.verify,
                   .crosses_link = tiles.crosses_link},
                  *workers_, [&](size_t span, int64_t tile, const std::byte* data) {
                    tiles.visit(d, span, tile, data);
                  });
    scan.run(tiles.next[static_cast<size_t>(d)]);
    if (tiles.crosses_link) counters_.fetched_bytes += scan.bytes_read();
  });
}

}  // namespace nspjax
