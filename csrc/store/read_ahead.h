// What devices are asked to read before somebody waits for it.
#pragma once

#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "device/read_plan.h"
#include "store/announced.h"
#include "store/lane.h"

namespace nspjax {

// Reads of runs of tiles, until each device has as many as it may get.
class ReadList {
 public:
  static constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

  // most_reads, most_bytes: of each device.
  ReadList(const Lane& lane, int64_t most_reads, int64_t most_bytes = kNoLimit);

  bool full() const { return n_full_ == reads_.size(); }
  // Tiles from stored_tiles on are left out. The first read that does not fit ends a device's list.
  void add(const TileGeometry& geometry, const TileSpan& span, int64_t stored_tiles);
  int64_t bytes() const { return bytes_; }
  DeviceReads take() { return std::move(reads_); }

 private:
  struct Left {
    int64_t reads;
    int64_t bytes;
  };

  int64_t read_bytes_;
  std::vector<Left> left_;  // [device]
  size_t n_full_ = 0;
  DeviceReads reads_;
  int64_t bytes_ = 0;
};

}  // namespace nspjax
