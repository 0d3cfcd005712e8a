#include "io/transfers.h"

#include <cerrno>

#include "base/align.h"

namespace nspjax {
namespace {

constexpr int kMostStalls = 8;
constexpr const char* kFileEnds = "the file ends there; it was cut by something other than nspjax";

}  // namespace

void Transfers::start(const Transfer& transfer) {
  if (active_.size() <= transfer.tag) active_.resize(transfer.tag + 1);
  active_[transfer.tag] = Active{transfer};
  unsent_.push_back(request_for(active_[transfer.tag]));
  ++in_flight_;
}

void Transfers::send() {
  queue_->submit(unsent_);
  unsent_.clear();
}

void Transfers::finish(const std::vector<IoCompletion>& completions,
                       std::vector<TransferDone>& done) {
  for (const IoCompletion& completion : completions) {
    if (auto finished = advance(completion)) {
      done.push_back(std::move(*finished));
      --in_flight_;
    }
  }
}

std::vector<TransferDone> Transfers::wait() {
  std::vector<TransferDone> done;
  std::vector<IoCompletion> completions;
  while (done.empty()) {
    send();
    completions.clear();
    queue_->wait(completions);
    finish(completions, done);
  }
  return done;
}

std::vector<TransferDone> Transfers::poll() {
  std::vector<TransferDone> done;
  std::vector<IoCompletion> completions;
  send();
  queue_->poll(completions);
  finish(completions, done);
  send();  // what goes on after a short transfer
  return done;
}

IoRequest Transfers::request_for(const Active& active) const {
  const Transfer& t = active.transfer;
  return {t.op,
          file_.fd(),
          t.data + active.done_bytes,
          t.bytes - active.done_bytes,
          t.offset + active.done_bytes,
          t.tag};
}

std::optional<TransferDone> Transfers::advance(const IoCompletion& completion) {
  const auto tag = static_cast<size_t>(completion.tag);
  Active& active = active_[tag];
  const Transfer& t = active.transfer;
  const char* what = t.op == IoOp::kRead ? "read" : "write";
  const int64_t at = t.offset + active.done_bytes;
  const auto failed = [&](ErrorKind kind, const std::string& why) {
    return TransferDone{
        tag, Error(kind, concat(what, " of ", t.bytes - active.done_bytes, " bytes at offset ", at,
                                " of ", file_.path(), " failed: ", why))};
  };
  if (completion.result < 0 && completion.result != -EINTR && completion.result != -EAGAIN) {
    const int error = static_cast<int>(-completion.result);
    return failed(kind_of_errno(error), errno_text(error));
  }
  if (completion.result == 0 && t.op == IoOp::kRead) {
    return failed(ErrorKind::kStorageIO, kFileEnds);
  }
  const int64_t reached = active.done_bytes + std::max<int64_t>(completion.result, 0);
  if (reached == t.bytes) return TransferDone{tag, std::nullopt};
  // O_DIRECT goes on at a page only
  const int64_t resume = round_down(reached, kPageBytes);
  active.stalls = resume > active.done_bytes ? 0 : active.stalls + 1;
  if (active.stalls > kMostStalls) {
    // a file that was cut inside a page gives the same few bytes again and again
    const bool ends = t.op == IoOp::kRead && file_.size_bytes() < t.offset + t.bytes;
    return failed(ErrorKind::kStorageIO, ends ? kFileEnds : "the device makes no progress");
  }
  active.done_bytes = resume;
  unsent_.push_back(request_for(active));
  return std::nullopt;
}

}  // namespace nspjax
