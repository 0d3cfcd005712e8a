// Simulated time of transfers: who may transfer when, at a given bandwidth.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <mutex>

namespace nspjax {

using Clock = std::chrono::steady_clock;

// Slower ones would overflow the clock, and nobody has them.
inline constexpr double kLeastBytesPerS = 1000.0;
// Throws InvalidArgument where there is no such rate.
void check_bytes_per_s(double rate, const char* what);

// 0 bytes_per_s: no limit, no time.
Clock::duration transfer_time(int64_t bytes, double bytes_per_s);

// What does one thing at a time, in the order in which it is asked to.
class Timeline {
 public:
  // Takes `duration` from `from` on, or from when it is free; returns the end. From any thread.
  Clock::time_point occupy(Clock::time_point from, Clock::duration duration) {
    std::lock_guard lock(mutex_);
    free_ = std::max(free_, from) + duration;
    return free_;
  }

 private:
  std::mutex mutex_;
  Clock::time_point free_ = Clock::time_point::min();
};

// The link between the host and its devices, shared by all of them.
class Link {
 public:
  // Throws InvalidArgument.
  explicit Link(double bytes_per_s);

  // When `bytes` that are ready at `from` have crossed. From any thread.
  Clock::time_point reserve(Clock::time_point from, int64_t bytes);

 private:
  double bytes_per_s_;
  Timeline timeline_;
};

}  // namespace nspjax
