#include "store/executor.h"

#include <utility>

namespace nspjax {

Executor::Executor() : thread_([this] { work(); }) {}

int64_t Executor::post(std::function<void()> job) {
  const Lock lock(mutex_);
  if (!stopped_) {
    jobs_.push_back(std::move(job));
    ++n_posted_;
    posted_.notify_one();
  }
  return n_posted_;
}

void Executor::wait_for(int64_t number) {
  const Lock lock(mutex_);
  while (n_done_ < number) done_.wait(mutex_);
}

void Executor::drain() {
  const Lock lock(mutex_);
  const int64_t last = n_posted_;
  while (n_done_ < last) done_.wait(mutex_);
}

int64_t Executor::n_done() const {
  const Lock lock(mutex_);
  return n_done_;
}

bool Executor::idle() const {
  const Lock lock(mutex_);
  return n_done_ == n_posted_;
}

void Executor::stop() {
  std::deque<std::function<void()>> dropped;
  {
    const Lock lock(mutex_);
    stopped_ = true;
    dropped.swap(jobs_);
    posted_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
  dropped.clear();  // before anybody who waits goes on
  const Lock lock(mutex_);
  n_done_ = n_posted_;
  done_.notify_all();
}

void Executor::work() {
  for (;;) {
    std::function<void()> job;
    {
      const Lock lock(mutex_);
      while (!stopped_ && jobs_.empty()) posted_.wait(mutex_);
      if (stopped_) return;
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    job();
    job = nullptr;
    const Lock lock(mutex_);
    ++n_done_;
    done_.notify_all();
  }
}

}  // namespace nspjax
