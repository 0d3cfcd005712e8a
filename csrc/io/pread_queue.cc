// IoQueue by threads that call pread and pwrite: for systems without io_uring.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <mutex>

#include "base/thread_pool.h"
#include "io/io_queue.h"

namespace nspjax {
namespace {

class PreadQueue final : public IoQueue {
 public:
  explicit PreadQueue(int depth) : pool_(std::clamp(depth, 1, 16)) {}

  std::string_view name() const override { return "pread"; }

  void submit(std::span<const IoRequest> requests) override {
    for (const IoRequest& request : requests) {
      pool_.post([this, request] {
        const IoCompletion done{request.tag, transfer(request)};
        std::lock_guard lock(mutex_);
        done_.push_back(done);
        wake_.notify_one();
      });
    }
  }

  void wait(std::vector<IoCompletion>& into) override {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return !done_.empty(); });
    take(into);
  }

  void poll(std::vector<IoCompletion>& into) override {
    std::lock_guard lock(mutex_);
    take(into);
  }

 private:
  void take(std::vector<IoCompletion>& into) {
    into.insert(into.end(), done_.begin(), done_.end());
    done_.clear();
  }

  static int64_t transfer(const IoRequest& r) {
    const auto bytes = static_cast<size_t>(r.bytes);
    for (;;) {
      const ssize_t n = r.op == IoOp::kRead ? ::pread(r.fd, r.data, bytes, r.offset)
                                            : ::pwrite(r.fd, r.data, bytes, r.offset);
      if (n >= 0) return n;
      if (errno != EINTR) return -errno;
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<IoCompletion> done_;
  ThreadPool pool_;  // last: its threads use the rest
};

}  // namespace

std::unique_ptr<IoQueue> make_pread_queue(int depth) { return std::make_unique<PreadQueue>(depth); }

}  // namespace nspjax
