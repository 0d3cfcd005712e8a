#include "store/announced.h"

#include <algorithm>

namespace nspjax {

void AnnouncedReads::add(const Announced& announced) {
  announced_.push_back(announced);
  if (announced_.size() > kMost) announced_.pop_front();
}

void AnnouncedReads::take(int32_t cache, std::span<const int32_t> rows) {
  std::erase_if(announced_, [&](const Announced& announced) {
    return announced.cache == cache &&
           std::ranges::find_first_of(announced.rows, rows) != announced.rows.end();
  });
}

void AnnouncedReads::drop(int32_t cache) {
  std::erase_if(announced_, [&](const Announced& announced) { return announced.cache == cache; });
}

DeviceReads AnnouncedReads::reads() const {
  DeviceReads reads(n_devices_);
  for (const Announced& announced : announced_) {
    for (size_t d = 0; d < n_devices_; ++d) {
      for (const TileRange& range : announced.ranges[d]) {
        if (std::ssize(reads[d]) < most_ranges_) reads[d].push_back(range);
      }
    }
  }
  return reads;
}

}  // namespace nspjax
