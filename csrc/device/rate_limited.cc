#include "device/rate_limited.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <utility>

#include "device/attend_call.h"

namespace nspjax {
namespace {

void check_rate(double bytes_per_s, const char* what) {
  if (bytes_per_s != 0.0) check_bytes_per_s(bytes_per_s, what);
}

int64_t ns_between(Clock::time_point begin, Clock::time_point end) {
  return std::max<int64_t>(0, std::chrono::nanoseconds(end - begin).count());
}

// What an attend call sends to device `index` and gets back, in float32 as AttendCall has it.
struct AttendTraffic {
  int64_t query_bytes = 0;
  int64_t result_bytes = 0;  // out and lse
};

AttendTraffic traffic_of(const AttendCall& call, int64_t index) {
  const int64_t head_dim = call.geometry.shape().head_dim;
  int64_t n_vectors = 0;
  for (const QueryUnit& unit : call.units) {
    n_vectors += call.geometry.heads(unit.row, index).count * std::ssize(unit.first);
  }
  constexpr int64_t kFloat = sizeof(float);
  return {n_vectors * head_dim * kFloat, n_vectors * (head_dim + 1) * kFloat};
}

// Hands ranges on in their order, each when it is due.
class InTime final : public ScanVisitor {
 public:
  InTime(const RateLimitOptions& options, std::span<const TileRange> ranges,
         std::span<const Clock::time_point> due, ScanVisitor& visitor)
      : options_(options), ranges_(ranges), due_(due), arrived_(ranges.size()), visitor_(visitor) {}

  void ready(size_t index, std::shared_ptr<const std::byte> data) override {
    arrived_[index] = std::move(data);
    for (; next_ < arrived_.size() && arrived_[next_]; ++next_) {
      wait_until(due_[next_]);
      if (options_.link && options_.kv_over_link) {
        // asked for one range at a time, so that devices take turns
        wait_until(options_.link->reserve(due_[next_], ranges_[next_].bytes));
      }
      visitor_.ready(next_, std::exchange(arrived_[next_], nullptr));
    }
  }
  std::optional<Clock::time_point> idle_since() const override { return visitor_.idle_since(); }
  int64_t waited_ns() const { return waited_ns_; }

 private:
  void wait_until(Clock::time_point when) {
    const Clock::time_point begun = options_.clock.now();
    if (when <= begun) return;
    options_.clock.sleep_until(when);
    if (const auto idle = visitor_.idle_since()) {
      waited_ns_ += ns_between(std::max(begun, *idle), options_.clock.now());
    }
  }

  const RateLimitOptions& options_;
  std::span<const TileRange> ranges_;
  std::span<const Clock::time_point> due_;
  std::vector<std::shared_ptr<const std::byte>> arrived_;
  size_t next_ = 0;
  ScanVisitor& visitor_;
  int64_t waited_ns_ = 0;
};

}  // namespace

SleepClock SleepClock::steady() {
  return {[] { return Clock::now(); },
          [](Clock::time_point when) { std::this_thread::sleep_until(when); }};
}

RateLimitedDevice::RateLimitedDevice(std::unique_ptr<Device> inner, RateLimitOptions options)
    : inner_(std::move(inner)), options_(std::move(options)) {
  check_rate(options_.limit.read_bytes_per_s, "a read rate");
  check_rate(options_.limit.write_bytes_per_s, "a write rate");
}

DeviceInfo RateLimitedDevice::info() const {
  DeviceInfo info = inner_->info();
  info.kind = "rate-limited " + info.kind;  // nobody shall take its times for a drive's
  return info;
}

Clock::time_point RateLimitedDevice::due(const TileRange& range, Clock::time_point from) {
  const auto found = std::ranges::find(ahead_, range, &Due::range);
  if (found != ahead_.end()) return found->at;
  return timeline_.occupy(from, transfer_time(range.bytes, options_.limit.read_bytes_per_s));
}

// Takes the device's time at once: a guess that was wrong has been read nevertheless. What is ahead
// already is not read again.
void RateLimitedDevice::read_ahead(std::span<const TileRange> next, Clock::time_point from) {
  std::vector<Due> before = std::exchange(ahead_, {});
  int64_t bytes = 0;
  for (const TileRange& range : next) {
    bytes += range.bytes;
    if (bytes > options_.read_ahead_bytes) break;
    const auto known = std::ranges::find(before, range, &Due::range);
    if (known != before.end()) {
      ahead_.push_back(*known);
    } else {
      const auto time = transfer_time(range.bytes, options_.limit.read_bytes_per_s);
      ahead_.push_back({range, timeline_.occupy(from, time)});
    }
  }
}

void RateLimitedDevice::scan(std::span<const TileRange> ranges, std::span<const TileRange> next,
                             ScanVisitor& visitor) {
  if (ranges.empty()) {
    read_ahead(next, options_.clock.now());
    return inner_->scan(ranges, next, visitor);
  }
  const Clock::time_point begun = options_.clock.now();
  std::vector<Clock::time_point> due_at;
  due_at.reserve(ranges.size());
  Clock::time_point end = begun;
  for (const TileRange& range : ranges) {
    due_at.push_back(due(range, begun));
    end = std::max(end, due_at.back());
  }
  read_ahead(next, end);
  InTime in_time(options_, ranges, due_at, visitor);
  inner_->scan(ranges, next, in_time);
  read_wait_ns_ += in_time.waited_ns();
  take_stats();
}

void RateLimitedDevice::write(std::span<const TileWrite> writes, ThreadPool& workers) {
  const Clock::time_point begun = options_.clock.now();
  for (const TileWrite& write : writes) {
    const int64_t bytes = write.range.bytes;
    const auto time = transfer_time(bytes, options_.limit.write_bytes_per_s);
    // while it is on the link the device does other things
    Clock::time_point at = timeline_.occupy(begun, time);
    if (options_.link) at = std::max(at, options_.link->reserve(begun, bytes));
    backlog_.push_back({write.range, at});
    backlog_bytes_ += bytes;
  }
  inner_->write(writes, workers);
  wait_for_writes(kMostBacklogBytes);
  take_stats();
}

void RateLimitedDevice::wait_for_writes(int64_t but_for_bytes) {
  const Clock::time_point begun = options_.clock.now();
  while (!backlog_.empty()) {
    if (backlog_.front().at > options_.clock.now()) {
      if (backlog_bytes_ <= but_for_bytes) break;
      options_.clock.sleep_until(backlog_.front().at);
    }
    backlog_bytes_ -= backlog_.front().range.bytes;
    backlog_.pop_front();
  }
  write_wait_ns_ += ns_between(begun, options_.clock.now());
}

void RateLimitedDevice::attend(const AttendCall& call, int64_t index, ThreadPool& workers) {
  const bool near_storage = options_.link && !options_.kv_over_link;
  const AttendTraffic traffic = near_storage ? traffic_of(call, index) : AttendTraffic{};
  const auto cross = [&](int64_t bytes) {
    if (bytes == 0) return;
    options_.clock.sleep_until(options_.link->reserve(options_.clock.now(), bytes));
  };
  cross(traffic.query_bytes);
  Device::attend(call, index, workers);
  cross(traffic.result_bytes);
}

void RateLimitedDevice::finish_writes() {
  wait_for_writes(0);
  inner_->finish_writes();
  take_stats();
}

void RateLimitedDevice::flush() {
  wait_for_writes(0);
  inner_->flush();
  take_stats();
}

void RateLimitedDevice::take_stats() {
  const DeviceStats& inner = inner_->stats();
  stats_.bytes_read = inner.bytes_read.load();
  stats_.bytes_written = inner.bytes_written.load();
  stats_.n_reads = inner.n_reads.load();
  stats_.n_writes = inner.n_writes.load();
  stats_.read_ns = inner.read_ns.load() + read_wait_ns_;
  stats_.write_ns = inner.write_ns.load() + write_wait_ns_;
  stats_.bytes_read_ahead = inner.bytes_read_ahead.load();
  stats_.bytes_read_in_vain = inner.bytes_read_in_vain.load();
  stats_.n_write_retries = inner.n_write_retries.load();
}

void limit_rates(std::vector<std::unique_ptr<Device>>& devices, const StoreRateLimit& limit,
                 int64_t read_ahead_bytes) {
  check_rate(limit.link_bytes_per_s, "a link");
  const bool no_link = limit.link_bytes_per_s == 0.0;
  if (no_link && limit.kv_over_link) {
    fail(ErrorKind::kInvalidArgument, "kv_over_link needs the rate of the link");
  }
  if (no_link && limit.device.read_bytes_per_s == 0.0 && limit.device.write_bytes_per_s == 0.0) {
    return;
  }
  const auto link = no_link ? nullptr : std::make_shared<Link>(limit.link_bytes_per_s);
  for (std::unique_ptr<Device>& device : devices) {
    device = std::make_unique<RateLimitedDevice>(
        std::move(device), RateLimitOptions{.limit = limit.device,
                                            .link = link,
                                            .kv_over_link = limit.kv_over_link,
                                            .read_ahead_bytes = read_ahead_bytes});
  }
}

}  // namespace nspjax
