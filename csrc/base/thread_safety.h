// What clang's thread-safety analysis is told of locks, and checks in `make lint`; to other
// compilers it is nothing. See https://clang.llvm.org/docs/ThreadSafetyAnalysis.html.
//
// The standard library's mutexes are not annotated, so locks that are to be checked are a Mutex (or
// ProcessMutex, base/process.h), held by a Lock.
#pragma once

#include <condition_variable>
#include <mutex>

#ifdef __clang__
#define NSPJAX_ATTRIBUTE(x) __attribute__((x))
#else
#define NSPJAX_ATTRIBUTE(x)
#endif

#define CAPABILITY(name) NSPJAX_ATTRIBUTE(capability(name))
#define SCOPED_CAPABILITY NSPJAX_ATTRIBUTE(scoped_lockable)
// Of a member: only used by who holds the lock.
#define GUARDED_BY(x) NSPJAX_ATTRIBUTE(guarded_by(x))
// Of a function: the caller holds the lock, or does not.
#define REQUIRES(...) NSPJAX_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) NSPJAX_ATTRIBUTE(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) NSPJAX_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define RELEASE(...) NSPJAX_ATTRIBUTE(release_capability(__VA_ARGS__))
// After it the caller has what no lock stands for, such as the right to use something.
#define ASSERT_CAPABILITY(...) NSPJAX_ATTRIBUTE(assert_capability(__VA_ARGS__))
#define RETURN_CAPABILITY(x) NSPJAX_ATTRIBUTE(lock_returned(x))

namespace nspjax {

class CAPABILITY("mutex") Mutex {
 public:
  void lock() ACQUIRE() { mutex_.lock(); }
  void unlock() RELEASE() { mutex_.unlock(); }

 private:
  friend class Condition;
  std::mutex mutex_;
};

template <typename M>
class SCOPED_CAPABILITY Lock {
 public:
  explicit Lock(M& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~Lock() RELEASE() { mutex_.unlock(); }
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;

 private:
  M& mutex_;
};

class Condition {
 public:
  // As of std::condition_variable; what is waited for is tested by the caller, who has the lock.
  void wait(Mutex& mutex) REQUIRES(mutex) {
    std::unique_lock lock(mutex.mutex_, std::adopt_lock);
    changed_.wait(lock);
    lock.release();
  }
  void notify_one() { changed_.notify_one(); }
  void notify_all() { changed_.notify_all(); }

 private:
  std::condition_variable changed_;
};

}  // namespace nspjax
