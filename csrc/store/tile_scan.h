// Full tiles of some rows as they come from a device, or from where they are pinned.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "device/device.h"
#include "device/read_plan.h"

namespace nspjax {

struct TileScanOptions {
  int64_t read_bytes;  // at most, in one read
  bool verify;         // checksums of what is read
  bool crosses_link = false;
};

// The spans hold full tiles only, and outlive the scan.
class TileScan final : public ScanVisitor {
 public:
  // Tile `tile` of spans[span]; called by any worker, for each tile once, `data` is good meanwhile.
  using Visit = std::function<void(size_t span, int64_t tile, const std::byte* data)>;

  TileScan(const TileGeometry& geometry, std::span<const TileSpan> spans, Device& device,
           int64_t device_index, const TileScanOptions& options, ThreadPool& workers, Visit visit);

  // Until all tiles were visited. `next`: what the device may read from then on.
  // Throws what the device does, StoreDamaged, and what `visit` does.
  void run(std::span<const TileRange> next = {});
  int64_t bytes_read() const { return bytes_read_; }

  void ready(size_t index, std::shared_ptr<const std::byte> data) override;
  std::optional<std::chrono::steady_clock::time_point> idle_since() const override {
    return tasks_.idle_since();
  }
  bool crosses_link() const override { return options_.crosses_link; }

 private:
  struct Arrival {
    size_t span;
    int64_t begin;  // tiles
    int64_t end;
  };
  void visit_read(const Arrival& arrival, int64_t begin, int64_t end, const std::byte* data) const;

  const TileGeometry& geometry_;
  std::span<const TileSpan> spans_;
  Device& device_;
  int64_t device_index_;
  TileScanOptions options_;
  Visit visit_;
  std::vector<TileRange> ranges_;
  std::vector<Arrival> arrivals_;  // of ranges_
  int64_t bytes_read_ = 0;
  TaskGroup tasks_;  // last: waits for tasks that use the rest
};

}  // namespace nspjax
