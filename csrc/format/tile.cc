#include "format/tile.h"

#include <algorithm>

namespace nspjax {

TileGeometry::TileGeometry(const CacheShape& shape, int64_t n_devices, int64_t tile_tokens,
                           int64_t segment_bytes)
    : shape_(shape),
      n_devices_(n_devices),
      stored_(shape.stored, shape.head_dim, tile_tokens),
      tail_(shape.dtype, shape.head_dim, tile_tokens) {
  const int64_t largest = largest_tile_bytes(shape, n_devices, tile_tokens);
  segment_tiles_ = std::max<int64_t>(1, segment_bytes / largest);
  for (int64_t device = 0; device < n_devices; ++device) {
    std::vector<int64_t> offsets = {0};
    offsets.reserve(static_cast<size_t>(shape.batch) + 1);
    for (int64_t row = 0; row < shape.batch; ++row) {
      offsets.push_back(offsets.back() + row_bytes(row, device));
    }
    row_offsets_.push_back(std::move(offsets));
  }
}

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

int64_t largest_tile_bytes(const CacheShape& shape, int64_t n_devices, int64_t tile_tokens) {
  const int64_t heads = ceil_div(shape.n_kv_heads, n_devices);
  return round_up(heads * HeadTile(shape.stored, shape.head_dim, tile_tokens).bytes(), kPageBytes);
}

}  // namespace nspjax
