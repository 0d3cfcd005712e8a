// Full tiles of a lane: to devices and to where they are pinned, and back.
#include <algorithm>

#include "device/tile_checksums.h"
#include "format/derive.h"
#include "store/lane.h"
#include "store/tile_scan.h"

namespace nspjax {
namespace {

// The same tiles of a run that is derived from the first.
NewTiles derived(std::span<const TileGeometry> runs, size_t run, const NewTiles& tiles) {
  return {tiles.region.of_run(run), tiles.begin, tiles.end,
          [runs, run, &tiles](int64_t device, int64_t tile, std::byte* to) {
            const int64_t row = tiles.region.row;
            thread_local AlignedBuffer scratch;
            if (const int64_t bytes = runs[0].tile_bytes(row, device);
                scratch.size_bytes() < bytes) {
              scratch = AlignedBuffer(bytes);
            }
            tiles.pack(device, tile, scratch.data());
            derive_tile(runs[0], runs[run], row, device, scratch.data(), to);
          }};
}

// A device's part of a tile, and what host memory keeps of it.
void pack_and_sketch(const TileGeometry& geometry, const NewTiles& run, int64_t device,
                     int64_t tile, std::byte* to) {
  run.pack(device, tile, to);
  if (!geometry.sketch() || tile >= run.full_end) return;
  const HeadSet heads = geometry.heads(run.region.row, device);
  for (int64_t i = 0; i < heads.count; ++i) {
    make_sketch(geometry.stored(), to + i * geometry.stored().bytes(), *geometry.sketch(),
                sketch_of(geometry, run.region, tile, heads.head(i)));
  }
}

}  // namespace

void Lane::store_tiles(std::span<const TileGeometry> runs, std::span<const NewTiles> tiles) {
  store_run(runs.front(), tiles);
  for (size_t run = 1; run < runs.size(); ++run) {
    std::vector<NewTiles> of_run;
    for (const NewTiles& each : tiles) of_run.push_back(derived(runs, run, each));
    store_run(runs[run], of_run);
  }
}

void Lane::store_run(const TileGeometry& geometry, std::span<const NewTiles> tiles) {
  std::vector<std::vector<TileWrite>> writes(devices_.size());
  TaskGroup pinning(*workers_);
  int64_t padding_bytes = 0;
  for (const NewTiles& run : tiles) {
    Region& region = run.region;
    // those before would be written over at once
    const int64_t begin = std::max(run.begin, run.end - geometry.room_tiles());
    const int64_t pinned_end = std::clamp(region.pinned_tiles, begin, run.end);
    const int64_t pinned_slots = std::min(pinned_end, geometry.room_tiles());
    if (const int64_t more = pinned_slots - region.n_pinned; more > 0 && pinned_end > begin) {
      region.n_pinned += more;
      counters_.pinned_bytes += more * geometry.pinned_tile_bytes(region.row);
    }
    for (int64_t d = 0; d < geometry.n_devices(); ++d) {
      const int64_t n_heads = geometry.heads(region.row, d).count;
      if (n_heads == 0) continue;
      for (int64_t tile = begin; tile < pinned_end; ++tile) {
        pinning.run([&geometry, &run, d, tile, to = pinned_tile(geometry, region, d, tile)] {
          pack_and_sketch(geometry, run, d, tile, to);
        });
      }
      const int64_t tile_bytes = geometry.tile_bytes(region.row, d);
      make_room_for_checksums(geometry, region, d, std::min(run.end, geometry.room_tiles()));
      const bool sums = checksums_ && !device(d).in_memory();
      const int64_t most = std::max<int64_t>(1, memory_.slot_bytes / tile_bytes);
      for (int64_t first = pinned_end; first < run.end;) {
        const int64_t ring_end = first + geometry.room_tiles() - geometry.slot(first);
        const int64_t stop =
            std::min({first + geometry.segment_tiles(), first + most, ring_end, run.end});
        const auto pack = [=, &run, &geometry](std::byte* to) {
          for (int64_t tile = first; tile < stop; ++tile, to += tile_bytes) {
            pack_and_sketch(geometry, run, d, tile, to);
            if (sums) note_checksums(geometry, run.region, d, tile, to);
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
