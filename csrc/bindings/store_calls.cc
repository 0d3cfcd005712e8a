#include "bindings/store_calls.h"

#include <nanobind/stl/shared_ptr.h>

#include <algorithm>

#include "bindings/array_call.h"
#include "calls/table.h"
#include "store/registry.h"

namespace nspjax {
namespace {

CacheShape shape_of(const Store& store, int32_t cache) {
  return without_gil([&] { return store.shape(cache); });
}

std::vector<int64_t> sizes_of(const AnyArray& array) {
  return {array.shape_ptr(), array.shape_ptr() + array.ndim()};
}

ArrayCall attend_call(const calls::Call& call, const StorePtr& store, int32_t cache,
                      int32_t version, const AnyArray& q, const Int32Array& rows,
                      const Int32Array& position, const Int32Array& length, float scale,
                      int64_t window, float softcap, bool read_ahead, float mass, float budget,
                      int64_t block_tokens) {
  ArrayCall made(call, {store, cache, version});
  made.operand("q", q, shape_of(*store, cache).dtype);
  made.operand("rows", rows).operand("position", position).operand("length", length);
  made.attribute("scale", scale).attribute("window", window);
  made.attribute("softcap", softcap).attribute("read_ahead", int64_t{read_ahead});
  made.attribute("mass", mass).attribute("budget", budget).attribute("block_tokens", block_tokens);
  return made;
}

template <typename T>
nb::tuple read_as(Store& store, int32_t cache, const CacheShape& shape, int64_t row, int64_t begin,
                  int64_t end) {
  const auto n = static_cast<size_t>(std::max<int64_t>(0, end - begin));
  const auto h = static_cast<size_t>(shape.n_kv_heads), d = static_cast<size_t>(shape.head_dim);
  std::vector<T> k(n * h * d), v(n * h * d);
  without_gil([&] {
    store.read(cache, row, begin, end, reinterpret_cast<std::byte*>(k.data()),
               reinterpret_cast<std::byte*>(v.data()));
  });
  return nb::make_tuple(new_array(std::move(k), {n, h, d}), new_array(std::move(v), {n, h, d}));
}

template <typename T>
nb::object keys_as(Store& store, int32_t cache, const CacheShape& shape, int64_t row, int64_t begin,
                   int64_t end) {
  const auto n = static_cast<size_t>(std::max<int64_t>(0, end - begin));
  const auto h = static_cast<size_t>(shape.n_kv_heads), d = static_cast<size_t>(shape.head_dim);
  std::vector<T> k(n * h * d);
  without_gil([&] {
    store.read_keys_by_channel(cache, row, begin, end, reinterpret_cast<std::byte*>(k.data()));
  });
  return new_array(std::move(k), {n, h, d});
}

template <typename T>
nb::tuple fetch_as(ArrayCall& call, std::string_view type, const std::vector<int64_t>& sizes) {
  std::vector<T> k = call.result<T>("k", type, sizes), v = call.result<T>("v", type, sizes);
  call.run();
  const auto size = [&](size_t i) { return static_cast<size_t>(sizes[i]); };
  const auto array = [&](std::vector<T>& elements) {
    return new_array(std::move(elements), {size(0), size(1), size(2), size(3)});
  };
  return nb::make_tuple(array(k), array(v));
}

}  // namespace

int32_t append(const StorePtr& store, int32_t cache, int32_t version, const AnyArray& k,
               const AnyArray& v, const Int32Array& rows, const Int32Array& start,
               const Int32Array& n_new, bool hold) {
  const DType dtype = shape_of(*store, cache).dtype;
  ArrayCall call(calls::kAppend, {store, cache, version});
  call.operand("k", k, dtype).operand("v", v, dtype);
  call.operand("rows", rows).operand("start", start).operand("n_new", n_new);
  return call.attribute("hold", int64_t{hold}).run("handle").version;
}

nb::tuple attend(const StorePtr& store, int32_t cache, int32_t version, const AnyArray& q,
                 const Int32Array& rows, const Int32Array& position, const Int32Array& length,
                 float scale, int64_t window, float softcap, bool read_ahead, float mass,
                 float budget, int64_t block_tokens) {
  ArrayCall call = attend_call(calls::kAttend, store, cache, version, q, rows, position, length,
                               scale, window, softcap, read_ahead, mass, budget, block_tokens);
  const std::vector<int64_t> sizes = sizes_of(q);
  const std::vector<int64_t> vectors(sizes.begin(), sizes.end() - (sizes.empty() ? 0 : 1));
  std::vector<float> out = call.result<float>("out", "f32", sizes);
  std::vector<float> lse = call.result<float>("lse", "f32", vectors);
  call.run();
  const size_t b = q.shape(0), t = q.shape(1), h = q.shape(2), d = q.shape(3);
  return nb::make_tuple(new_array(std::move(out), {b, t, h, d}),
                        new_array(std::move(lse), {b, t, h}));
}

int32_t attend_start(const StorePtr& store, int32_t cache, int32_t version, const AnyArray& q,
                     const Int32Array& rows, const Int32Array& position, const Int32Array& length,
                     float scale, int64_t window, float softcap, bool read_ahead, float mass,
                     float budget, int64_t block_tokens) {
  return attend_call(calls::kAttendStart, store, cache, version, q, rows, position, length, scale,
                     window, softcap, read_ahead, mass, budget, block_tokens)
      .run("ticket")
      .cache;
}

nb::tuple attend_wait(Store& store, int32_t ticket) {
  AttendResult result = without_gil([&] { return store.attend_wait(ticket); });
  const auto size = [&](size_t i) { return static_cast<size_t>(result.sizes[i]); };
  return nb::make_tuple(new_array(std::move(result.out), {size(0), size(1), size(2), size(3)}),
                        new_array(std::move(result.lse), {size(0), size(1), size(2)}));
}

void prefetch(const StorePtr& store, int32_t cache, const Int32Array& rows,
              const Int32Array& length, int64_t most_bytes) {
  ArrayCall call(calls::kPrefetch, {store, cache, 0});
  call.operand("rows", rows).operand("length", length);
  call.attribute("most_bytes", most_bytes).run();
}

nb::tuple fetch(const StorePtr& store, int32_t cache, int32_t version, const Int32Array& rows,
                int32_t begin, const Int32Array& length, int64_t n_tokens, bool read_ahead,
                int64_t window) {
  const CacheShape shape = shape_of(*store, cache);
  ArrayCall call(calls::kFetch, {store, cache, version});
  call.operand("rows", rows).operand("length", length);
  call.attribute("n_tokens", n_tokens)
      .attribute("window", window)
      .attribute("read_ahead", int64_t{read_ahead});
  call.operand("begin", begin);
  const std::vector<int64_t> sizes = {static_cast<int64_t>(rows.size()),
                                      std::max<int64_t>(0, n_tokens), shape.n_kv_heads,
                                      shape.head_dim};
  const std::string_view type = dtype_name(shape.dtype);
  return shape.dtype == DType::kF32 ? fetch_as<float>(call, type, sizes)
                                    : fetch_as<uint16_t>(call, type, sizes);
}

int32_t take_rows(const StorePtr& store, int32_t cache, int32_t version, const Int32Array& order,
                  const Int32Array& length) {
  ArrayCall call(calls::kTakeRows, {store, cache, version});
  return call.operand("order", order).operand("length", length).run("handle").version;
}

nb::tuple x_cache(const StorePtr& store, int32_t cache, int64_t n_heads, int64_t head_dim) {
  ArrayCall call(calls::kXCache, {store, cache, 0});
  const Handle handle = call.attribute("n_heads", n_heads).attribute("head_dim", head_dim).run("x");
  return nb::make_tuple(handle.cache, handle.version);
}

nb::object read_keys_by_channel(Store& store, int32_t cache, int64_t row, int64_t begin,
                                int64_t end) {
  const CacheShape shape = shape_of(store, cache);
  return shape.dtype == DType::kF32 ? keys_as<float>(store, cache, shape, row, begin, end)
                                    : keys_as<uint16_t>(store, cache, shape, row, begin, end);
}

nb::tuple read(Store& store, int32_t cache, int64_t row, int64_t begin, int64_t end) {
  const CacheShape shape = shape_of(store, cache);
  return shape.dtype == DType::kF32 ? read_as<float>(store, cache, shape, row, begin, end)
                                    : read_as<uint16_t>(store, cache, shape, row, begin, end);
}

}  // namespace nspjax
