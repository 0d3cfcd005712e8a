// The one thread that uses a store's devices: jobs, first in, first out.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <thread>

#include "base/thread_safety.h"

namespace nspjax {

class Executor {
 public:
  Executor();
  ~Executor() { stop(); }
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // Queues a job, which must not throw. Jobs are numbered from 1 on in the order in which they run.
  // After stop() it is dropped.
  int64_t post(std::function<void()> job);
  // Until a job and all before it have run, or never will. What a job has captured is gone by then.
  void wait_for(int64_t number);
  // Until every job that was posted has run, or never will.
  void drain();
  // The number of the last job that has run; what those did is seen by the caller.
  int64_t n_done() const;
  bool idle() const;
  // Waits for the job that is running and drops those that come after it.
  void stop();

 private:
  void work();

  mutable Mutex mutex_;
  Condition posted_;
  Condition done_;
  std::deque<std::function<void()>> jobs_ GUARDED_BY(mutex_);
  int64_t n_posted_ GUARDED_BY(mutex_) = 0;
  int64_t n_done_ GUARDED_BY(mutex_) = 0;
  bool stopped_ GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: uses the rest
};

}  // namespace nspjax
