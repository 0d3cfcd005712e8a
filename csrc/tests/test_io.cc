// The file device: every transfer is aligned, short ones are continued, failed ones drained.
#include <fcntl.h>

#include <cerrno>
#include <cstring>
#include <set>

#include "check.h"
#include "device/file_device.h"
#include "io/fault.h"

namespace nspjax::testing {
namespace {

// Checks what passes through, and that buffers are not used twice at a time.
class WatchingQueue final : public IoQueue {
 public:
  explicit WatchingQueue(std::unique_ptr<IoQueue> queue) : queue_(std::move(queue)) {}
  ~WatchingQueue() override { check(buffers_.empty(), "nothing in flight at the end"); }
  std::string_view name() const override { return queue_->name(); }
  void submit(std::span<const IoRequest> requests) override {
    for (const IoRequest& r : requests) {
      check(reinterpret_cast<uintptr_t>(r.data) % kPageBytes == 0, "aligned address");
      check(r.offset % kPageBytes == 0 && r.bytes % kPageBytes == 0, "aligned range");
      check(r.offset >= kPageBytes && r.bytes > 0, "after the superblock");
      check(buffers_.emplace(r.tag, r.data).second, "one transfer a tag");
    }
    queue_->submit(requests);
  }
  void wait(std::vector<IoCompletion>& into) override {
    const size_t before = into.size();
    queue_->wait(into);
    forget(into, before);
  }
  void poll(std::vector<IoCompletion>& into) override {
    const size_t before = into.size();
    queue_->poll(into);
    forget(into, before);
  }

 private:
  void forget(const std::vector<IoCompletion>& done, size_t begin) {
    for (size_t i = begin; i < done.size(); ++i) buffers_.erase(done[i].tag);
  }

  std::unique_ptr<IoQueue> queue_;
  std::map<uint64_t, std::byte*> buffers_;
};

// Completes transfers with fewer bytes than asked, at odd places, or not at all; each tag's every
// other one as it should.
class StutteringQueue final : public IoQueue {
 public:
  explicit StutteringQueue(std::unique_ptr<IoQueue> queue) : queue_(std::move(queue)) {}
  std::string_view name() const override { return queue_->name(); }
  void submit(std::span<const IoRequest> requests) override { queue_->submit(requests); }
  void wait(std::vector<IoCompletion>& into) override {
    const size_t before = into.size();
    queue_->wait(into);
    stutter(into, before);
  }
  void poll(std::vector<IoCompletion>& into) override {
    const size_t before = into.size();
    queue_->poll(into);
    stutter(into, before);
  }

 private:
  void stutter(std::vector<IoCompletion>& done, size_t begin) {
    for (size_t i = begin; i < done.size(); ++i) {
      const int turn = turns_[done[i].tag]++ % 6;
      if (done[i].result <= 0 || turn % 2 == 1) continue;
      done[i].result = turn == 0 ? -EINTR : turn == 2 ? done[i].result * 2 / 3 : -EAGAIN;
    }
  }

  std::unique_ptr<IoQueue> queue_;
  std::map<uint64_t, int> turns_;
};

constexpr int64_t kRangeBytes = 5 * kPageBytes;
constexpr size_t kRanges = 100;

std::vector<TileRange> ranges_of(const Extent& extent) {
  std::vector<TileRange> ranges;
  for (size_t i = 0; i < kRanges; ++i) {
    ranges.push_back({extent.offset + static_cast<int64_t>(i) * kRangeBytes, kRangeBytes});
  }
  return ranges;
}

void write_all(Device& device, const std::vector<TileRange>& ranges, size_t first = 0) {
  std::vector<TileWrite> writes;
  for (size_t i = 0; i < ranges.size(); ++i) {
    writes.push_back({ranges[i], [n = first + i](std::byte* to) {
                        std::fill_n(to, kRangeBytes, static_cast<std::byte>(n * 7));
                      }});
  }
  ThreadPool workers(2);
  device.write(writes, workers);
}

// Expects what write_all wrote with the same `first`.
class Compare final : public ScanVisitor {
 public:
  explicit Compare(size_t first = 0) : first_(first) {}
  void ready(size_t index, std::shared_ptr<const std::byte> data) override {
    check(seen.insert(index).second, "each range once");
    for (int64_t i = 0; i < kRangeBytes; ++i) {
      check(data.get()[i] == static_cast<std::byte>((first_ + index) * 7), "what was written");
    }
    held.push_back(std::move(data));
    if (held.size() > 3) held.clear();  // buffers come back late and in bunches
  }
  std::set<size_t> seen;
  std::vector<std::shared_ptr<const std::byte>> held;

 private:
  size_t first_;
};

std::unique_ptr<FileDevice> open_device(const TemporaryDirectory& directory,
                                        std::unique_ptr<IoQueue> queue) {
  std::vector<std::string> warnings;
  const HostBudget budget = split_host_memory(2 << 20, 1, 1 << 20);
  return std::make_unique<FileDevice>(directory.path(), directory.path(), "nspjax.kv", budget,
                                      std::make_unique<WatchingQueue>(std::move(queue)), warnings);
}

void test_round_trip(std::unique_ptr<IoQueue> queue) {
  const TemporaryDirectory directory;
  const auto device = open_device(directory, std::move(queue));
  const auto ranges = ranges_of(device->reserve(kRanges * kRangeBytes));
  write_all(*device, ranges);
  Compare compare;
  device->scan(ranges, {}, compare);
  check(compare.seen.size() == kRanges, "all ranges");
  check(device->stats().bytes_read == kRanges * kRangeBytes, "counted");
}

// What the next scan asks for is read ahead of it; what is written meanwhile is seen all the same.
void test_read_ahead(const char* io) {
  const TemporaryDirectory directory;
  const auto device = open_device(directory, make_io_queue(io, 16));
  const auto all = ranges_of(device->reserve(kRanges * kRangeBytes));
  const std::span<const TileRange> ranges(all);
  write_all(*device, all);
  device->flush();
  const auto scan = [&](size_t begin, size_t end, size_t next, size_t value) {
    Compare compare(value);
    device->scan(ranges.subspan(begin, end - begin), ranges.subspan(next, 3), compare);
    check(compare.seen.size() == end - begin, "all ranges");
  };
  scan(0, 20, 20, 0);
  scan(20, 40, 40, 20);
  check(device->stats().bytes_read_ahead == 3 * kRangeBytes, "the first three, once");
  scan(60, 62, 0, 60);  // not what was said
  check(device->stats().bytes_read_ahead == 3 * kRangeBytes, "nothing was right");
  write_all(*device, {all.begin(), all.begin() + 3}, 50);  // what was read ahead is old now
  scan(0, 3, 0, 50);
  check(device->stats().bytes_read_ahead == 3 * kRangeBytes, "none of the old");
  check(device->stats().bytes_read_in_vain >= 3 * kRangeBytes, "counted");
}

// The same ranges written over and over, with no wait in between: the last one counts.
void test_overwrites(const char* io) {
  const TemporaryDirectory directory;
  const auto device = open_device(directory, make_io_queue(io, 16));
  const auto ranges = ranges_of(device->reserve(kRanges * kRangeBytes));
  for (size_t round = 0; round < 20; ++round) {
    write_all(*device, ranges, round);
    const std::vector<TileRange> some(ranges.begin() + 5, ranges.begin() + 9);
    write_all(*device, some, round + 100);
    Compare compare(round + 100);
    device->scan(some, some, compare);
  }
  device->flush();
  Compare compare(119);
  device->scan(std::span(ranges).subspan(5, 4), {}, compare);
}

void test_errors_are_drained(const char* fault, ErrorKind kind, const char* io) {
  const TemporaryDirectory directory;
  const auto device = open_device(directory, with_fault(make_io_queue(io, 16), fault));
  const auto ranges = ranges_of(device->reserve(kRanges * kRangeBytes));
  int failures = 0;
  for (int i = 0; i < 3; ++i) {  // a write that fails later is tried once more by flush
    try {
      write_all(*device, ranges);
      device->flush();
      Compare compare;
      device->scan(ranges, {}, compare);
    } catch (const Error& error) {
      check(error.kind() == kind, error.what());
      ++failures;
    }
  }
  check(failures >= 1 && failures <= 2, "fails, and works again");
}

// A visitor that throws stops the scan, with its buffers given back.
void test_a_throwing_visitor() {
  class Thrower final : public ScanVisitor {
    void ready(size_t index, std::shared_ptr<const std::byte>) override {
      if (index == 20) fail(ErrorKind::kStaleHandle, "enough");
    }
  };
  const TemporaryDirectory directory;
  const auto device = open_device(directory, make_io_queue("auto", 16));
  const auto ranges = ranges_of(device->reserve(kRanges * kRangeBytes));
  write_all(*device, ranges);
  Thrower thrower;
  check_throws(ErrorKind::kStaleHandle, [&] { device->scan(ranges, {}, thrower); });
  Compare compare;
  device->scan(ranges, {}, compare);
  check(compare.seen.size() == kRanges, "works again");
}

// A device that never gets further is an error, not a hang.
void test_no_progress() {
  class Stuck final : public IoQueue {
    std::string_view name() const override { return "stuck"; }
    void submit(std::span<const IoRequest> requests) override {
      for (const IoRequest& r : requests) done_.push_back({r.tag, 100});
    }
    void wait(std::vector<IoCompletion>& into) override { poll(into); }
    void poll(std::vector<IoCompletion>& into) override { into = std::exchange(done_, {}); }
    std::vector<IoCompletion> done_;
  };
  const TemporaryDirectory directory;
  const auto device = open_device(directory, std::make_unique<Stuck>());
  const auto ranges = ranges_of(device->reserve(kRanges * kRangeBytes));
  check_throws(ErrorKind::kStorageIO, [&] {
    write_all(*device, ranges);
    device->flush();
  });
}

}  // namespace
}  // namespace nspjax::testing

int main() {
  using namespace nspjax::testing;
  using nspjax::ErrorKind;
  for (const char* io : {"auto", "pread"}) {
    test_round_trip(nspjax::make_io_queue(io, 16));
    test_round_trip(std::make_unique<StutteringQueue>(nspjax::make_io_queue(io, 16)));
    test_round_trip(nspjax::with_fault(nspjax::make_io_queue(io, 16), "read:short"));
    test_read_ahead(io);
    test_overwrites(io);
    test_errors_are_drained("read:eio:after=30", ErrorKind::kStorageIO, io);
    test_errors_are_drained("write:enospc:after=20:times=2", ErrorKind::kStoreFull, io);
  }
  test_a_throwing_visitor();
  test_no_progress();
}
