#include "io/fault.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string>
#include <utility>

#include "base/align.h"

namespace nspjax {
namespace {

enum class Kind { kError, kShort, kLate };

struct Fault {
  IoOp op = IoOp::kRead;
  Kind kind = Kind::kError;
  int error = 0;
  int after = 0;
  int times = 1;
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
  Fault fault;
  fault.op = op == "read" ? IoOp::kRead : IoOp::kWrite;
  fault.error = kind == "eio" ? EIO : kind == "enospc" ? ENOSPC : 0;
  if (kind == "short") fault.kind = Kind::kShort;
  if (kind == "late") fault.kind = Kind::kLate;
  bool good = (op == "read" || op == "write") && (fault.kind != Kind::kError || fault.error != 0);
  while (!rest.empty()) {
    std::string_view value = take_field(rest);
    const std::string_view name = value.substr(0, std::min(value.find('='), value.size()));
    value.remove_prefix(std::min(name.size() + 1, value.size()));
    int& number = name == "times" ? fault.times : fault.after;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    good &= (name == "after" || name == "times") && error == std::errc() &&
            end == value.data() + value.size();
  }
  if (!good) {
    fail(ErrorKind::kInvalidArgument, "fault=\"", spec,
         "\": write read|write:eio|enospc|short|late[:after=N][:times=N]");
  }
  return fault;
}

class FaultyQueue final : public IoQueue {
 public:
  FaultyQueue(std::unique_ptr<IoQueue> queue, Fault fault)
      : queue_(std::move(queue)), fault_(fault) {}

  std::string_view name() const override { return queue_->name(); }

  void submit(std::span<const IoRequest> requests) override {
    if (!requests.empty()) n_old_ = failed_.size();
    std::vector<IoRequest> passed;
    for (IoRequest request : requests) {
      const bool hit = request.op == fault_.op && fault_.after-- <= 0;
      if (hit && fault_.kind == Kind::kError && fault_.times-- > 0) {
        failed_.push_back({request.tag, -fault_.error});
        continue;
      }
      if (hit && fault_.kind == Kind::kLate && fault_.times-- > 0) {
        late_.push_back(request);
        continue;
      }
      if (hit && fault_.kind == Kind::kShort && request.bytes > kPageBytes) {
        request.bytes = round_up(request.bytes / 2, kPageBytes);
      }
      passed.push_back(request);
    }
    pass_on(passed);
  }

  void wait(std::vector<IoCompletion>& into) override {
    if (!failed_.empty()) return take_failed(failed_.size(), into);
    if (n_passed_ == 0) pass_on(std::exchange(late_, {}));
    const size_t n_before = into.size();
    queue_->wait(into);
    n_passed_ -= into.size() - n_before;
  }

  // A failure takes its time: who does not wait sees it when more was submitted after it. So
  // whether a call meets it depends on what the call does, and not on how fast the device is.
  void poll(std::vector<IoCompletion>& into) override {
    take_failed(n_old_, into);
    const size_t n_before = into.size();
    queue_->poll(into);
    n_passed_ -= into.size() - n_before;
  }

  bool register_arena(std::span<std::byte> arena) override { return queue_->register_arena(arena); }

 private:
  void pass_on(std::span<const IoRequest> requests) {
    queue_->submit(requests);
    n_passed_ += requests.size();
  }

  void take_failed(size_t n, std::vector<IoCompletion>& into) {
    const auto end = failed_.begin() + static_cast<std::ptrdiff_t>(n);
    into.insert(into.end(), failed_.begin(), end);
    failed_.erase(failed_.begin(), end);
    n_old_ = 0;
  }

  std::unique_ptr<IoQueue> queue_;
  Fault fault_;
  std::vector<IoCompletion> failed_;
  size_t n_old_ = 0;  // of them, those from before the latest submission
  std::vector<IoRequest> late_;
  size_t n_passed_ = 0;  // on their way
};

}  // namespace

std::unique_ptr<IoQueue> with_fault(std::unique_ptr<IoQueue> queue, std::string_view spec) {
  if (spec.empty()) return queue;
  return std::make_unique<FaultyQueue>(std::move(queue), parse(spec));
}

}  // namespace nspjax
