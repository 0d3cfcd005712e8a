// What belongs to one process, when that process forks.
//
// A fork's child has a copy of the parent's memory and of its locks as they were held just then,
// none of its threads, and shares its open files. So a child may neither use what belongs to its
// parent nor end it: destructors would join threads that are not there, and cut and unlock files
// that the parent goes on using.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <mutex>

#include "base/thread_safety.h"

namespace nspjax {

// The process in which it was made.
class OwnProcess {
 public:
  OwnProcess();
  // False in a fork's child, and in the children of that.
  bool is_this() const;
  // Throws StoreClosed in another process.
  void check() const;

 private:
  int64_t n_forks_;  // between the process that loaded the engine and this one
  pid_t pid_;        // for the error
};

// A mutex that cannot be locked in another process, where nobody might be there to unlock it.
class CAPABILITY("mutex") ProcessMutex {
 public:
  void lock() ACQUIRE() {
    process_.check();
    mutex_.lock();
  }
  void unlock() RELEASE() { mutex_.unlock(); }
  bool is_of_this_process() const { return process_.is_this(); }
  // Throws StoreClosed in another process.
  void check_process() const { process_.check(); }

 private:
  OwnProcess process_;
  std::mutex mutex_;
};

// Deletes in the process that made it; another one's copy is left as it is.
class DeleteInOwnProcess {
 public:
  template <typename T>
  void operator()(T* object) const {
    if (process_.is_this()) delete object;
  }

 private:
  OwnProcess process_;
};

// A fork's child closes its copy of this descriptor at once. Who locked a file has it locked then
// as long as he lives, and no longer because of children that he left behind.
void close_in_children(int fd);
// Before it is closed here.
void forget_in_children(int fd);

// No other thread holds it while the process forks, so that a child can lock it. For what a child
// goes on using; nothing else may be locked meanwhile.
std::mutex& mutex_across_forks();

}  // namespace nspjax
