#include "store/budget.h"

#include <algorithm>

#include "base/error.h"

namespace nspjax {
namespace {

// Buffers for weights: a quarter of what is free, and enough to hide a layer's load.
constexpr int64_t kWeightShare = 4;
constexpr int64_t kMostWeightBytes = 256 << 20;
constexpr int64_t kFewestWeightBuffers = 2;

}  // namespace

int64_t set_aside_bytes(const StoreOptions& options) {
  if (!(options.x_share >= 0.0 && options.x_share <= kMostXShare)) {
    fail(ErrorKind::kInvalidArgument, "x_share is ", options.x_share, ": it must be 0 to ",
         kMostXShare, " of host_memory");
  }
  return static_cast<int64_t>(options.x_share * static_cast<double>(options.host_memory_bytes));
}

int64_t Budget::free_bytes() const {
  return split_.cache_bytes - promised_.tail_bytes - promised_.sketch_bytes -
         promised_.pinned_bytes - lent_bytes_ - weight_bytes_;
}

int64_t Budget::pinned_that_fit(int64_t bytes, int64_t before_bytes) const {
  int64_t free = std::max<int64_t>(0, free_bytes() - before_bytes - split_.later_tails_bytes());
  if (most_pinned_bytes_ >= 0) {
    free = std::min(free, std::max<int64_t>(0, most_pinned_bytes_ - promised_.pinned_bytes));
  }
  return free / bytes;
}

void Budget::promise(const Promise& more) {
  promised_.tail_bytes += more.tail_bytes;
  promised_.sketch_bytes += more.sketch_bytes;
  promised_.pinned_bytes += more.pinned_bytes;
}

void Budget::take_back(const Promise& given) {
  promise({-given.tail_bytes, -given.sketch_bytes, -given.pinned_bytes});
}

int64_t Budget::weight_buffers() const {
  const int64_t free = unused_bytes();
  const int64_t n_buffers = std::max(
      kFewestWeightBuffers, std::min(free / kWeightShare, kMostWeightBytes) / split_.slot_bytes);
  const int64_t bytes = n_buffers * split_.slot_bytes;
  if (bytes > free) {
    fail(ErrorKind::kStoreFull, "of the store's host memory ", bytes_text(free),
         " are free, and buffers for weights need ", bytes_text(bytes),
         ": put weights before caches are made, or give the store more host_memory");
  }
  return n_buffers;
}

int64_t Budget::lend() {
  lent_bytes_ = std::min(unused_bytes() / 2, split_.later_tails_bytes());
  return lent_bytes_;
}

bool Budget::may_hold(int64_t held_bytes) const {
  return held_bytes <= std::max(held_bytes_, free_bytes());
}

bool Budget::is_overdrawn(int64_t tail_bytes) const {
  return tail_bytes > split_.cache_bytes - promised_.sketch_bytes - promised_.pinned_bytes;
}

}  // namespace nspjax
