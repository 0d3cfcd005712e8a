// The buffers between a device and the attention workers: a fixed number, page-aligned, reused.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "base/align.h"

namespace nspjax {

class StagingRing {
 public:
  // memory: of n_slots * slot_bytes, page-aligned; null: the ring's own.
  StagingRing(int64_t n_slots, int64_t slot_bytes, std::shared_ptr<std::byte> memory = nullptr);

  // A buffer that comes back to the ring when the last copy of the pointer goes.
  using Slot = std::shared_ptr<std::byte>;
  Slot try_acquire();  // null where all are in use
  void wait_for_free();
  int64_t n_free();

  std::span<std::byte> arena() const {
    return {memory_.get(), static_cast<size_t>(n_slots_ * slot_bytes_)};
  }
  int64_t slot_bytes() const { return slot_bytes_; }
  int64_t n_slots() const { return n_slots_; }

 private:
  int64_t n_slots_;
  int64_t slot_bytes_;
  std::shared_ptr<std::byte> memory_;
  std::mutex mutex_;
  std::condition_variable freed_;
  std::vector<std::byte*> free_;
};

}  // namespace nspjax
