#include "store/read_ahead.h"

namespace nspjax {

ReadList::ReadList(const Lane& lane, int64_t most_reads, int64_t most_bytes)
    : read_bytes_(lane.memory().slot_bytes),
      left_(static_cast<size_t>(lane.n_devices()), {most_reads, most_bytes}),
      reads_(left_.size()) {}

void ReadList::add(const TileGeometry& geometry, const TileSpan& span, int64_t stored_tiles) {
  for (size_t d = 0; d < reads_.size(); ++d) {
    Left& left = left_[d];
    if (left.reads == 0) continue;
    for (const TileRead& read : plan_reads(geometry, span, stored_tiles, static_cast<int64_t>(d),
                                           read_bytes_, left.reads)) {
      if (read.range.bytes > left.bytes) {
        left.reads = 0;
        break;
      }
      --left.reads;
      left.bytes -= read.range.bytes;
      bytes_ += read.range.bytes;
      reads_[d].push_back(read.range);
    }
    if (left.reads == 0) ++n_full_;
  }
}

}  // namespace nspjax
