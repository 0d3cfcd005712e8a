#include "format/tile.h"

#include <algorithm>

#include "base/error.h"

namespace nspjax {

namespace {

int64_t tile_tokens_of(const PageRun& run, int64_t tile_tokens) {
  return run.tile_tokens > 0 ? run.tile_tokens : tile_tokens;
}

}  // namespace

TileGeometry::TileGeometry(const CacheFormat& format, const PageRun& run, int64_t n_devices,
                           int64_t tile_tokens, int64_t segment_bytes)
    : shape_{format.batch, format.capacity_tokens, run.heads(),         run.width(),
             format.dtype, run.stored(),           format.window_tokens},
      run_(run),
      n_devices_(n_devices),
      stored_(run, run.stored(), tile_tokens_of(run, tile_tokens)),
      tail_(run, format.dtype, tile_tokens_of(run, tile_tokens)),
      room_tiles_(capacity_tiles()) {
  run.check();
  if (format.window_tokens > 0) {
    room_tiles_ = std::min(room_tiles_, ceil_div(format.window_tokens, this->tile_tokens()) + 1);
  }
  if (format.sketch && !run.derived) {
    if (format.window_tokens > 0) {
      fail(ErrorKind::kInvalidArgument, "a cache of which a window is kept has no sketch: its ",
           "attention reads no more than the window; make it without one of the two");
    }
    sketch_.emplace(stored_);
    shape_.sketch = true;
  }
  const int64_t largest = largest_tile_bytes(run, n_devices, tile_tokens);
  segment_tiles_ = std::max<int64_t>(1, segment_bytes / largest);
  for (int64_t device = 0; device < n_devices; ++device) {
    std::vector<int64_t> offsets = {0};
    offsets.reserve(static_cast<size_t>(format.batch) + 1);
    for (int64_t row = 0; row < format.batch; ++row) {
      offsets.push_back(offsets.back() + row_bytes(row, device));
    }
    row_offsets_.push_back(std::move(offsets));
  }
}

TileGeometry::TileGeometry(const CacheShape& shape, int64_t n_devices, int64_t tile_tokens,
                           int64_t segment_bytes)
    : TileGeometry(shape.format(), shape.run(), n_devices, tile_tokens, segment_bytes) {}

HeadSet TileGeometry::heads(int64_t row, int64_t device) const {
  const int64_t n_heads = shape_.n_kv_heads;
  // the smallest head with (row * n_heads + head) % n_devices == device
  const int64_t shift = (device - row * n_heads) % n_devices_;
  const int64_t first = shift < 0 ? shift + n_devices_ : shift;
  return {first, n_devices_, first < n_heads ? ceil_div(n_heads - first, n_devices_) : 0};
}

int64_t TileGeometry::tail_offset(int64_t row, int64_t device) const {
  int64_t offset = 0;
  for (int64_t d = 0; d < device; ++d) offset += heads(row, d).count * tail_.bytes();
  return offset;
}

int64_t TileGeometry::pinned_offset(int64_t row, int64_t device) const {
  int64_t offset = 0;
  for (int64_t d = 0; d < device; ++d) offset += tile_bytes(row, d);
  return offset;
}

std::vector<TileGeometry> geometries_of(const CacheFormat& format, int64_t n_devices,
                                        int64_t tile_tokens, int64_t segment_bytes) {
  std::vector<TileGeometry> runs;
  for (const PageRun& run : format.runs) {
    runs.emplace_back(format, run, n_devices, tile_tokens, segment_bytes);
    if (runs.back().tile_tokens() == runs.front().tile_tokens()) continue;
    fail(ErrorKind::kInvalidArgument, "the plane ", run.plane[0].name, " has tiles of ",
         runs.back().tile_tokens(), " tokens, and those it is written with have ",
         runs.front().tile_tokens(), ": they must be the same");
  }
  return runs;
}

int64_t largest_tile_bytes(const PageRun& run, int64_t n_devices, int64_t tile_tokens) {
  const HeadTile head(run, run.stored(), tile_tokens_of(run, tile_tokens));
  return round_up(ceil_div(run.heads(), n_devices) * head.bytes(), kPageBytes);
}

}  // namespace nspjax
