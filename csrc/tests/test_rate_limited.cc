// Simulated rates: that ranges are due when the model says, on a clock of the test's own.
#include <limits>
#include <map>

#include "attention/merge.h"
#include "base/align.h"
#include "check.h"
#include "device/attend_call.h"
#include "device/memory_device.h"
#include "device/rate_limited.h"

namespace nspjax::testing {
namespace {

using std::chrono::milliseconds;

constexpr int64_t kRange = 1'000'000;  // 1 ms at 1 GB/s
constexpr double kGBPerS = 1e9;

// Time passes when somebody sleeps, or when the test says so.
struct TestClock {
  Clock::time_point now{milliseconds(1000)};
  SleepClock get() {
    return {[this] { return now; }, [this](Clock::time_point when) { now = std::max(now, when); }};
  }
  int64_t ms() const {
    return std::chrono::duration_cast<milliseconds>(now.time_since_epoch()).count() - 1000;
  }
};

// Notes when each range came, and takes as long over it as it is told.
class Arrivals final : public ScanVisitor {
 public:
  explicit Arrivals(TestClock& clock, int64_t busy_ms = 0, bool crosses_link = false)
      : clock_(clock), busy_ms_(busy_ms), crosses_link_(crosses_link) {}
  bool crosses_link() const override { return crosses_link_; }
  void ready(size_t index, std::shared_ptr<const std::byte> data) override {
    check(index == at_ms.size(), "in order");
    check(data.get()[0] == data.get()[kRange - 1], "whole");
    at_ms.push_back(clock_.ms());
    first_bytes.push_back(std::to_integer<int>(data.get()[0]));
    clock_.now += milliseconds(busy_ms_);
  }
  std::vector<int64_t> at_ms;
  std::vector<int> first_bytes;

 private:
  TestClock& clock_;
  int64_t busy_ms_;
  bool crosses_link_;
};

// The memory device, but what is scanned comes back to front, two by two.
class Backwards final : public TileDevice {
 public:
  DeviceInfo info() const override { return memory_.info(); }
  int64_t available_bytes() const override { return memory_.available_bytes(); }
  Extent reserve(int64_t bytes) override { return memory_.reserve(bytes); }
  void release(const Extent& extent) override { memory_.release(extent); }
  void write(std::span<const TileWrite> writes, ThreadPool& workers) override {
    memory_.write(writes, workers);
  }
  void scan(std::span<const TileRange> ranges, std::span<const TileRange> next,
            ScanVisitor& visitor) override {
    class Keep final : public ScanVisitor {
     public:
      void ready(size_t i, std::shared_ptr<const std::byte> data) override { kept[i] = data; }
      std::map<size_t, std::shared_ptr<const std::byte>> kept;
    } keep;
    memory_.scan(ranges, next, keep);
    for (size_t i = 0; i < ranges.size(); ++i) {
      const size_t index = std::min(i ^ 1, ranges.size() - 1);
      visitor.ready(index, keep.kept.at(index));
    }
  }
  void read_ahead(std::span<const TileRange> next) override { memory_.read_ahead(next); }
  void check_cache(const TileGeometry&) const override {
    fail(ErrorKind::kInvalidArgument, "no cache will do");
  }
  bool has_processor() const override { return true; }
  void finish_writes() override {}
  void flush() override {}
  void close() override { memory_.close(); }

 private:
  MemoryDevice memory_;
};

struct Setup {
  explicit Setup(RateLimitOptions options, std::unique_ptr<Device> inner = nullptr)
      : device(inner ? std::move(inner) : std::make_unique<MemoryDevice>(), with_clock(options)) {
    const Extent extent = device.reserve(200 * kRange);
    for (int64_t i = 0; i < 200; ++i) ranges.push_back({extent.offset + i * kRange, kRange});
  }
  RateLimitOptions with_clock(RateLimitOptions options) {
    options.clock = clock.get();
    return options;
  }
  std::span<const TileRange> part(size_t begin, size_t n) const {
    return std::span(ranges).subspan(begin, n);
  }
  std::vector<int64_t> scan(size_t begin, size_t n, std::span<const TileRange> next = {},
                            int64_t busy_ms = 0) {
    Arrivals arrivals(clock, busy_ms);
    device.scan(part(begin, n), next, arrivals);
    return arrivals.at_ms;
  }
  void write(size_t begin, size_t n) {
    std::vector<TileWrite> writes;
    for (size_t i = begin; i < begin + n; ++i) {
      writes.push_back(
          {ranges[i], [i](std::byte* to) { std::fill_n(to, kRange, static_cast<std::byte>(i)); }});
    }
    device.write(writes, workers);
  }

  TestClock clock;
  ThreadPool workers{1};
  RateLimitedDevice device;
  std::vector<TileRange> ranges;
};

using Times = std::vector<int64_t>;

void test_ranges_come_at_the_bandwidth() {
  Setup s({.limit = {.read_bytes_per_s = kGBPerS}});
  check(s.scan(0, 4) == Times{1, 2, 3, 4}, "one a millisecond");
  check(s.device.stats().read_ns == 4'000'000, "counted as waiting");
  s.clock.now += milliseconds(10);
  check(s.scan(0, 2) == Times{15, 16}, "an idle device saves no time up");
}

void test_the_device_reads_on_while_the_host_is_busy() {
  Setup s({.limit = {.read_bytes_per_s = kGBPerS}});
  check(s.scan(0, 4, {}, 3) == Times{1, 4, 7, 10}, "the host decides");
}

void test_read_ahead() {
  Setup s({.limit = {.read_bytes_per_s = kGBPerS}, .read_ahead_bytes = 2 * kRange});
  check(s.scan(0, 2, s.part(2, 4)) == Times{1, 2}, "first");
  s.clock.now += milliseconds(10);
  check(s.scan(2, 4) == Times{12, 12, 13, 14}, "two were there, the others begin now");
  check(s.scan(0, 1, s.part(6, 4)) == Times{15}, "third");
  check(s.scan(6, 4) == Times{16, 17, 18, 19}, "no time to get ahead");
}

void test_a_wrong_guess_costs_what_it_read() {
  Setup s({.limit = {.read_bytes_per_s = kGBPerS}, .read_ahead_bytes = 2 * kRange});
  check(s.scan(0, 1, s.part(10, 4)) == Times{1}, "first");
  check(s.scan(20, 2) == Times{4, 5}, "after the two that nobody wanted");
  s.scan(10, 1);
  check(s.clock.ms() == 6, "and they are forgotten");
}

void test_any_order_from_the_inner_device() {
  Setup s({.limit = {.read_bytes_per_s = kGBPerS}}, std::make_unique<Backwards>());
  s.write(0, 6);
  Arrivals arrivals(s.clock);
  s.device.scan(s.part(0, 6), {}, arrivals);
  check(arrivals.at_ms == Times{1, 2, 3, 4, 5, 6}, "in time");
  check(arrivals.first_bytes == std::vector{0, 1, 2, 3, 4, 5}, "in order");
}

void test_writes() {
  Setup s({.limit = {.read_bytes_per_s = kGBPerS, .write_bytes_per_s = kGBPerS / 2}});
  s.write(0, 60);
  check(s.clock.ms() == 0, "not waited for");
  s.write(60, 20);  // 80 MB: 12.9 MB are above 64 MiB, 13 writes have to be done
  check(s.clock.ms() == 26, "waits for the backlog");
  check(s.scan(0, 1) == Times{161}, "reads come after the writes");
  s.write(0, 1);
  s.device.flush();
  check(s.clock.ms() == 163, "flush waits for all");
  check(s.device.stats().write_ns == 28'000'000, "counted");
  check(s.device.stats().n_writes == 81 && s.device.stats().bytes_read == kRange, "stats");
}

void test_no_limit() {
  Setup s({});
  s.write(0, 200);
  check(s.scan(0, 200).back() == 0, "no time passes");
  s.device.flush();
  check(s.clock.ms() == 0, "nor here");
}

// Rows with one KV head, two query heads over 3 tokens that are all in the tail.
struct SmallAttend {
  static constexpr int64_t kHeadDim = 64;
  explicit SmallAttend(int64_t n_rows)
      : geometry({n_rows, 64, 1, kHeadDim, DType::kF32, DType::kF32}, 1, 16, 1 << 20),
        out(static_cast<size_t>(2 * n_rows * kHeadDim)),
        max(static_cast<size_t>(2 * n_rows), kMinusInfinity),
        sum(max.size()),
        tail(geometry.tail_bytes(0)),
        regions(static_cast<size_t>(n_rows)),
        call{.geometry = geometry,
             .kernels = find_kernel("scalar"),
             .trace = trace,
             .verify = false,
             .cache = 0,
             .read_bytes = 1 << 20,
             .n_tokens = 1,
             .group = 2,
             .padded_dim = kHeadDim,
             .scale = 1.0f,
             .softcap = 0.0f,
             .out = out.data(),
             .max = max.data(),
             .sum = sum.data(),
             .units = {},
             .passes = {},
             .next_reads = {{}}} {
    for (int64_t row = 0; row < n_rows; ++row) {
      Region& region = regions[static_cast<size_t>(row)];
      region.row = row;
      region.offsets = {0};
      call.units.push_back({row, row, 0, 1, {0, 0}, {3, 3}, 0, 3});
      call.passes.push_back({.members = {{static_cast<size_t>(row), 0}},
                             .tiles = {&region, 0, 1},
                             .token_begin = 0,
                             .token_end = 3,
                             .stored_tiles = 0,
                             .tail = {tail.data()},
                             .first = {0, 0},
                             .last = {3, 3},
                             .queries = std::vector<float>(2 * kHeadDim)});
    }
  }
  TileGeometry geometry;
  Trace trace{0};
  std::vector<float> out, max, sum;
  AlignedBuffer tail;
  std::vector<Region> regions;
  AttendCall call;
};

void test_near_storage_only_queries_and_results_cross() {
  // 10 rows of 2 query heads: 5120 bytes of q, 5200 of out and lse
  const auto link = std::make_shared<Link>(1000.0 * 1000);
  Setup s({.limit = {.read_bytes_per_s = kGBPerS}, .link = link});
  check(s.scan(0, 3) == Times{1, 2, 3}, "a scan does not use the link");
  SmallAttend small(10);
  s.device.attend(small.call, 0, s.workers);
  check(small.sum[0] == 3.0f, "attended");
  const auto us =
      std::chrono::duration_cast<std::chrono::microseconds>(s.clock.now.time_since_epoch());
  check(us.count() == 1'003'000 + 5120 + 5200, "q there, results back");
  s.write(0, 1);
  s.device.flush();
  check(s.clock.ms() == 3 + 10 + 1000, "appended tokens cross");
}

void test_what_is_fetched_crosses() {
  const auto link = std::make_shared<Link>(kGBPerS / 2);
  Setup s({.limit = {.read_bytes_per_s = kGBPerS}, .link = link});
  Arrivals fetched(s.clock, 0, true);
  s.device.scan(s.part(0, 4), {}, fetched);
  check(fetched.at_ms == Times{3, 5, 7, 9}, "drive, then link");
  check(s.scan(4, 2) == Times{10, 11}, "the next scan does not");
}

// Two devices around one drive, whose scans are under way at once: each range of one is followed by
// a scan of the other.
void test_devices_share_a_drive() {
  const auto drive = std::make_shared<Timeline>();
  Setup a({.limit = {.read_bytes_per_s = kGBPerS}, .drive = drive});
  Setup b({.limit = {.read_bytes_per_s = kGBPerS}, .drive = drive});
  class Both final : public ScanVisitor {
   public:
    Both(Setup& mine, Setup& other) : mine_(mine), other_(other) {}
    void ready(size_t index, std::shared_ptr<const std::byte>) override {
      at_ms.push_back(mine_.clock.ms());
      const Times theirs = other_.scan(index, 1);
      other_at_ms.insert(other_at_ms.end(), theirs.begin(), theirs.end());
    }
    Times at_ms, other_at_ms;

   private:
    Setup &mine_, &other_;
  } both(a, b);
  a.device.scan(a.part(0, 3), {}, both);
  check(both.at_ms == Times{1, 3, 5}, "every other millisecond");
  check(both.other_at_ms == Times{2, 4, 6}, "and those between");
}

void test_attention_on_the_host_hauls_kv() {
  const auto link = std::make_shared<Link>(kGBPerS / 2);
  Setup s({.limit = {.read_bytes_per_s = kGBPerS}, .link = link, .kv_over_link = true});
  check(s.scan(0, 4) == Times{3, 5, 7, 9}, "drive, then link; the link is the slower");
  SmallAttend small(10);
  s.device.attend(small.call, 0, s.workers);
  check(s.clock.ms() == 9, "q and results stay on the host");
}

void test_devices_share_the_link() {
  const auto link = std::make_shared<Link>(kGBPerS);
  Setup a({.link = link, .kv_over_link = true}), b({.link = link, .kv_over_link = true});
  check(a.scan(0, 3) == Times{1, 2, 3}, "alone");
  check(b.scan(0, 3) == Times{4, 5, 6}, "after the other, whose clock is three ahead");
}

// What is not about time is the inner device's answer. (A call that is not passed on does not
// compile: Device has no defaults.)
void test_answers_of_the_inner_device() {
  Setup s({.limit = {.read_bytes_per_s = kGBPerS}}, std::make_unique<Backwards>());
  const TileGeometry geometry({1, 64, 1, 64, DType::kF32, DType::kF32}, 1, 16, 1 << 20);
  check_throws(ErrorKind::kInvalidArgument, [&] { s.device.check_cache(geometry); });
  check(s.device.has_processor(), "asked");
  std::vector<std::unique_ptr<Device>> devices;
  devices.push_back(std::make_unique<Backwards>());
  check_throws(ErrorKind::kInvalidArgument,
               [&] { limit_rates(devices, {.link_bytes_per_s = 1e6}, 0); });
}

// Told between scans, it takes the drive's time from then on.
void test_read_ahead_between_scans() {
  Setup s({.limit = {.read_bytes_per_s = kGBPerS}, .read_ahead_bytes = 2 * kRange});
  s.device.read_ahead(s.part(2, 4));
  s.clock.now += milliseconds(10);
  check(s.scan(2, 4) == Times{10, 10, 11, 12}, "two were there");
}

void test_a_throwing_visitor() {
  class Thrower final : public ScanVisitor {
    void ready(size_t, std::shared_ptr<const std::byte>) override {
      fail(ErrorKind::kStaleHandle, "enough");
    }
  } thrower;
  Setup s({.limit = {.read_bytes_per_s = kGBPerS}});
  check_throws(ErrorKind::kStaleHandle, [&] { s.device.scan(s.part(0, 3), {}, thrower); });
  check(s.scan(0, 1) == Times{2}, "works again");
}

void test_bad_rates() {
  for (const double bad : {-1.0, 0.5, std::numeric_limits<double>::quiet_NaN(),
                           std::numeric_limits<double>::infinity()}) {
    check_throws(ErrorKind::kInvalidArgument, [&] { Link link(bad); });
    check_throws(ErrorKind::kInvalidArgument,
                 [&] { Setup s({.limit = {.read_bytes_per_s = bad}}); });
    check_throws(ErrorKind::kInvalidArgument,
                 [&] { Setup s({.limit = {.write_bytes_per_s = bad}}); });
  }
  check_throws(ErrorKind::kInvalidArgument, [] { Link link(0.0); });
}

void test_limits_of_a_store() {
  std::vector<std::unique_ptr<Device>> devices;
  for (int i = 0; i < 2; ++i) devices.push_back(std::make_unique<MemoryDevice>());
  limit_rates(devices, {}, 0);
  check(devices[0]->info().kind == "memory", "left alone");
  check_throws(ErrorKind::kInvalidArgument,
               [&] { limit_rates(devices, {.kv_over_link = true}, 0); });
  limit_rates(devices, {.link_bytes_per_s = 1e6}, 0);
  check(devices[1]->info().kind == "rate-limited memory", "told");
  const SimulatedHardware first = limit_rates(devices, {.link_bytes_per_s = 1e6}, 0);
  const SimulatedHardware second = limit_rates(devices, {.link_bytes_per_s = 1e6}, 0, first);
  check(first.drives.size() == 2 && first.drives[0] != first.drives[1], "a drive each");
  check(second.link == first.link && second.drives == first.drives, "the same");
}

// On the real clock: never early.
void test_real_time() {
  RateLimitedDevice device(std::make_unique<MemoryDevice>(),
                           {.limit = {.read_bytes_per_s = kGBPerS}});
  const Extent extent = device.reserve(5 * kRange);
  std::vector<TileRange> ranges;
  for (int64_t i = 0; i < 5; ++i) ranges.push_back({extent.offset + i * kRange, kRange});
  class NotBefore final : public ScanVisitor {
   public:
    void ready(size_t index, std::shared_ptr<const std::byte>) override {
      check(Clock::now() - begun >= milliseconds(index + 1), "not before it is due");
    }
    Clock::time_point begun = Clock::now();
  } visitor;
  device.scan(ranges, {}, visitor);
}

}  // namespace
}  // namespace nspjax::testing

int main() {
  using namespace nspjax::testing;
  test_ranges_come_at_the_bandwidth();
  test_the_device_reads_on_while_the_host_is_busy();
  test_read_ahead();
  test_a_wrong_guess_costs_what_it_read();
  test_any_order_from_the_inner_device();
  test_writes();
  test_no_limit();
  test_near_storage_only_queries_and_results_cross();
  test_what_is_fetched_crosses();
  test_devices_share_a_drive();
  test_attention_on_the_host_hauls_kv();
  test_devices_share_the_link();
  test_answers_of_the_inner_device();
  test_read_ahead_between_scans();
  test_a_throwing_visitor();
  test_bad_rates();
  test_limits_of_a_store();
  test_real_time();
}
