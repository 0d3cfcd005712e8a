// Fetches beside everything else, from both lanes of a store at once: for ThreadSanitizer and
// AddressSanitizer.
#include <atomic>
#include <random>
#include <thread>

#include "check.h"
#include "store/registry.h"

namespace nspjax::testing {
namespace {

constexpr int64_t kHeads = 3, kDim = 24, kCapacity = 300, kRows = 2, kTileTokens = 16;
constexpr int64_t kToken = kHeads * kDim;  // elements of K or V

constexpr CacheShape shape_in(DType stored) {
  return {.batch = kRows,
          .capacity_tokens = kCapacity,
          .n_kv_heads = kHeads,
          .head_dim = kDim,
          .dtype = DType::kF32,
          .stored = stored};
}

StoreOptions options(const std::vector<std::string>& devices, const std::string& fault = "") {
  return {.devices = devices,
          .host_memory_bytes = 4 << 20,
          .threads = 3,
          .pinned_bytes = 20'000,
          .fault = fault,
          .x_share = 0.5};
}

// A cache of a store, whose row r has at token t the numbers r * 1000 + t: K as they are, V
// negated.
struct Filled {
  Store& store;
  int32_t cache;
  int32_t version = 0;
  int32_t length = 0;

  void grow(int32_t n) {
    std::vector<float> k(static_cast<size_t>(kRows * n * kToken)), v(k.size());
    for (size_t i = 0; i < k.size(); ++i) {
      const int64_t token = static_cast<int64_t>(i) / kToken;
      k[i] = static_cast<float>(token / n * 1000 + length + token % n);
      v[i] = -k[i];
    }
    const std::vector<int32_t> rows = {0, 1}, start(2, length), n_new(2, n);
    version = store.append(cache, version,
                           {.k = reinterpret_cast<const std::byte*>(k.data()),
                            .v = reinterpret_cast<const std::byte*>(v.data()),
                            .n_tokens = n,
                            .rows = rows,
                            .start = start,
                            .n_new = n_new});
    length += n;
  }

  void fetch(int64_t begin, int64_t n, float tolerance = 0) {
    const std::vector<int32_t> rows = {1, 0, 1}, lengths = {length, length / 2, 0};
    std::vector<float> k(static_cast<size_t>(3 * n * kToken), 7.0f), v(k);
    store.fetch(cache, version,
                {.rows = rows,
                 .length = lengths,
                 .begin = begin,
                 .n_tokens = n,
                 .read_ahead = true,
                 .k = reinterpret_cast<std::byte*>(k.data()),
                 .v = reinterpret_cast<std::byte*>(v.data())});
    for (size_t i = 0; i < k.size(); ++i) {
      const int64_t b = static_cast<int64_t>(i) / (n * kToken);
      const int64_t token = begin + static_cast<int64_t>(i) / kToken % n;
      const auto at = static_cast<size_t>(b);
      const auto wanted = token < lengths[at] ? static_cast<float>(rows[at] * 1000 + token) : 0.0f;
      check(std::abs(k[i] - wanted) <= tolerance && std::abs(v[i] + wanted) <= tolerance, "token");
    }
  }
};

void test_chunks(const std::vector<std::string>& devices, DType stored, float tolerance) {
  Store store(options(devices));
  Filled filled{store, store.create_caches(1, shape_in(stored), kTileTokens)[0]};
  for (const int32_t n : {1, 15, 70, 3, 180}) {
    filled.grow(n);
    for (const int64_t chunk : {7, 16, 64, 300}) {
      for (int64_t begin = 0; begin < filled.length; begin += chunk) {
        filled.fetch(begin, chunk, tolerance);
      }
    }
  }
}

// One thread appends to and fetches from a cache, another from that of its X; a third looks at
// counters and events, and asks for the X.
void test_both_lanes_at_the_same_time(const std::vector<std::string>& devices,
                                      const StoreRateLimit& limit = {}) {
  StoreOptions given = options(devices);
  given.rate_limit = limit;
  const auto store = open_store(given);
  const int32_t cache = store->create_caches(1, shape_in(DType::kF32), kTileTokens)[0];
  std::atomic<bool> done = false;
  std::thread looks([&] {
    while (!done) {
      check(store->stats().host_bytes <= 4 << 20, "within the budget");
      for (const TraceEvent& event : store->trace_events()) {
        check(event.cache < 1 || event.cache >= kFirstXCache, "numbers of two kinds");
      }
      store->x_cache(cache, kHeads, kDim);
    }
  });
  const auto work = [](Filled filled) {
    std::mt19937 random(1);
    while (filled.length < kCapacity - 20) {
      filled.grow(static_cast<int32_t>(random() % 20 + 1));
      for (int64_t begin = 0; begin < filled.length; begin += 64) filled.fetch(begin, 64);
    }
  };
  std::thread on_x([&] {
    const Handle x = store->x_cache(cache, kHeads, kDim);
    work({*store, x.cache});
  });
  work({*store, cache});
  on_x.join();
  done = true;
  looks.join();
  const Handle x = store->x_cache(cache, kHeads, kDim);
  store->close();
  check_throws(ErrorKind::kStoreClosed, [&] { store->lengths(x.cache); });
  check_throws(ErrorKind::kStoreClosed, [&] { store->x_cache(cache, kHeads, kDim); });
}

void test_read_errors(const std::vector<std::string>& devices) {
  for (int after = 0; after < 12; ++after) {
    Store store(options(devices, "read:eio:times=2:after=" + std::to_string(after)));
    Filled filled{store, store.create_caches(1, shape_in(DType::kF32), kTileTokens)[0]};
    filled.grow(kCapacity);
    for (int round = 0; round < 3; ++round) {
      for (int64_t begin = 0; begin < kCapacity; begin += 100) {
        try {
          filled.fetch(begin, 100);
        } catch (const Error& error) {
          check(error.kind() == ErrorKind::kStorageIO, error.what());
        }
      }
    }
  }
}

}  // namespace
}  // namespace nspjax::testing

int main() {
  using namespace nspjax;
  using namespace nspjax::testing;
  const TemporaryDirectory a, b;
  for (const auto& devices : {std::vector<std::string>{"memory:"}, {a.path(), b.path()}}) {
    test_chunks(devices, DType::kF32, 0);
    test_chunks(devices, DType::kInt8, 5);
    test_both_lanes_at_the_same_time(devices);
  }
  test_both_lanes_at_the_same_time({"memory:"}, {{1e9, 1e9}, 1e9, false});
  test_read_errors({a.path(), b.path()});
}
