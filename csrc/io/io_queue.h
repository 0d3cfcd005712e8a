// A queue of asynchronous reads and writes on one file: io_uring, or a pool of preads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace nspjax {

enum class IoOp { kRead, kWrite };

struct IoRequest {
  IoOp op;
  int fd;
  std::byte* data;
  int64_t bytes;
  int64_t offset;
  uint64_t tag;  // comes back with the completion
};

struct IoCompletion {
  uint64_t tag;
  int64_t result;  // bytes transferred, perhaps fewer than asked, or -errno
};

// One thread submits and waits; at most `depth` requests may be in flight.
class IoQueue {
 public:
  virtual ~IoQueue() = default;  // nothing may be in flight
  virtual std::string_view name() const = 0;
  // What cannot be submitted completes with an error.
  virtual void submit(std::span<const IoRequest> requests) = 0;
  // Blocks until at least one request is complete; appends all that are.
  virtual void wait(std::vector<IoCompletion>& into) = 0;
  // Appends those that are complete, perhaps none.
  virtual void poll(std::vector<IoCompletion>& into) = 0;
  // All buffers will lie in this arena, which outlives the queue: the kernel may pin it once
  // instead of at every request. Returns whether it did.
  virtual bool register_arena(std::span<std::byte>) { return false; }
};

// kind: "uring", "pread" or "auto". Throws InvalidArgument where io_uring is asked for and missing.
std::unique_ptr<IoQueue> make_io_queue(std::string_view kind, int depth);

std::unique_ptr<IoQueue> make_pread_queue(int depth);
#ifdef NSPJAX_HAVE_URING
// Null, and the errno, where the kernel (or its sandbox) has no io_uring.
std::unique_ptr<IoQueue> make_uring_queue(int depth, int& error);
#endif

}  // namespace nspjax
