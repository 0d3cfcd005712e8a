#include "device/read_plan.h"

#include <algorithm>

namespace nspjax {

std::vector<TileRead> plan_reads(const TileGeometry& geometry, const TileSpan& span,
                                 int64_t stored_tiles, int64_t device, int64_t read_bytes,
                                 int64_t most_reads) {
  std::vector<TileRead> reads;
  const Region& region = *span.region;
  const int64_t tile_bytes = geometry.tile_bytes(region.row, device);
  if (tile_bytes == 0) return reads;
  const int64_t segment = geometry.segment_tiles();
  const int64_t most = std::max<int64_t>(1, read_bytes / tile_bytes);
  const int64_t stride = most < segment ? segment : round_down(most, segment);
  const int64_t last = std::min(span.end, stored_tiles);
  for (int64_t begin = std::max(span.begin, region.pinned_tiles);
       begin < last && std::ssize(reads) < most_reads;) {
    const int64_t ring_end = begin + geometry.room_tiles() - geometry.slot(begin);
    const int64_t end =
        std::min({round_down(begin, stride) + stride, begin + most, ring_end, last});
    reads.push_back(
        {{tile_offset(geometry, region, device, begin), (end - begin) * tile_bytes}, begin, end});
    begin = end;
  }
  return reads;
}

}  // namespace nspjax
