// How a run of tiles is cut into reads.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "device/device.h"
#include "format/region.h"

namespace nspjax {

// Tiles [begin, end) of a region, to be read at once.
struct TileRead {
  TileRange range;
  int64_t begin;
  int64_t end;
};

// The reads of what is stored of the span on the device, each at most `read_bytes` (but a tile at
// least): of whole segments, or of a part of one where that is larger or the ring of slots begins
// anew. Pinned tiles and those from `stored_tiles` on are left out, and so are reads beyond
// most_reads.
std::vector<TileRead> plan_reads(const TileGeometry& geometry, const TileSpan& span,
                                 int64_t stored_tiles, int64_t device, int64_t read_bytes,
                                 int64_t most_reads = std::numeric_limits<int64_t>::max());

}  // namespace nspjax
