// Who may take which bytes of a lane's host memory. Staging buffers are taken at once; what is left
// is promised: to tails and sketches first, then to pinned tiles, buffers for weights, and another
// lane. Held tiles use what nobody was promised.
#pragma once

#include <cstdint>

#include "format/plan.h"
#include "store/options.h"

namespace nspjax {

inline constexpr double kMostXShare = 0.9;
// Of a store's host memory for the lane of X, from the beginning. Throws InvalidArgument.
int64_t set_aside_bytes(const StoreOptions& options);

class Budget {
 public:
  // most_pinned_bytes: -1 is what is left.
  Budget(const HostBudget& split, int64_t most_pinned_bytes)
      : split_(split), most_pinned_bytes_(most_pinned_bytes) {}

  // What nobody was promised, and what of it has no held tiles.
  int64_t free_bytes() const;
  int64_t unused_bytes() const { return free_bytes() - held_bytes_; }

  // How often `bytes` fit for pinned tiles, once `before_bytes` were promised too: some stay free
  // for the tails of later caches.
  int64_t pinned_that_fit(int64_t bytes, int64_t before_bytes) const;
  // A cache's; taken back with the same numbers.
  struct Promise {
    int64_t tail_bytes = 0;
    int64_t sketch_bytes = 0;
    int64_t pinned_bytes = 0;
  };
  void promise(const Promise& more);
  void take_back(const Promise& given);

  // How many buffers for weights there may be. Throws StoreFull.
  int64_t weight_buffers() const;
  void promise_weights(int64_t n_buffers) { weight_bytes_ = n_buffers * split_.slot_bytes; }
  // Half of what is unused goes to another lane, and not more than what pinned tiles leave to later
  // caches: the other half is for held tiles. Returns the bytes.
  int64_t lend();
  void take_back_lent() { lent_bytes_ = 0; }

  // Whether held tiles may be so many bytes.
  bool may_hold(int64_t held_bytes) const;
  int64_t held_bytes() const { return held_bytes_; }
  void hold(int64_t more_bytes) { held_bytes_ += more_bytes; }
  // Whether tails and tiles that are being written must give memory back first.
  bool is_overdrawn(int64_t tail_bytes) const;

 private:
  HostBudget split_;
  int64_t most_pinned_bytes_;
  Promise promised_;
  int64_t weight_bytes_ = 0;
  int64_t lent_bytes_ = 0;
  int64_t held_bytes_ = 0;  // of tails, beyond one tile a row
};

}  // namespace nspjax
