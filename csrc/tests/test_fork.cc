// A fork's child can do nothing with what its parent has, and does nothing to it; locks and files
// are the parent's as long as it lives.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <numeric>
#include <thread>
#include <vector>

#include "check.h"
#include "store/registry.h"

namespace nspjax::testing {
namespace {

constexpr int64_t kTokens = 600, kDim = 64;
constexpr CacheShape kShape{1, kTokens, 1, kDim, DType::kF32, DType::kF32};

// Runs fn in a child, whose checks end it.
void in_child(const std::function<void()>& fn) {
  const pid_t pid = ::fork();
  check(pid >= 0, "fork");
  if (pid == 0) {
    ::alarm(20);
    fn();
    ::_exit(0);
  }
  int status = 0;
  check(::waitpid(pid, &status, 0) == pid && status == 0, "the child ended well");
}

std::shared_ptr<Store> open(const std::string& directory, const std::string& io) {
  return open_store({.devices = {directory},
                     .host_memory_bytes = 8 << 20,
                     .io = io,
                     .pinned_bytes = 0,
                     .fault = {}});
}

std::vector<float> contents(Store& store, int32_t cache) {
  std::vector<float> k(kTokens * kDim), v(k.size());
  store.read(cache, 0, 0, kTokens, reinterpret_cast<std::byte*>(k.data()),
             reinterpret_cast<std::byte*>(v.data()));
  return k;
}

void children_of(const std::string& io) {
  const TemporaryDirectory directory;
  std::shared_ptr<Store> store = open(directory.path(), io);
  const int32_t cache = store->create_caches(1, kShape)[0];
  store->fill_synthetic(cache, kTokens);
  const std::vector<float> before = contents(*store, cache);
  std::atomic<bool> ended = false;
  std::thread reader([&] {
    while (!ended) check(contents(*store, cache) == before, "the same while children come and go");
  });
  for (int i = 0; i < 10; ++i) {
    in_child([&] {
      check_throws(ErrorKind::kStoreClosed, [&] { contents(*store, cache); });
      check_throws(ErrorKind::kStoreClosed, [&] { find_store(store->id())->check_usable(); });
      check_throws(ErrorKind::kStoreClosed, [&] { store->weights().size_bytes(0); });
      check_throws(ErrorKind::kStoreClosed, [&] { (void)store->stats(); });
      check_throws(ErrorKind::kStoreClosed, [&] { (void)store->trace_events(); });
      check(store->closed(), "closed, for the child");
      store->close();
      store.reset();
    });
  }
  ended = true;
  reader.join();
  store->close();
  check(::access((directory.path() + "/nspjax.kv").c_str(), F_OK) == 0, "the file is there");
  open(directory.path(), io)->close();
}

void descriptors_end_with_the_process() {
  const TemporaryDirectory directory;
  const std::shared_ptr<Store> store = open(directory.path(), "auto");
  const auto n_open = [] {
    int n = 0;
    for (int fd = 3; fd < 1000; ++fd) n += ::fcntl(fd, F_GETFD) >= 0;
    return n;
  };
  const int before = n_open();
  in_child([&] { check(n_open() <= before - 3, "lock, data and queue are closed in a child"); });
  check(n_open() == before, "and open here");
}

void texts_are_utf8() {
  check(printable("a\xe9 \xc3\xa9\xed\xa0\x80\xf4\x90\x80\x80\xc0\x80\xe2\x82") ==
            "a\\xe9 \xc3\xa9\\xed\\xa0\\x80\\xf4\\x90\\x80\\x80\\xc0\\x80\\xe2\\x82",
        "what is no UTF-8 is written as numbers");
}

}  // namespace
}  // namespace nspjax::testing

int main() {
  using namespace nspjax::testing;
  children_of("auto");
  children_of("pread");
  descriptors_end_with_the_process();
  texts_are_utf8();
}
