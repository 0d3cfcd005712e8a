#include "device/extents.h"

namespace nspjax {

Extent Extents::reserve(int64_t bytes) {
  int64_t offset = begin_;
  for (const auto& [taken_offset, taken_bytes] : taken_) {
    if (taken_offset - offset >= bytes) break;
    offset = taken_offset + taken_bytes;
  }
  taken_.emplace(offset, bytes);
  reserved_bytes_ += bytes;
  return {offset, bytes};
}

void Extents::release(const Extent& extent) {
  if (taken_.erase(extent.offset) == 1) reserved_bytes_ -= extent.bytes;
}

int64_t Extents::end() const {
  return taken_.empty() ? begin_ : taken_.rbegin()->first + taken_.rbegin()->second;
}

}  // namespace nspjax
