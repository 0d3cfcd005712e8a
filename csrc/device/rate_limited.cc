#include "device/rate_limited.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <utility>

#include "device/attend_call.h"
#include "device/host_attention.h"

namespace nspjax {
namespace {

void check_rate(double bytes_per_s, const char* what) {
  if (bytes_per_s != 0.0) check_bytes_per_s(bytes_per_s, what);
}

int64_t ns_between(Clock::time_point begin, Clock::time_point end) {
  return std::max<int64_t>(0, std::chrono::nanoseconds(end - begin).count());
}

// Hands ranges on in their order, each when it is due.
class InTime final : public ScanVisitor {
 public:
  // due(i): takes the drive's time for range i; asked for each once, in order.
  InTime(const RateLimitOptions& options, std::span<const TileRange> ranges,
         std::function<Clock::time_point(size_t)> due, ScanVisitor& visitor)
      : options_(options),
        ranges_(ranges),
        due_(std::move(due)),
        arrived_(ranges.size()),
        visitor_(visitor) {}

  void ready(size_t index, std::shared_ptr<const std::byte> data) override {
    arrived_[index] = std::move(data);
    for (; next_ < arrived_.size() && arrived_[next_]; ++next_) {
      // drive and link are asked for one range at a time, so that devices take turns
      const Clock::time_point due = due_(next_);
      wait_until(due);
      if (options_.link && crosses_link()) {
        wait_until(options_.link->reserve(due, ranges_[next_].bytes));
      }
      visitor_.ready(next_, std::exchange(arrived_[next_], nullptr));
    }
  }
  std::optional<Clock::time_point> idle_since() const override { return visitor_.idle_since(); }
  bool crosses_link() const override { return options_.kv_over_link || visitor_.crosses_link(); }
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
  std::function<Clock::time_point(size_t)> due_;
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
  if (!options_.drive) options_.drive = std::make_shared<Timeline>();
}

DeviceInfo RateLimitedDevice::info() const {
  DeviceInfo info = inner_->info();
  info.kind = "rate-limited " + info.kind;  // nobody shall take its times for a drive's
  return info;
}

Clock::time_point RateLimitedDevice::due(const TileRange& range, Clock::time_point from) {
  const auto found = std::ranges::find(ahead_, range, &Due::range);
  if (found != ahead_.end()) return found->at;
  return options_.drive->occupy(from, transfer_time(range.bytes, options_.limit.read_bytes_per_s));
}

// Takes the device's time at once: a guess that was wrong has been read nevertheless. What is ahead
// already is not read again.
void RateLimitedDevice::expect(std::span<const TileRange> next, Clock::time_point from) {
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
      ahead_.push_back({range, options_.drive->occupy(from, time)});
    }
  }
}

void RateLimitedDevice::scan(std::span<const TileRange> ranges, std::span<const TileRange> next,
                             ScanVisitor& visitor) {
  if (ranges.empty()) expect(next, options_.clock.now());
  const Clock::time_point begun = options_.clock.now();
  Clock::time_point end = begun;
  const auto due_at = [&](size_t index) {
    const Clock::time_point at = due(ranges[index], begun);
    end = std::max(end, at);
    if (index + 1 == ranges.size()) expect(next, end);
    return at;
  };
  InTime in_time(options_, ranges, due_at, visitor);
  inner_->scan(ranges, next, in_time);
  read_wait_ns_ += in_time.waited_ns();
}

void RateLimitedDevice::read_ahead(std::span<const TileRange> next) {
  expect(next, options_.clock.now());
  inner_->read_ahead(next);
}

void RateLimitedDevice::write(std::span<const TileWrite> writes, ThreadPool& workers) {
  const Clock::time_point begun = options_.clock.now();
  for (const TileWrite& write : writes) {
    const int64_t bytes = write.range.bytes;
    const auto time = transfer_time(bytes, options_.limit.write_bytes_per_s);
    // while it is on the link the device does other things
    Clock::time_point at = options_.drive->occupy(begun, time);
    if (options_.link) at = std::max(at, options_.link->reserve(begun, bytes));
    backlog_.push_back({write.range, at});
    backlog_bytes_ += bytes;
  }
  inner_->write(writes, workers);
  wait_for_writes(kMostBacklogBytes);
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
  attend_on_host(*this, call, index, workers);
  cross(traffic.result_bytes);
}

void RateLimitedDevice::finish_writes() {
  wait_for_writes(0);
  inner_->finish_writes();
}

void RateLimitedDevice::flush() {
  wait_for_writes(0);
  inner_->flush();
}

DeviceStats RateLimitedDevice::stats() const {
  DeviceStats stats = inner_->stats();
  stats.read_ns += read_wait_ns_;
  stats.write_ns += write_wait_ns_;
  return stats;
}

SimulatedHardware limit_rates(std::vector<std::unique_ptr<Device>>& devices,
                              const StoreRateLimit& limit, int64_t read_ahead_bytes,
                              SimulatedHardware shared) {
  check_rate(limit.link_bytes_per_s, "a link");
  const bool no_link = limit.link_bytes_per_s == 0.0;
  if (no_link && limit.kv_over_link) {
    fail(ErrorKind::kInvalidArgument, "kv_over_link needs the rate of the link");
  }
  if (no_link && limit.device.read_bytes_per_s == 0.0 && limit.device.write_bytes_per_s == 0.0) {
    return {};
  }
  if (shared.drives.empty()) {
    if (!no_link) shared.link = std::make_shared<Link>(limit.link_bytes_per_s);
    for (size_t d = 0; d < devices.size(); ++d) {
      shared.drives.push_back(std::make_shared<Timeline>());
    }
  }
  for (size_t d = 0; d < devices.size(); ++d) {
    if (devices[d]->has_processor()) {
      fail(ErrorKind::kInvalidArgument, devices[d]->info().spec,
           " cannot be rate-limited: its own processor attends, not the host; use a directory");
    }
    devices[d] = std::make_unique<RateLimitedDevice>(
        std::move(devices[d]), RateLimitOptions{.limit = limit.device,
                                                .link = shared.link,
                                                .drive = shared.drives[d],
                                                .kv_over_link = limit.kv_over_link,
                                                .read_ahead_bytes = read_ahead_bytes});
  }
  return shared;
}

}  // namespace nspjax
