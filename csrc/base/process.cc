#include "base/process.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "base/error.h"

namespace nspjax {
namespace {

struct Forks {
  std::mutex mutex;
  std::atomic<int64_t> n = 0;
  std::vector<int> descriptors;
};

Forks& forks() {
  static Forks& made = []() -> Forks& {
    static Forks& instance = *std::make_unique<Forks>().release();  // files may be closed at exit
    const int error =
        ::pthread_atfork([] { instance.mutex.lock(); }, [] { instance.mutex.unlock(); },
                         [] {
                           ++instance.n;
                           for (const int fd : instance.descriptors) ::close(fd);
                           instance.descriptors.clear();
                           instance.mutex.unlock();
                         });
    if (error != 0) {
      fail(ErrorKind::kStorageIO, "forks cannot be watched for: ", errno_text(error));
    }
    return instance;
  }();
  return made;
}

}  // namespace

OwnProcess::OwnProcess() : n_forks_(forks().n), pid_(::getpid()) {}

bool OwnProcess::is_this() const { return forks().n == n_forks_; }

void OwnProcess::check() const {
  if (is_this()) return;
  fail(ErrorKind::kStoreClosed, "this store was opened by process ", pid_, "; process ", ::getpid(),
       " was forked from it and cannot use it, nor compute with JAX: start processes with ",
       "multiprocessing's \"spawn\" or \"forkserver\" method, and open a store of their own there");
}

void close_in_children(int fd) {
  const std::lock_guard lock(forks().mutex);
  forks().descriptors.push_back(fd);
}

void forget_in_children(int fd) {
  const std::lock_guard lock(forks().mutex);
  std::erase(forks().descriptors, fd);
}

std::mutex& mutex_across_forks() { return forks().mutex; }

}  // namespace nspjax
