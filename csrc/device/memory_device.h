// Tiles in host memory: the device without storage.
#pragma once

#include <map>

#include "base/align.h"
#include "device/device.h"
#include "device/extents.h"

namespace nspjax {

class MemoryDevice final : public TileDevice {
 public:
  DeviceInfo info() const override;
  int64_t available_bytes() const override;
  Extent reserve(int64_t bytes) override;
  void release(const Extent& extent) override;
  bool in_memory() const override { return true; }
  void write(std::span<const TileWrite> writes, ThreadPool& workers) override;
  void scan(std::span<const TileRange> ranges, std::span<const TileRange> next,
            ScanVisitor& visitor) override;
  void read_ahead(std::span<const TileRange>) override {}
  void finish_writes() override {}
  void flush() override {}
  void close() override { regions_.clear(); }

 private:
  std::byte* at(int64_t offset) const;

  Extents extents_{0};
  std::map<int64_t, MappedRegion> regions_;  // by the offset of their extent
};

}  // namespace nspjax
