// The tiles of one row, wherever they are: of the cache's first page run, and of the others. Rows
// that share a prefix refer to the same region.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "format/tile.h"

namespace nspjax {

struct Region {
  int64_t row;                   // whose heads' places on the devices it has
  std::vector<int64_t> offsets;  // [device], of slot 0
  // The first tiles are in host memory, all devices' parts side by side, instead of on a device.
  std::byte* pinned = nullptr;
  int64_t pinned_tiles = 0;  // of a ring of slots all or none
  int64_t n_pinned = 0;      // pinned slots up to the last that was written
  // [device], of tiles that were stored: in the order of slots, one for each checked_bytes().
  std::vector<std::vector<uint32_t>> checksums;
  std::shared_ptr<const MappedRegion> sketches;  // of tiles that were stored, pinned ones too
  std::vector<Region> more;  // the same of the cache's further page runs, of which none is pinned

  const Region& of_run(size_t run) const { return run == 0 ? *this : more[run - 1]; }
  Region& of_run(size_t run) { return run == 0 ? *this : more[run - 1]; }
};

// Tiles [begin, end) of a row, all in one region.
struct TileSpan {
  const Region* region;
  int64_t begin;
  int64_t end;
};

inline int64_t tile_offset(const TileGeometry& geometry, const Region& region, int64_t device,
                           int64_t tile) {
  return region.offsets[static_cast<size_t>(device)] +
         geometry.slot(tile) * geometry.tile_bytes(region.row, device);
}

inline std::byte* sketch_of(const TileGeometry& geometry, const Region& region, int64_t tile,
                            int64_t head) {
  return region.sketches->data() + geometry.sketch_offset(tile, head);
}

// A pinned tile's part for a device.
inline std::byte* pinned_tile(const TileGeometry& geometry, const Region& region, int64_t device,
                              int64_t tile) {
  return region.pinned + geometry.slot(tile) * geometry.pinned_tile_bytes(region.row) +
         geometry.pinned_offset(region.row, device);
}

}  // namespace nspjax
