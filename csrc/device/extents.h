// Which parts of a device's address space are taken, first fit.
#pragma once

#include <cstdint>
#include <map>

#include "device/device.h"

namespace nspjax {

class Extents {
 public:
  explicit Extents(int64_t begin) : begin_(begin) {}

  Extent reserve(int64_t bytes);
  void release(const Extent& extent);
  int64_t reserved_bytes() const { return reserved_bytes_; }
  // Where the last one ends.
  int64_t end() const;

 private:
  int64_t begin_;
  int64_t reserved_bytes_ = 0;
  std::map<int64_t, int64_t> taken_;  // offset -> bytes
};

}  // namespace nspjax
