// Attention that reads a part of V: which blocks are chosen, and many callers at once, for
// ThreadSanitizer and AddressSanitizer.
#include <algorithm>
#include <cmath>
#include <random>
#include <thread>

#include "attention/choose.h"
#include "check.h"
#include "position_tokens.h"
#include "store/registry.h"

namespace nspjax::testing {
namespace {

using Blocks = std::vector<int32_t>;

void test_choice() {
  const std::vector<float> shares = {0.05f, 0.3f, 0.1f, 0.3f, 0.05f};  // and 0.2 at hand
  const Blocks steady = {0};
  const auto chosen = [&](float mass, int64_t most) {
    return choose_blocks(shares, steady, 0.2f, mass, most);
  };
  check(chosen(0.2f, 5).blocks == Blocks({0}), "steady blocks are always read");
  check(chosen(0.5f, 5).blocks == Blocks({0, 1}), "of equal shares the first");
  check(chosen(0.6f, 5).blocks == Blocks({0, 1, 3}), "until the mass is reached");
  check(chosen(0.9f, 5).blocks == Blocks({0, 1, 2, 3}), "in the order of shares");
  check(chosen(0.9f, 2).blocks == Blocks({0, 1}), "or the budget is");
  check(chosen(0.9f, 0).blocks == Blocks({0}), "of which steady blocks are a part");
  check(std::abs(chosen(0.6f, 5).left_out - 0.15f) < 1e-6f, "what the others have");
  check(chosen(1.0f, 5).blocks == Blocks({0, 1, 2, 3, 4}), "all of it");
  check(chosen(1.0f, 5).left_out == 0.0f, "and nothing is left");
  check(choose_blocks(std::vector{0.5f, std::nanf("")}, {}, 0.0f, 0.1f, 1).blocks == Blocks({0, 1}),
        "what is no number hides nothing");
  check(choose_blocks({}, {}, 1.0f, 0.5f, 0).blocks.empty(), "nothing to choose from");
}

constexpr int64_t kRows = 2, kHeads = 3, kDim = 24, kCapacity = 400;

// Keys are equal, so that all weights are, and V is the token's position: the answer is the mean of
// all positions, whichever blocks are read.
class Caller {
 public:
  Caller(Store& store, unsigned seed) : store_(store), random_(seed) {
    const CacheShape shape{.batch = kRows,
                           .capacity_tokens = kCapacity,
                           .n_kv_heads = kHeads,
                           .head_dim = kDim,
                           .dtype = DType::kF32,
                           .stored = seed % 2 == 0 ? DType::kF32 : DType::kInt8,
                           .sketch = true};
    cache_ = store.create_caches(1, shape, 16).front();
  }

  void run() {
    for (int i = 0; i < 40; ++i) {
      const int32_t n = 1 + below(70);
      if (length_ + n > kCapacity) length_ = below(static_cast<int32_t>(kCapacity) - n);
      append(n, below(2) == 0);
      if (below(3) == 0) store_.writeback(cache_, version_, 16, below(2) == 0);
      attend();
    }
    store_.drop_cache(cache_);
  }

 private:
  int32_t below(int32_t n) { return static_cast<int32_t>(random_() % static_cast<unsigned>(n)); }

  void append(int32_t n, bool hold) {
    version_ = append_positions(store_, cache_, version_, length_, n, hold);
    length_ += n;
  }

  void attend() {
    constexpr size_t kQueries = kRows * 2 * kHeads;
    const std::vector<float> q(kQueries * kDim, 1.0f);
    std::vector<float> out(q.size()), lse(kQueries);
    const Blocks rows = {1, 0}, position(2, length_ - 1), lengths(2, length_);
    store_.attend(cache_, version_,
                  {.q = q.data(),
                   .q_dtype = DType::kF32,
                   .n_tokens = 1,
                   .n_q_heads = 2 * kHeads,
                   .rows = rows,
                   .position = position,
                   .length = lengths,
                   .scale = 0.1f,
                   .window = 0,
                   .softcap = 0.0f,
                   .out = out.data(),
                   .lse = lse.data(),
                   .sparsity = {.mass = 0.5f, .budget = 1.0f, .block_tokens = 16}});
    const float mean = static_cast<float>(length_ - 1) / 2.0f;
    for (const float x : out) check(std::abs(x - mean) < 2e-3f * mean + 1e-3f, "the mean of all");
  }

  Store& store_;
  std::mt19937 random_;
  int32_t cache_;
  int32_t version_ = 0;
  int32_t length_ = 0;
};

void test_many_callers(const std::vector<std::string>& devices, int64_t pinned_bytes) {
  StoreOptions options;
  options.devices = devices;
  options.host_memory_bytes = 4 << 20;
  options.threads = 3;
  options.pinned_bytes = pinned_bytes;
  const auto store = open_store(options);
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 3; ++seed) {
    threads.emplace_back([&store, seed] { Caller(*store, seed).run(); });
  }
  for (std::thread& thread : threads) thread.join();
  check(store->stats().sparse_tokens_read < store->stats().sparse_tokens, "a part was read");
  check(store->stats().sketch_bytes == 0, "dropped caches give their memory back");
  store->close();
}

}  // namespace
}  // namespace nspjax::testing

int main() {
  using namespace nspjax::testing;
  test_choice();
  const TemporaryDirectory a, b;
  test_many_callers({"memory:"}, 0);
  test_many_callers({a.path(), b.path()}, 0);
  test_many_callers({a.path()}, -1);
  return 0;
}
