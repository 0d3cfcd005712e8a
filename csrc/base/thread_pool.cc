#include "base/thread_pool.h"

#include <utility>

namespace nspjax {

ThreadPool::ThreadPool(int n_threads) {
  threads_.reserve(static_cast<size_t>(n_threads));
  for (int i = 0; i < n_threads; ++i) {
    threads_.emplace_back([this](const std::stop_token& stop) { work(stop); });
  }
}

void ThreadPool::post(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
}

void ThreadPool::work(const std::stop_token& stop) {
  for (;;) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      if (!wake_.wait(lock, stop, [this] { return !tasks_.empty(); })) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

void TaskGroup::run(std::function<void()> task) {
  std::function<void()> guarded = [this, task = std::move(task)]() mutable {
    std::exception_ptr error;
    bool skip = false;
    {
      std::lock_guard lock(mutex_);
      skip = error_ != nullptr;
    }
    if (!skip) {
      try {
        task();
      } catch (...) {
        error = std::current_exception();
      }
    }
    task = nullptr;  // what it held is given back before the group counts as done
    std::lock_guard lock(mutex_);
    if (error && !error_) error_ = std::move(error);  // nothing of it stays with this thread
    if (--pending_ > 0) return;
    idle_since_ = std::chrono::steady_clock::now();
    done_.notify_all();
  };
  {
    std::lock_guard lock(mutex_);
    ++pending_;
  }
  try {
    pool_.post(std::move(guarded));
  } catch (...) {
    std::lock_guard lock(mutex_);
    --pending_;
    throw;
  }
}

void TaskGroup::finish() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return pending_ == 0; });
}

void TaskGroup::wait() {
  finish();
  std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

std::optional<std::chrono::steady_clock::time_point> TaskGroup::idle_since() const {
  std::lock_guard lock(mutex_);
  if (pending_ > 0) return std::nullopt;
  return idle_since_;
}

}  // namespace nspjax
