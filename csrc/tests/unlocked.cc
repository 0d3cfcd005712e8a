// What must not pass: thread_safety.sh sees that it does not. It is never compiled.
#include "store/lane.h"

namespace nspjax::testing {

// The devices are another thread's.
void use_out_of_turn(Lane& lane) {
  lane.on_all_devices([](Device&, int64_t) {});
}

class Counter {
 public:
  void count() { ++n_; }

 private:
  Mutex mutex_;
  int64_t n_ GUARDED_BY(mutex_) = 0;
};

}  // namespace nspjax::testing
