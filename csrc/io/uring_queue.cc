// IoQueue by io_uring.
#include <liburing.h>

#include <cerrno>
#include <deque>

#include "base/error.h"
#include "base/process.h"
#include "io/io_queue.h"

namespace nspjax {
namespace {

class UringQueue final : public IoQueue {
 public:
  UringQueue() = default;
  ~UringQueue() override {
    if (!open_) return;
    forget_in_children(ring_.ring_fd);
    ::io_uring_queue_exit(&ring_);
  }
  UringQueue(const UringQueue&) = delete;
  UringQueue& operator=(const UringQueue&) = delete;

  int open(int depth) {
    const int error = -::io_uring_queue_init(static_cast<unsigned>(depth), &ring_, 0);
    open_ = error == 0;
    if (open_) {
      close_in_children(ring_.ring_fd);  // else a child keeps the buffers that are pinned for it
      (void)::io_uring_ring_dontfork(&ring_);
    }
    return error;
  }

  std::string_view name() const override { return "uring"; }

  void submit(std::span<const IoRequest> requests) override {
    for (const IoRequest& r : requests) {
      io_uring_sqe* sqe = next_sqe();
      if (!sqe) {
        done_.push_back({r.tag, -broken_});
        continue;
      }
      const auto bytes = static_cast<unsigned>(r.bytes);
      const auto offset = static_cast<uint64_t>(r.offset);
      if (registered_ && r.op == IoOp::kRead) {
        ::io_uring_prep_read_fixed(sqe, r.fd, r.data, bytes, offset, 0);
      } else if (registered_) {
        ::io_uring_prep_write_fixed(sqe, r.fd, r.data, bytes, offset, 0);
      } else if (r.op == IoOp::kRead) {
        ::io_uring_prep_read(sqe, r.fd, r.data, bytes, offset);
      } else {
        ::io_uring_prep_write(sqe, r.fd, r.data, bytes, offset);
      }
      ::io_uring_sqe_set_data64(sqe, r.tag);
      prepared_.push_back(r.tag);
    }
    send_prepared();
  }

  void wait(std::vector<IoCompletion>& into) override {
    if (!done_.empty()) return poll(into);
    io_uring_cqe* cqe = nullptr;
    int error = 0;
    do {
      error = ::io_uring_wait_cqe(&ring_, &cqe);
    } while (error == -EINTR || error == -EAGAIN);
    if (error != 0) fail(ErrorKind::kStorageIO, "io_uring failed: ", errno_text(-error));
    poll(into);
  }

  void poll(std::vector<IoCompletion>& into) override {
    into.insert(into.end(), done_.begin(), done_.end());
    done_.clear();
    take_completions(into);
  }

  bool register_arena(std::span<std::byte> arena) override {
    const iovec buffer{arena.data(), arena.size()};
    registered_ = ::io_uring_register_buffers(&ring_, &buffer, 1) == 0;
    return registered_;
  }

 private:
  void take_completions(std::vector<IoCompletion>& into) {
    io_uring_cqe* cqe = nullptr;
    while (::io_uring_peek_cqe(&ring_, &cqe) == 0) {
      into.push_back({cqe->user_data, cqe->res});
      ::io_uring_cqe_seen(&ring_, cqe);
    }
  }

  // Null once the kernel takes no more.
  io_uring_sqe* next_sqe() {
    io_uring_sqe* sqe = broken_ ? nullptr : ::io_uring_get_sqe(&ring_);
    if (sqe || broken_) return sqe;
    send_prepared();  // the submission ring is full
    return broken_ ? nullptr : ::io_uring_get_sqe(&ring_);
  }

  void send_prepared() {
    while (!prepared_.empty()) {
      const int n = ::io_uring_submit(&ring_);
      if (n == -EINTR || n == -EAGAIN) continue;
      if (n == -EBUSY) {  // older kernels, more completions than their ring has: take them first
        take_completions(done_);
        continue;
      }
      if (n < 0) return give_up(-n);
      prepared_.erase(prepared_.begin(), prepared_.begin() + n);
    }
  }

  // The kernel takes no more: what it did not take completes with the error, now and from now on.
  void give_up(int error) {
    broken_ = error;
    for (uint64_t tag : prepared_) done_.push_back({tag, -error});
    prepared_.clear();
  }

  io_uring ring_{};
  bool open_ = false;
  bool registered_ = false;
  int broken_ = 0;
  std::deque<uint64_t> prepared_;   // in the submission ring, not yet taken by the kernel
  std::vector<IoCompletion> done_;  // taken early, or never reached the kernel
};

}  // namespace

std::unique_ptr<IoQueue> make_uring_queue(int depth, int& error) {
  auto queue = std::make_unique<UringQueue>();
  error = queue->open(depth);
  if (error != 0) return nullptr;
  return queue;
}

}  // namespace nspjax
