// Where the tiles of a row's planes lie on the devices: the only place with address arithmetic.
// What is inside a head's part of a tile is head_tile.h's.
//
// The unit of placement is (row, head): unit row * heads + head is on device unit % n_devices, so
// heads of a row never exchange data across devices. Each row has one region on each device for
// each page run: slots for tiles in token order, each tile_tokens tokens of the row's heads there,
//
//   tile = [head 0][head 1] ... padded to a page
//
// so a spilled tile is one write and a scan of a row is one contiguous read. Where a row keeps a
// window of its tokens, its region is a ring of room_tiles slots: a tile takes the place of the one
// room_tiles before it. The tile that is not
// full yet, the tail, is in host memory and in the type that was appended; a full tile is in the
// stored type, which may be a smaller one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/align.h"
#include "format/head_tile.h"
#include "format/planes.h"
#include "format/sketch.h"

namespace nspjax {

// The heads of one row on one device: first, first + step, ... (count of them).
struct HeadSet {
  int64_t first;
  int64_t step;
  int64_t count;

  int64_t head(int64_t i) const { return first + i * step; }
};

// Of one page run of a cache.
class TileGeometry {
 public:
  // tile_tokens: of the cache; a run may have its own. segment_bytes: what one task attends over at
  // most, but for a tile that is larger.
  TileGeometry(const CacheFormat& format, const PageRun& run, int64_t n_devices,
               int64_t tile_tokens, int64_t segment_bytes);
  // Of K and V.
  TileGeometry(const CacheShape& shape, int64_t n_devices, int64_t tile_tokens,
               int64_t segment_bytes);

  // Of a plane of the run.
  const CacheShape& shape() const { return shape_; }
  const PageRun& run() const { return run_; }
  int64_t n_devices() const { return n_devices_; }
  int64_t tile_tokens() const { return stored_.tile_tokens(); }
  int64_t capacity_tiles() const { return ceil_div(shape_.capacity_tokens, tile_tokens()); }
  // What a row has room for at a time: all of its capacity or, with a window, the full tiles that
  // hold it and one more, so that an append of a tile takes nothing from what was seen before it.
  int64_t room_tiles() const { return room_tiles_; }
  // A tile's place among them.
  int64_t slot(int64_t tile) const { return tile % room_tiles_; }
  const HeadTile& stored() const { return stored_; }
  const HeadTile& tail() const { return tail_; }

  HeadSet heads(int64_t row, int64_t device) const;
  // Whether two rows have their heads on the same devices.
  bool same_places(int64_t row, int64_t other) const {
    return (row - other) * shape_.n_kv_heads % n_devices_ == 0;
  }

  int64_t tile_bytes(int64_t row, int64_t device) const {
    return round_up(heads(row, device).count * stored_.bytes(), kPageBytes);
  }
  // The tail has the parts of all devices side by side.
  int64_t tail_offset(int64_t row, int64_t device) const;
  int64_t tail_bytes(int64_t row) const { return tail_offset(row, n_devices_); }
  // Full tiles of a row on all devices side by side, as they are pinned.
  int64_t pinned_offset(int64_t row, int64_t device) const;
  int64_t pinned_tile_bytes(int64_t row) const { return pinned_offset(row, n_devices_); }

  // What of a tile on a device has a checksum of its own: all of it or, where parts of a tile are
  // read, a page.
  int64_t checked_bytes(int64_t row, int64_t device) const {
    return sketch_ ? kPageBytes : tile_bytes(row, device);
  }
  // What host memory keeps of a head's stored tile, if anything.
  const std::optional<SketchTile>& sketch() const { return sketch_; }
  // Of a row with all its tiles; tile after tile, head after head, whichever device they are on.
  int64_t row_sketch_bytes() const { return sketch_offset(room_tiles_, 0); }
  int64_t sketch_offset(int64_t tile, int64_t head) const {
    return sketch_ ? (tile * shape_.n_kv_heads + head) * sketch_->bytes() : 0;
  }

  // A row's region on a device, from the start of the cache's extent there.
  int64_t row_offset(int64_t row, int64_t device) const {
    return row_offsets_[static_cast<size_t>(device)][static_cast<size_t>(row)];
  }
  int64_t device_bytes(int64_t device) const { return row_offset(shape_.batch, device); }
  int64_t row_bytes(int64_t row, int64_t device) const {
    return room_tiles_ * tile_bytes(row, device);
  }

  // Attention is cut at multiples of this many tiles, on every device and for every row alike: what
  // is added to what depends on the position of a token only.
  int64_t segment_tiles() const { return segment_tiles_; }

 private:
  CacheShape shape_;
  PageRun run_;
  int64_t n_devices_;
  HeadTile stored_;
  HeadTile tail_;
  std::optional<SketchTile> sketch_;
  int64_t room_tiles_;
  int64_t segment_tiles_;
  std::vector<std::vector<int64_t>> row_offsets_;  // [device][row], and the end
};

// Of all page runs of a cache, in their order. Throws InvalidArgument where tiles of one cannot be
// written with those of the first, which they are derived from.
std::vector<TileGeometry> geometries_of(const CacheFormat& format, int64_t n_devices,
                                        int64_t tile_tokens, int64_t segment_bytes);

// The largest tile of any row and device; tile_tokens: of the cache.
int64_t largest_tile_bytes(const PageRun& run, int64_t n_devices, int64_t tile_tokens);

}  // namespace nspjax
