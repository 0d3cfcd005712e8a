// Worker threads, and groups of tasks on them whose first exception reaches the one who waits.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace nspjax {

class ThreadPool {
 public:
  explicit ThreadPool(int n_threads);
  // Ends after the tasks that were posted.
  ~ThreadPool() = default;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // First come, first served. A task must not throw: use a TaskGroup.
  void post(std::function<void()> task);
  int n_threads() const { return static_cast<int>(threads_.size()); }

 private:
  void work(const std::stop_token& stop);

  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::deque<std::function<void()>> tasks_;
  std::vector<std::jthread> threads_;  // last: told to stop and joined before the rest goes
};

class TaskGroup {
 public:
  explicit TaskGroup(ThreadPool& pool) : pool_(pool) {}
  ~TaskGroup() { finish(); }  // tasks refer to what the waiting thread has on its stack
  TaskGroup(const TaskGroup&) = delete;
  TaskGroup& operator=(const TaskGroup&) = delete;

  // After a task failed, those that have not begun are skipped.
  void run(std::function<void()> task);
  // Until all tasks are done; rethrows the first exception.
  void wait();
  // Since when no task runs or waits; nothing while one does.
  std::optional<std::chrono::steady_clock::time_point> idle_since() const;

 private:
  void finish();

  ThreadPool& pool_;
  mutable std::mutex mutex_;
  std::condition_variable done_;
  int pending_ = 0;
  std::chrono::steady_clock::time_point idle_since_ = std::chrono::steady_clock::now();
  std::exception_ptr error_;
};

}  // namespace nspjax
