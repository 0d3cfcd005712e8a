#include "io/staging.h"

namespace nspjax {

StagingRing::StagingRing(int64_t n_slots, int64_t slot_bytes, std::shared_ptr<std::byte> memory)
    : n_slots_(n_slots), slot_bytes_(slot_bytes), memory_(std::move(memory)) {
  if (!memory_) {
    const auto mapped = std::make_shared<const MappedRegion>(n_slots * slot_bytes);
    memory_ = std::shared_ptr<std::byte>(mapped, mapped->data());
  }
  free_.reserve(static_cast<size_t>(n_slots));
  for (int64_t i = n_slots; i-- > 0;) free_.push_back(memory_.get() + i * slot_bytes);
}

StagingRing::Slot StagingRing::try_acquire() {
  std::byte* buffer = nullptr;
  {
    std::lock_guard lock(mutex_);
    if (free_.empty()) return nullptr;
    buffer = free_.back();
    free_.pop_back();
  }
  return Slot(buffer, [this](std::byte* p) {
    std::lock_guard lock(mutex_);
    free_.push_back(p);  // within the reserved capacity
    freed_.notify_one();
  });
}

int64_t StagingRing::n_free() {
  std::lock_guard lock(mutex_);
  return std::ssize(free_);
}

void StagingRing::wait_for_free() {
  std::unique_lock lock(mutex_);
  freed_.wait(lock, [this] { return !free_.empty(); });
}

}  // namespace nspjax
