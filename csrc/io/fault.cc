#include "io/fault.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string>
#include <utility>

#include "base/align.h"

namespace nspjax {
namespace {

struct Fault {
  IoOp op = IoOp::kRead;
  int error = 0;  // 0: a short transfer
  int after = 0;
};

// Removes and returns what is before the next colon.
std::string_view take_field(std::string_view& rest) {
  const size_t end = std::min(rest.find(':'), rest.size());
  const std::string_view field = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  return field;
}

Fault parse(std::string_view spec) {
  std::string_view rest = spec;
  const std::string_view op = take_field(rest);
  const std::string_view kind = take_field(rest);
  std::string_view after = take_field(rest);
  Fault fault;
  fault.op = op == "read" ? IoOp::kRead : IoOp::kWrite;
  fault.error = kind == "eio" ? EIO : kind == "enospc" ? ENOSPC : 0;
  bool good = (op == "read" || op == "write") && (fault.error != 0 || kind == "short");
  constexpr std::string_view kAfter = "after=";
  if (!after.empty()) {
    good &= after.starts_with(kAfter);
    after.remove_prefix(std::min(kAfter.size(), after.size()));
    const auto [end, error] =
        std::from_chars(after.data(), after.data() + after.size(), fault.after);
    good &= error == std::errc() && end == after.data() + after.size();
  }
  if (!good) {
    fail(ErrorKind::kInvalidArgument, "fault=\"", spec,
         "\": write read|write:eio|enospc|short[:after=N]");
  }
  return fault;
}

class FaultyQueue final : public IoQueue {
 public:
  FaultyQueue(std::unique_ptr<IoQueue> queue, Fault fault)
      : queue_(std::move(queue)), fault_(fault) {}

  std::string_view name() const override { return queue_->name(); }

  void submit(std::span<const IoRequest> requests) override {
    std::vector<IoRequest> passed;
    for (IoRequest request : requests) {
      const bool hit = request.op == fault_.op && fault_.after-- <= 0;
      if (hit && fault_.error != 0 && !failed_once_) {
        failed_once_ = true;
        failed_.push_back({request.tag, -fault_.error});
        continue;
      }
      if (hit && fault_.error == 0 && request.bytes > kPageBytes) {
        request.bytes = round_up(request.bytes / 2, kPageBytes);
      }
      passed.push_back(request);
    }
    queue_->submit(passed);
  }

  void wait(std::vector<IoCompletion>& into) override {
    if (failed_.empty()) {
      queue_->wait(into);
    } else {
      into.insert(into.end(), failed_.begin(), failed_.end());
      failed_.clear();
    }
  }

 private:
  std::unique_ptr<IoQueue> queue_;
  Fault fault_;
  bool failed_once_ = false;
  std::vector<IoCompletion> failed_;
};

}  // namespace

std::unique_ptr<IoQueue> with_fault(std::unique_ptr<IoQueue> queue, std::string_view spec) {
  if (spec.empty()) return queue;
  return std::make_unique<FaultyQueue>(std::move(queue), parse(spec));
}

}  // namespace nspjax
