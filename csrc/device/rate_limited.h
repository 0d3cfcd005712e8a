// A device around another that is no faster than it is told: drives and links that this machine
// does not have. Data and results are the inner device's; only the times at which they come are
// made up.
//
// The model is a timeline. A drive does one transfer at a time, each takes bytes / bandwidth, in
// the order asked for; a range reaches the visitor when it is due, not before. What the real device
// cannot keep up with comes later than that. Devices that share a drive take turns, range by range.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "device/device.h"
#include "device/link.h"

namespace nspjax {

struct RateLimit {
  double read_bytes_per_s = 0;  // 0: none
  double write_bytes_per_s = 0;
};

struct SleepClock {
  std::function<Clock::time_point()> now;
  std::function<void(Clock::time_point)> sleep_until;

  static SleepClock steady();
};

struct RateLimitOptions {
  RateLimit limit = {};
  std::shared_ptr<Link> link = {};       // null: none
  std::shared_ptr<Timeline> drive = {};  // null: of its own
  // false, near storage: q, the results, what is appended and what is fetched cross the link, what
  // is attended over does not. true, attention on the host: what is scanned and what is appended
  // crosses it.
  bool kv_over_link = false;
  int64_t read_ahead_bytes = 0;  // how much of the next scan the device reads of its own accord
  SleepClock clock = SleepClock::steady();
};

class RateLimitedDevice final : public Device {
 public:
  // Throws InvalidArgument.
  RateLimitedDevice(std::unique_ptr<Device> inner, RateLimitOptions options);

  DeviceInfo info() const override;
  int64_t available_bytes() const override { return inner_->available_bytes(); }
  bool in_memory() const override { return inner_->in_memory(); }
  bool has_processor() const override { return inner_->has_processor(); }
  DeviceStats stats() const override;
  void record_in(Trace& trace, int32_t index) override { inner_->record_in(trace, index); }
  void check_cache(const TileGeometry& geometry) const override { inner_->check_cache(geometry); }
  Extent reserve(int64_t bytes) override { return inner_->reserve(bytes); }
  void release(const Extent& extent) override { inner_->release(extent); }
  // Waits only while more than kMostBacklogBytes are still being written.
  void write(std::span<const TileWrite> writes, ThreadPool& workers) override;
  void scan(std::span<const TileRange> ranges, std::span<const TileRange> next,
            ScanVisitor& visitor) override;
  void read_ahead(std::span<const TileRange> next) override;
  void attend(const AttendCall& call, int64_t index, ThreadPool& workers) override;
  void finish_writes() override;
  void flush() override;
  void close() override { inner_->close(); }

  static constexpr int64_t kMostBacklogBytes = 64 << 20;

 private:
  struct Due {
    TileRange range;
    Clock::time_point at;
  };
  Clock::time_point due(const TileRange& range, Clock::time_point from);
  void expect(std::span<const TileRange> next, Clock::time_point from);
  void wait_for_writes(int64_t but_for_bytes);

  std::unique_ptr<Device> inner_;
  RateLimitOptions options_;
  std::vector<Due> ahead_;   // of the scan that is expected next
  std::deque<Due> backlog_;  // writes that were not done when last looked at
  int64_t backlog_bytes_ = 0;
  std::atomic<int64_t> read_wait_ns_ = 0;  // beside the inner device's
  std::atomic<int64_t> write_wait_ns_ = 0;
};

// The limits of a store, the same for each of its devices; all 0 leaves the devices as they are.
struct StoreRateLimit {
  RateLimit device = {};
  double link_bytes_per_s = 0;
  bool kv_over_link = false;
};

// What is simulated of a store's hardware, for two stores to share.
struct SimulatedHardware {
  std::shared_ptr<Link> link;                     // null: none
  std::vector<std::shared_ptr<Timeline>> drives;  // [device]; none: nothing is limited
};

// Throws InvalidArgument. read_ahead_bytes: of each device. `shared`: another store's with the same
// limits; without, it is made. Returns what the devices have.
SimulatedHardware limit_rates(std::vector<std::unique_ptr<Device>>& devices,
                              const StoreRateLimit& limit, int64_t read_ahead_bytes,
                              SimulatedHardware shared = {});

}  // namespace nspjax
