// Whole stores from many threads at once: for ThreadSanitizer and AddressSanitizer.
#include <atomic>
#include <cmath>
#include <random>
#include <thread>

#include "check.h"
#include "store/registry.h"

namespace nspjax::testing {
namespace {

constexpr int64_t kHeads = 3, kDim = 24, kCapacity = 300, kRows = 2;

StoreOptions options(const std::vector<std::string>& devices, const std::string& io,
                     const std::string& fault = "") {
  return {.devices = devices,
          .host_memory_bytes = 2 << 20,
          .threads = 3,
          .io = io,
          .kernel = "auto",
          .pinned_bytes = 0,
          .fault = fault};
}

struct Call {
  Store& store;
  int32_t cache;
  int32_t version = 0;
  int32_t length = 0;

  // All rows get n tokens whose V is their position.
  void append(int32_t n, int32_t from) {
    const std::vector<float> k(static_cast<size_t>(kRows * n * kHeads * kDim), 0.25f);
    std::vector<float> v(k.size());
    for (size_t i = 0; i < v.size(); ++i) {
      const auto token = static_cast<int64_t>(i) / (kHeads * kDim) % n;
      v[i] = static_cast<float>(from + token);
    }
    const std::vector<int32_t> rows = {0, 1}, start(2, from), n_new(2, n);
    version = store.append(cache, version,
                           {.k = reinterpret_cast<const std::byte*>(k.data()),
                            .v = reinterpret_cast<const std::byte*>(v.data()),
                            .n_tokens = n,
                            .rows = rows,
                            .start = start,
                            .n_new = n_new});
    length = from + n;
  }

  // Equal keys: the output is the mean of the positions seen.
  void attend() {
    const std::vector<float> q(static_cast<size_t>(kRows * 2 * 2 * kHeads * kDim), 1.0f);
    std::vector<float> out(q.size()), lse(q.size() / kDim);
    const std::vector<int32_t> rows = {1, 0}, position(2, length - 2), lengths(2, length);
    store.attend(cache, version,
                 {.q = q.data(),
                  .q_dtype = DType::kF32,
                  .n_tokens = 2,
                  .n_q_heads = 2 * kHeads,
                  .rows = rows,
                  .position = position,
                  .length = lengths,
                  .scale = 1.0f,
                  .window = 0,
                  .softcap = 0.0f,
                  .out = out.data(),
                  .lse = lse.data()});
    for (size_t i = 0; i < out.size(); ++i) {
      const auto t = static_cast<int32_t>(i) / static_cast<int32_t>(2 * kHeads * kDim) % 2;
      const auto mean = static_cast<float>(length - 2 + t) / 2.0f;
      check(std::abs(out[i] - mean) < 1e-3f * mean + 1e-3f, "the mean of what is seen");
    }
  }
};

// Threads with caches of their own in one store: append, cut, attend, read, drop, create.
void test_many_callers(const std::vector<std::string>& devices, const std::string& io) {
  const auto store = open_store(options(devices, io));
  const auto work = [&](unsigned seed) {
    std::mt19937 random(seed);
    for (int round = 0; round < 3; ++round) {
      const CacheShape shape{kRows, kCapacity, kHeads, kDim, DType::kF32, KVType::kF32};
      Call call{*store, store->create_caches(1, shape, 16).front()};
      call.append(150, 0);
      for (int i = 0; i < 30; ++i) {
        const auto n = static_cast<int32_t>(1 + random() % 20);
        const int32_t cut = random() % 4 == 0 ? static_cast<int32_t>(random() % 50) : 0;
        if (call.length - cut + n > kCapacity) continue;
        call.append(n, call.length - cut);
        call.attend();
        check(store->stats().bytes_appended > 0, "counted");
      }
      store->drop_cache(call.cache);
    }
  };
  {
    std::vector<std::jthread> threads;
    for (unsigned seed = 0; seed < 3; ++seed) threads.emplace_back(work, seed);
  }
  check(store->stats().kv_bytes_stored == 0, "all dropped");
}

// A store is closed, and let go, while others call it through the registry.
void test_close_in_use(const std::vector<std::string>& devices, const std::string& io) {
  auto store = open_store(options(devices, io));
  const CacheShape shape{kRows, kCapacity, kHeads, kDim, DType::kF32, KVType::kF32};
  Call call{*store, store->create_caches(1, shape, 16).front()};
  call.append(200, 0);
  const int32_t id = store->id();
  std::atomic<int> calls = 0;
  std::vector<std::jthread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&calls, call, id] {
      check_throws(ErrorKind::kStoreClosed, [&] {
        for (;; ++calls) {
          const auto found = find_store(id);
          Call(*found, call.cache, call.version, call.length).attend();
        }
      });
    });
  }
  while (calls < 10) std::this_thread::yield();
  store->close();
  store.reset();
}

// An error on one of two devices while the other works on; then all is well again.
void test_one_device_fails(const char* fault, const std::string& io) {
  const TemporaryDirectory a, b;
  const auto store = open_store(options({a.path(), b.path()}, io, fault));
  const CacheShape shape{kRows, kCapacity, kHeads, kDim, DType::kF32, KVType::kF32};
  Call call{*store, store->create_caches(1, shape, 16).front()};
  int failures = 0;
  for (int i = 0; i < 10; ++i) {
    try {
      call.append(200, 0);
      call.attend();
    } catch (const Error& error) {
      check(error.kind() == ErrorKind::kStorageIO, error.what());
      ++failures;
    }
  }
  check(failures <= 2, "each device fails once, or its write is tried again");
}

}  // namespace
}  // namespace nspjax::testing

int main() {
  using namespace nspjax::testing;
  for (const char* io : {"auto", "pread"}) {
    const TemporaryDirectory a, b;
    for (const std::vector<std::string>& devices :
         {std::vector<std::string>{"memory:"}, {a.path()}, {a.path(), b.path(), "memory:"}}) {
      test_many_callers(devices, io);
      test_close_in_use(devices, io);
    }
    test_one_device_fails("read:eio:after=5", io);
    test_one_device_fails("write:eio:after=5", io);
  }
}
