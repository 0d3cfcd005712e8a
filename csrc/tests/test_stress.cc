// Whole stores from many threads at once: for ThreadSanitizer and AddressSanitizer.
#include <atomic>
#include <cmath>
#include <deque>
#include <random>
#include <thread>

#include "check.h"
#include "position_tokens.h"
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
  int32_t window = 0;

  void append(int32_t n, int32_t from, bool hold = false) {
    version = append_positions(store, cache, version, from, n, hold);
    length = from + n;
  }

  struct Query {
    std::vector<float> q, out, lse;
    std::vector<int32_t> rows, position, lengths;
    AttendArgs args;
  };
  std::unique_ptr<Query> query(bool read_ahead) const {
    auto query = std::make_unique<Query>();
    query->q.assign(static_cast<size_t>(kRows * 2 * 2 * kHeads * kDim), 1.0f);
    query->out.resize(query->q.size());
    query->lse.resize(query->q.size() / kDim);
    query->rows = {1, 0};
    query->position.assign(2, length - 2);
    query->lengths.assign(2, length);
    query->args = {.q = query->q.data(),
                   .q_dtype = DType::kF32,
                   .n_tokens = 2,
                   .n_q_heads = 2 * kHeads,
                   .rows = query->rows,
                   .position = query->position,
                   .length = query->lengths,
                   .scale = 1.0f,
                   .window = window,
                   .softcap = 0.0f,
                   .out = query->out.data(),
                   .lse = query->lse.data(),
                   .read_ahead = read_ahead};
    return query;
  }

  // Equal keys: the output is the mean of the positions seen.
  void check_mean(const std::vector<float>& out, int32_t n_seen) const {
    for (size_t i = 0; i < out.size(); ++i) {
      const auto t = static_cast<int32_t>(i) / static_cast<int32_t>(2 * kHeads * kDim) % 2;
      const int32_t last = n_seen - 2 + t;
      const int32_t first = window > 0 ? std::max(0, last - window + 1) : 0;
      const auto mean = static_cast<float>(first + last) / 2.0f;
      check(std::abs(out[i] - mean) < 1e-3f * mean + 1e-3f, "the mean of what is seen");
    }
  }
  void attend() {
    const auto asked = query(true);
    store.attend(cache, version, asked->args);
    check_mean(asked->out, length);
  }
  // What is started sees the rows as they are now.
  struct Started {
    int32_t ticket;
    int32_t length;
  };
  Started start() {
    const auto asked = query(false);
    return {store.attend_start(cache, version, asked->args), length};
  }
  void wait(const Started& started) {
    check_mean(store.attend_wait(started.ticket).out, started.length);
  }
  void prefetch() {
    const std::vector<int32_t> rows = {0, 1}, lengths(2, length);
    store.prefetch(cache, {.rows = rows, .length = lengths, .most_bytes = 1 << 20});
  }
};

// Threads with caches of their own in one store: append, cut, attend, read, drop, create.
void test_many_callers(const std::vector<std::string>& devices, const std::string& io) {
  const auto store = open_store(options(devices, io));
  const auto work = [&](unsigned seed) {
    std::mt19937 random(seed);
    for (int round = 0; round < 3; ++round) {
      const CacheShape shape{kRows, kCapacity, kHeads, kDim, DType::kF32, DType::kF32};
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

// The same with attention in two calls, held tiles, delayed writes, and what is read next
// announced; with a window, tiles take the places of others that attention is queued for.
void test_many_in_flight(const std::vector<std::string>& devices, const std::string& io,
                         int32_t window = 0) {
  const auto store = open_store(options(devices, io));
  const auto work = [&](unsigned seed) {
    std::mt19937 random(seed);
    const CacheShape shape{kRows, kCapacity, kHeads, kDim, DType::kF32, DType::kF32, window};
    Call call{*store, store->create_caches(1, shape, 16).front(), 0, 0, window};
    call.append(100, 0);
    std::deque<Call::Started> started;
    for (int i = 0; i < 60; ++i) {
      const auto n = static_cast<int32_t>(1 + random() % 20);
      int32_t cut = random() % 8 == 0 ? static_cast<int32_t>(random() % 50) : 0;
      const std::vector<int32_t> start(kRows, call.length - cut);
      if (start[0] < 2 || !store->can_truncate(call.cache, start)) cut = 0;
      const bool full = call.length - cut + n > kCapacity;
      const int32_t anew = window > 0 ? 0 : 60;
      call.append(full && window > 0 ? 20 : n, full ? anew : call.length - cut, random() % 4 != 0);
      if (random() % 2 == 0) call.prefetch();
      started.push_back(call.start());
      if (random() % 3 == 0) {
        constexpr int64_t kIntervals[] = {1, 16, 48};
        store->writeback(call.cache, call.version, kIntervals[random() % 3], random() % 2 == 0);
      }
      while (started.size() > random() % 4) {
        call.wait(started.front());
        started.pop_front();
      }
    }
    if (!started.empty()) {  // the cache may go while nobody has asked for these
      const int32_t ticket = started.back().ticket;
      store->drop_cache(call.cache);
      check_throws(ErrorKind::kInvalidArgument, [&] { store->attend_wait(ticket); });
    }
  };
  {
    std::vector<std::jthread> threads;
    for (unsigned seed = 0; seed < 3; ++seed) threads.emplace_back(work, seed);
  }
  store->flush();
}

// Some wait for what others have started, while the store is closed with jobs in its queue.
void test_close_with_jobs(const std::vector<std::string>& devices, const std::string& io) {
  const auto store = open_store(options(devices, io));
  const CacheShape shape{kRows, kCapacity, kHeads, kDim, DType::kF32, DType::kF32};
  Call call{*store, store->create_caches(1, shape, 16).front()};
  call.append(200, 0);
  std::vector<Call::Started> started;
  for (int i = 0; i < 200; ++i) started.push_back(call.start());
  std::atomic<size_t> next = 0;
  std::vector<std::jthread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] {
      try {
        for (size_t n = next++; n < started.size(); n = next++) Call(call).wait(started[n]);
      } catch (const Error& error) {
        check(error.kind() == ErrorKind::kStoreClosed, error.what());
      }
    });
  }
  while (next < 20) std::this_thread::yield();
  store->close();
}

// A store is closed, and let go, while others call it through the registry.
void test_close_in_use(const std::vector<std::string>& devices, const std::string& io) {
  auto store = open_store(options(devices, io));
  const CacheShape shape{kRows, kCapacity, kHeads, kDim, DType::kF32, DType::kF32};
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
  const CacheShape shape{kRows, kCapacity, kHeads, kDim, DType::kF32, DType::kF32};
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
      test_many_in_flight(devices, io);
      test_many_in_flight(devices, io, 40);
      test_close_in_use(devices, io);
      test_close_with_jobs(devices, io);
    }
    test_one_device_fails("read:eio:after=5", io);
    test_one_device_fails("write:eio:after=5", io);
  }
}
