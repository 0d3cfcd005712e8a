// The one thread that uses a store's devices: jobs, first in, first out.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

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
  // Waits for the job that is running and drops those behind it.
  void stop();

 private:
  void work();

  mutable std::mutex mutex_;
  std::condition_variable posted_;
  std::condition_variable done_;
  std::deque<std::function<void()>> jobs_;
  int64_t n_posted_ = 0;
  int64_t n_done_ = 0;
  bool stopped_ = false;
  std::thread thread_;  // last: uses the rest
};

}  // namespace nspjax
