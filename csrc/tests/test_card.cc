// Stores on cards (software_card.cc) beside stores in memory: the same attention, whatever is
// where.
#include <cmath>
#include <random>
#include <thread>

#include "check.h"
#include "store/store.h"

namespace nspjax::testing {
namespace {

constexpr int64_t kHeads = 3, kGroup = 4, kDim = 32, kCapacity = 700, kRows = 3, kTileTokens = 32;
constexpr int64_t kToken = kHeads * kDim;
constexpr int64_t kQueryHeads = kHeads * kGroup;

// The scalar kernel: the others round queries to 16 bits for int8, the card does not.
StoreOptions options(const std::vector<std::string>& devices, int64_t pinned_bytes = 0) {
  StoreOptions made;
  made.devices = devices;
  made.host_memory_bytes = 4 << 20;
  made.threads = 2;
  made.kernel = "scalar";
  made.pinned_bytes = pinned_bytes;
  return made;
}

std::vector<float> random_floats(int64_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> floats(static_cast<size_t>(n));
  for (float& x : floats) x = normal(random);
  return floats;
}

// A cache whose rows have the same tokens in every store.
class Rows {
 public:
  explicit Rows(const StoreOptions& options, DType stored = DType::kF32, int64_t window_tokens = 0)
      : store_(options),
        cache_(store_.create_caches(1,
                                    {.batch = kRows,
                                     .capacity_tokens = kCapacity,
                                     .n_kv_heads = kHeads,
                                     .head_dim = kDim,
                                     .dtype = DType::kF32,
                                     .stored = stored,
                                     .window_tokens = window_tokens},
                                    kTileTokens)[0]) {}

  Store& store() { return store_; }

  void grow(int32_t n) {
    const auto seed = static_cast<unsigned>(length_);
    const auto k = random_floats(kRows * n * kToken, seed);
    const auto v = random_floats(kRows * n * kToken, seed + 1);
    const std::vector<int32_t> start(kRows, length_), n_new(kRows, n);
    version_ = store_.append(cache_, version_,
                             {.k = reinterpret_cast<const std::byte*>(k.data()),
                              .v = reinterpret_cast<const std::byte*>(v.data()),
                              .n_tokens = n,
                              .rows = all_,
                              .start = start,
                              .n_new = n_new});
    length_ += n;
  }

  // n_tokens queries, the last of which stands at the end of each row.
  int32_t start(int64_t n_tokens, int64_t window, float softcap) {
    const auto q = random_floats(kRows * n_tokens * kQueryHeads * kDim, 7);
    const std::vector<int32_t> position(kRows, length_ - static_cast<int32_t>(n_tokens));
    const std::vector<int32_t> length(kRows, length_);
    return store_.attend_start(cache_, version_,
                               {.q = q.data(),
                                .q_dtype = DType::kF32,
                                .n_tokens = n_tokens,
                                .n_q_heads = kQueryHeads,
                                .rows = all_,
                                .position = position,
                                .length = length,
                                .scale = 0.2f,
                                .window = window,
                                .softcap = softcap,
                                .out = nullptr,
                                .lse = nullptr});
  }
  AttendResult attend(int64_t n_tokens = 1, int64_t window = 0, float softcap = 0) {
    return store_.attend_wait(start(n_tokens, window, softcap));
  }

 private:
  Store store_;
  int32_t cache_;
  int32_t version_ = 0;
  int32_t length_ = 0;
  std::vector<int32_t> all_ = {0, 1, 2};
};

void check_same(const AttendResult& got, const AttendResult& wanted) {
  const auto close = [](const std::vector<float>& a, const std::vector<float>& b) {
    check(a.size() == b.size() && !a.empty(), "sizes");
    for (size_t i = 0; i < a.size(); ++i) check(std::abs(a[i] - b[i]) < 2e-5f, "number");
  };
  close(got.out, wanted.out);
  close(got.lse, wanted.lse);
}

std::string card(int index, const std::string& path, const std::string& xclbin = "good") {
  return "xrt:" + std::to_string(index) + "?xclbin=" + xclbin + "&path=" + path;
}

void test_as_in_memory(const std::vector<std::string>& devices, int64_t pinned_bytes,
                       DType stored) {
  Rows on_cards(options(devices, pinned_bytes), stored), in_memory(options({"memory:"}), stored);
  for (const int32_t n : {1, 31, 32, 150, 300}) {
    on_cards.grow(n);
    in_memory.grow(n);
    check_same(on_cards.attend(), in_memory.attend());
    // more queries of a head than a run takes
    check_same(on_cards.attend(n > 30 ? 30 : 1), in_memory.attend(n > 30 ? 30 : 1));
    check_same(on_cards.attend(1, 50, 3.0f), in_memory.attend(1, 50, 3.0f));
  }
  check(on_cards.store().stats().bytes_read > 0, "tiles came from the drives");
}

// Tiles that take turns in the slots, through windows that begin anywhere.
void test_a_window_as_in_memory(const std::vector<std::string>& devices) {
  Rows on_cards(options(devices), DType::kF32, 80), in_memory(options({"memory:"}));
  for (const int32_t n : {1, 31, 32, 150, 20, 20, 20, 20, 300}) {
    on_cards.grow(n);
    in_memory.grow(n);
    check_same(on_cards.attend(1, 80), in_memory.attend(1, 80));
    check_same(on_cards.attend(n > 30 ? 30 : 1, 50), in_memory.attend(n > 30 ? 30 : 1, 50));
  }
  check(on_cards.store().stats().bytes_read > 0, "tiles came from the drives");
}

void test_several_at_once(const std::vector<std::string>& devices) {
  Rows on_cards(options(devices)), in_memory(options({"memory:"}));
  on_cards.grow(500);
  in_memory.grow(500);
  const AttendResult wanted = in_memory.attend();
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 3; ++round) check_same(on_cards.attend(), wanted);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

void test_what_goes_wrong(const std::string& path, const std::string& xclbin) {
  Rows rows(options({card(0, path, xclbin)}));
  rows.grow(500);
  check_throws(ErrorKind::kAccelerator, [&] {
    for (int i = 0; i < 10; ++i) rows.attend();
  });
  check_throws(ErrorKind::kAccelerator, [&] { rows.attend(); });  // once lost, never used again
  rows.grow(1);                                                   // what is stored is not lost
  rows.store().close();
}

void test_refused(const std::string& path) {
  check_throws(ErrorKind::kAccelerator, [&] { Store store(options({card(0, path, "no-p2p")})); });
  StoreOptions limited = options({card(0, path)});
  limited.rate_limit.device.read_bytes_per_s = 1e9;
  check_throws(ErrorKind::kInvalidArgument, [&] { Store store(limited); });
  Store store(options({card(0, path)}));
  for (const auto& [head_dim, tile_tokens] : {std::pair{24, 32}, {272, 32}, {32, 8}}) {
    check_throws(ErrorKind::kInvalidArgument, [&] {
      store.create_caches(1,
                          {.batch = 1,
                           .capacity_tokens = 64,
                           .n_kv_heads = 1,
                           .head_dim = head_dim,
                           .dtype = DType::kF32,
                           .stored = DType::kF32},
                          tile_tokens);
    });
  }
}

}  // namespace
}  // namespace nspjax::testing

int main() {
  using namespace nspjax;
  using namespace nspjax::testing;
  const TemporaryDirectory a, b, c;
  const std::vector<std::string> mixed = {card(0, a.path()), b.path(), card(1, c.path())};
  for (const DType stored : {DType::kF32, DType::kInt8}) {
    test_as_in_memory({card(0, a.path())}, 0, stored);
    test_as_in_memory(mixed, 30'000, stored);
  }
  test_a_window_as_in_memory(mixed);
  test_several_at_once(mixed);
  for (const char* wrong : {"fails:1", "fails:9", "lost:1", "lost:12", "reset:7"}) {
    test_what_goes_wrong(a.path(), wrong);
  }
  test_refused(a.path());
}
