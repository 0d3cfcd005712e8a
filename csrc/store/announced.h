// What will be attended over next, as somebody who knows has said. Who uses it has
// access to the devices (store/lane.h).
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "device/device.h"

namespace nspjax {

// In the order in which each device gets them.
using DeviceReads = std::vector<std::vector<TileRange>>;  // [device]

// The reads of some rows of a cache.
struct Announced {
  int32_t cache;
  std::vector<int32_t> rows;
  DeviceReads ranges;
};

class AnnouncedReads {
 public:
  AnnouncedReads() = default;
  // most_ranges: what reads() gives at most, for each device.
  AnnouncedReads(size_t n_devices, int64_t most_ranges)
      : n_devices_(n_devices), most_ranges_(most_ranges) {}

  void add(const Announced& announced);
  // Those rows are attended over now.
  void take(int32_t cache, std::span<const int32_t> rows);
  void drop(int32_t cache);
  // What is left, in the order in which it was announced.
  DeviceReads reads() const;

 private:
  static constexpr size_t kMost = 256;  // the oldest were announced in vain

  size_t n_devices_ = 0;
  int64_t most_ranges_ = 0;
  std::deque<Announced> announced_;
};

}  // namespace nspjax
