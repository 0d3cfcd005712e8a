#include "store/executor.h"

#include <utility>

namespace nspjax {

Executor::Executor() : thread_([this] { work(); }) {}

int64_t Executor::post(std::function<void()> job) {
  std::lock_guard lock(mutex_);
  if (!stopped_) {
    jobs_.push_back(std::move(job));
    ++n_posted_;
    posted_.notify_one();
  }
  return n_posted_;
}

void Executor::wait_for(int64_t number) {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return n_done_ >= number; });
}

void Executor::drain() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&, last = n_posted_] { return n_done_ >= last; });
}

int64_t Executor::n_done() const {
  std::lock_guard lock(mutex_);
  return n_done_;
}

void Executor::stop() {
  std::deque<std::function<void()>> dropped;
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    dropped.swap(jobs_);
    posted_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
  dropped.clear();  // before anybody who waits goes on
  std::lock_guard lock(mutex_);
  n_done_ = n_posted_;
  done_.notify_all();
}

void Executor::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    posted_.wait(lock, [this] { return stopped_ || !jobs_.empty(); });
    if (stopped_) return;
    std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    job = nullptr;
    lock.lock();
    ++n_done_;
    done_.notify_all();
  }
}

}  // namespace nspjax
