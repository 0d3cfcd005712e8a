#include "device/link.h"

#include <cmath>

#include "base/error.h"

namespace nspjax {

void check_bytes_per_s(double rate, const char* what) {
  if (std::isfinite(rate) && rate >= kLeastBytesPerS) return;
  fail(ErrorKind::kInvalidArgument, what, " of ", rate, " bytes a second: give a finite one, ",
       kLeastBytesPerS, " or more");
}

Clock::duration transfer_time(int64_t bytes, double bytes_per_s) {
  if (bytes_per_s == 0.0) return Clock::duration::zero();
  const double ns = static_cast<double>(bytes) / bytes_per_s * 1e9;
  return std::chrono::nanoseconds(std::llround(ns));
}

Link::Link(double bytes_per_s) : bytes_per_s_(bytes_per_s) {
  check_bytes_per_s(bytes_per_s, "a link");
}

Clock::time_point Link::reserve(Clock::time_point from, int64_t bytes) {
  return timeline_.occupy(from, transfer_time(bytes, bytes_per_s_));
}

}  // namespace nspjax
