// A right call of every kind, on arrays of its own, for tests to change.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <vector>

#include "calls/arguments.h"
#include "calls/table.h"
#include "check.h"
#include "store/registry.h"

namespace nspjax::testing {
using calls::Call;
using calls::Kind;

inline constexpr int64_t kRows = 2, kNewTokens = 3, kHeads = 2, kQueryHeads = 4, kDim = 8,
                         kCapacity = 64;

inline int64_t bytes_of(std::string_view type) {
  const std::map<std::string_view, int64_t> bytes = {{"f32", 4}, {"i32", 4}, {"bf16", 2},
                                                     {"f16", 2}, {"i8", 1},  {"i16", 2}};
  return bytes.at(type);
}

// One right call: arrays that it owns, exactly as large as they say.
class Example {
 public:
  // sizes: of each axis by its letter.
  Example(const Call& call, calls::Reference about, std::map<char, int64_t> sizes)
      : call_(call), sizes_(std::move(sizes)) {
    given.about = std::move(about);
    for (size_t i = 0; i < call.operands.size(); ++i) add(call.operands[i], given.operands[i]);
    for (size_t i = 0; i < call.results.size(); ++i) add(call.results[i], given.results[i]);
  }

  template <typename T>
  Example& set(std::string_view operand, std::vector<T> values) {
    const calls::Array& array = given.operands[call_.operands.index(operand)];
    check(std::ssize(values) * array.element_bytes == size_bytes(array), "as many as it has");
    std::ranges::copy(values, array.as<T>());
    return *this;
  }
  Example& attribute(std::string_view name, int64_t value) {
    given.attributes[call_.attributes.index(name)].integer = value;
    return *this;
  }
  Example& real(std::string_view name, float value) {
    given.attributes[call_.attributes.index(name)].real = value;
    return *this;
  }
  void run() { call_.run(given); }

  const Call& call() const { return call_; }
  template <typename T>
  std::vector<T> result(std::string_view name) const {
    const calls::Array& array = given.results[call_.results.index(name)];
    const auto* begin = array.as<const T>();
    return {begin, begin + size_bytes(array) / array.element_bytes};
  }
  Handle reference(std::string_view name) const {
    return given.references[call_.results.index(name)];
  }

  // An array of the call with other sizes, or another type, its contents 0.
  void change(calls::Array& array, std::vector<int64_t> sizes, std::string_view type) {
    array.type = type;
    array.element_bytes = bytes_of(type);
    array.sizes = *sizes_given_.emplace_back(std::make_unique<std::vector<int64_t>>(sizes));
    array.data = data_
                     .emplace_back(std::make_unique<std::vector<float>>(
                         static_cast<size_t>(size_bytes(array) / 4 + 1)))
                     ->data();
  }

  calls::Arguments given;

 private:
  static int64_t size_bytes(const calls::Array& array) {
    return std::accumulate(array.sizes.begin(), array.sizes.end(), array.element_bytes,
                           std::multiplies<>());
  }

  void add(const calls::Parameter& parameter, calls::Array& array) {
    if (parameter.kind != Kind::kArray) return;
    std::vector<int64_t> sizes;
    for (const char axis : parameter.axes == "*" ? "BT" : parameter.axes) {
      if (axis != 0) sizes.push_back(axis <= '9' ? axis - '0' : sizes_.at(axis));
    }
    const bool any = parameter.type == "cache" || parameter.type == "float";
    change(array, sizes, any ? "f32" : parameter.type == "bytes" ? "i16" : parameter.type);
  }

  const Call& call_;
  std::map<char, int64_t> sizes_;
  std::vector<std::unique_ptr<std::vector<int64_t>>> sizes_given_;
  std::vector<std::unique_ptr<std::vector<float>>> data_;
};

// A store with a cache of two rows and a weight of 12 bytes.
struct Fixture {
  std::shared_ptr<Store> store = open_store({.devices = {"memory:"},
                                             .host_memory_bytes = 8 << 20,
                                             .threads = 2,
                                             .fault = "",
                                             .x_share = 0.5});
  int32_t cache =
      store->create_caches(1, {kRows, kCapacity, kHeads, kDim, DType::kF32, DType::kF32})[0];
  int32_t weight = store->put_weight(std::vector<std::byte>(12, std::byte{7}));
  std::map<char, int64_t> sizes = {{'B', kRows},  {'S', kRows},       {'T', kNewTokens},
                                   {'H', kHeads}, {'Q', kQueryHeads}, {'D', kDim}};

  calls::Reference cache_now() const { return {store, cache, store->version(cache)}; }

  std::unique_ptr<Example> append() const {
    auto made = std::make_unique<Example>(calls::kAppend, cache_now(), sizes);
    const auto lengths = store->lengths(cache);
    made->set<int32_t>("rows", {1, 0});
    made->set("start", std::vector<int32_t>{static_cast<int32_t>(lengths[1]),
                                            static_cast<int32_t>(lengths[0])});
    made->set<int32_t>("n_new", {3, 1});
    return made;
  }
  // Over what append() has appended once.
  std::unique_ptr<Example> attend(const Call& call) const {
    auto made = std::make_unique<Example>(call, cache_now(), sizes);
    made->set<int32_t>("rows", {1, 0}).set<int32_t>("position", {9, 9});
    made->set<int32_t>("length", {3, 1}).real("scale", 0.5f);
    made->real("mass", 1.0f).real("budget", 1.0f);
    return made;
  }
  std::unique_ptr<Example> attend_wait() const {
    const auto started = attend(calls::kAttendStart);
    started->run();
    const Handle ticket = started->reference("ticket");
    return std::make_unique<Example>(calls::kAttendWait, calls::Reference{store, ticket.cache, 0},
                                     sizes);
  }
  std::unique_ptr<Example> prefetch() const {
    auto made = std::make_unique<Example>(calls::kPrefetch, cache_now(), sizes);
    made->set<int32_t>("rows", {1, 0}).set<int32_t>("length", {3, 1});
    return made;
  }
  std::unique_ptr<Example> take_rows() const {
    auto made = std::make_unique<Example>(calls::kTakeRows, cache_now(), sizes);
    const auto lengths = store->lengths(cache);
    made->set<int32_t>("order", {1, 1});
    made->set("length", std::vector<int32_t>(lengths.begin(), lengths.end()));
    return made;
  }
  std::unique_ptr<Example> writeback() const {
    auto made = std::make_unique<Example>(calls::kWriteback, cache_now(), sizes);
    made->attribute("interval_tokens", 16);
    return made;
  }
  std::unique_ptr<Example> fetch() const {
    auto made = std::make_unique<Example>(calls::kFetch, cache_now(), sizes);
    made->set<int32_t>("rows", {1, 0}).set<int32_t>("length", {3, 1});
    made->attribute("n_tokens", kNewTokens).attribute("window", 0);
    return made;
  }
  std::unique_ptr<Example> x_cache() const {
    auto made = std::make_unique<Example>(calls::kXCache, cache_now(), sizes);
    made->attribute("n_heads", 1).attribute("head_dim", 16);
    return made;
  }
  std::unique_ptr<Example> on_weight(const Call& call) const {  // [2, 3] of i16
    return std::make_unique<Example>(call, calls::Reference{store, weight, 0}, sizes);
  }
  std::unique_ptr<Example> dot(bool transposed) const {
    auto made = std::make_unique<Example>(calls::kDot, calls::Reference{},
                                          std::map<char, int64_t>{{'M', 3}, {'K', 32}, {'N', 64}});
    made->attribute("transposed", transposed);
    if (transposed) {
      made->change(made->given.operands[calls::kDot.operands.index("w")], {64, 32}, "bf16");
    }
    static const calls::Threads none{1, [](const std::function<void()>&) {}};
    made->given.threads = &none;
    return made;
  }

  using Make = std::function<std::unique_ptr<Example>()>;
  std::vector<Make> all() const {
    std::vector<Make> made = {[this] { return append(); },
                              [this] { return attend(calls::kAttend); },
                              [this] { return attend(calls::kAttendStart); },
                              [this] { return attend_wait(); },
                              [this] { return take_rows(); },
                              [this] { return prefetch(); },
                              [this] { return writeback(); },
                              [this] { return fetch(); },
                              [this] { return x_cache(); },
                              [this] { return on_weight(calls::kLoad); },
                              [this] { return on_weight(calls::kLoadAhead); }};
    if (can_dot()) {
      made.push_back([this] { return dot(false); });
      made.push_back([this] { return dot(true); });
    }
    return made;
  }
};

}  // namespace nspjax::testing
