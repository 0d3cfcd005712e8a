// Whole transfers over an IoQueue: what was transferred short is continued, errors get a text.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "base/error.h"
#include "io/file.h"
#include "io/io_queue.h"

namespace nspjax {

struct Transfer {
  IoOp op;
  std::byte* data;
  int64_t bytes;
  int64_t offset;
  size_t tag;  // small: indexes an array
};

struct TransferDone {
  size_t tag;
  std::optional<Error> error;
};

class Transfers {
 public:
  Transfers(const File& file, std::unique_ptr<IoQueue> queue)
      : file_(file), queue_(std::move(queue)) {}

  // The buffers of all transfers lie in `arena`; see IoQueue.
  bool register_arena(std::span<std::byte> arena) { return queue_->register_arena(arena); }
  std::string_view queue_name() const { return queue_->name(); }

  // Goes out with the next wait(). The buffer must live until the transfer is reported done.
  void start(const Transfer& transfer);
  // Sends what was started; blocks until at least one transfer is done. Something must be in
  // flight.
  std::vector<TransferDone> wait();
  // Sends what was started; returns those that are done, perhaps none.
  std::vector<TransferDone> poll();
  size_t in_flight() const { return in_flight_; }

 private:
  struct Active {
    Transfer transfer;
    int64_t done_bytes = 0;
    int stalls = 0;  // completions without progress
  };
  void send();
  // Those of the queue's completions that end a transfer.
  void finish(const std::vector<IoCompletion>& completions, std::vector<TransferDone>& done);
  IoRequest request_for(const Active& active) const;
  std::optional<TransferDone> advance(const IoCompletion& completion);

  const File& file_;
  std::unique_ptr<IoQueue> queue_;
  std::vector<Active> active_;  // [tag]
  std::vector<IoRequest> unsent_;
  size_t in_flight_ = 0;
};

}  // namespace nspjax
