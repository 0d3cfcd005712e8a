// Adds the time between construction and destruction to a counter.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace nspjax {

class ScopedTimer {
 public:
  explicit ScopedTimer(std::atomic<int64_t>& ns) : ns_(ns) {}
  ~ScopedTimer() { ns_ += elapsed_ns(); }
  ScopedTimer(const ScopedTimer&) = delete;
  ScopedTimer& operator=(const ScopedTimer&) = delete;

 private:
  int64_t elapsed_ns() const {
    const auto elapsed = std::chrono::steady_clock::now() - begun_;
    return std::chrono::duration_cast<std::chrono::nanoseconds>(elapsed).count();
  }

  std::atomic<int64_t>& ns_;
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
};

}  // namespace nspjax
