#include "bindings/store_calls.h"

#include "bindings/gil.h"

namespace nspjax {
namespace {

CacheShape shape_of(const Store& store, int32_t cache) {
  return without_gil([&] { return store.shape(cache); });
}
// All but where the result goes.
AttendArgs attend_args(const Store& store, int32_t cache, const AnyArray& q, const Int32Array& rows,
                       const Int32Array& position, const Int32Array& length, float scale,
                       int64_t window, float softcap, bool read_ahead) {
  const CacheShape shape = shape_of(store, cache);
  const auto batch = static_cast<int64_t>(rows.size());
  check_sizes(q, "q", {batch, -1, -1, shape.head_dim});
  check_sizes(AnyArray(position), "position", {batch});
  check_sizes(AnyArray(length), "length", {batch});
  return {.q = q.data(),
          .q_dtype = array_dtype(q, "q", shape.dtype),
          .n_tokens = static_cast<int64_t>(q.shape(1)),
          .n_q_heads = static_cast<int64_t>(q.shape(2)),
          .rows = values(rows),
          .position = values(position),
          .length = values(length),
          .scale = scale,
          .window = window,
          .softcap = softcap,
          .out = nullptr,
          .lse = nullptr,
          .read_ahead = read_ahead};
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

}  // namespace

int32_t append(Store& store, int32_t cache, int32_t version, const AnyArray& k, const AnyArray& v,
               const Int32Array& rows, const Int32Array& start, const Int32Array& n_new,
               bool hold) {
  const CacheShape shape = shape_of(store, cache);
  const auto batch = static_cast<int64_t>(rows.size());
  check_sizes(k, "k", {batch, -1, shape.n_kv_heads, shape.head_dim});
  const auto n_tokens = static_cast<int64_t>(k.shape(1));
  check_sizes(v, "v", {batch, n_tokens, shape.n_kv_heads, shape.head_dim});
  check_sizes(AnyArray(start), "start", {batch});
  check_sizes(AnyArray(n_new), "n_new", {batch});
  for (const auto& [array, name] : {std::pair(&k, "k"), std::pair(&v, "v")}) {
    if (array_dtype(*array, name, shape.dtype) != shape.dtype) {
      fail(ErrorKind::kInvalidArgument, name, " has another dtype than the cache, which is ",
           dtype_name(shape.dtype));
    }
  }
  return without_gil([&] {
    return store.append(cache, version,
                        {.k = static_cast<const std::byte*>(k.data()),
                         .v = static_cast<const std::byte*>(v.data()),
                         .n_tokens = n_tokens,
                         .rows = values(rows),
                         .start = values(start),
                         .n_new = values(n_new),
                         .hold = hold});
  });
}

nb::tuple attend(Store& store, int32_t cache, int32_t version, const AnyArray& q,
                 const Int32Array& rows, const Int32Array& position, const Int32Array& length,
                 float scale, int64_t window, float softcap, bool read_ahead) {
  AttendArgs args =
      attend_args(store, cache, q, rows, position, length, scale, window, softcap, read_ahead);
  const size_t b = q.shape(0), t = q.shape(1), h = q.shape(2), d = q.shape(3);
  std::vector<float> out(b * t * h * d), lse(b * t * h);
  args.out = out.data();
  args.lse = lse.data();
  without_gil([&] { store.attend(cache, version, args); });
  return nb::make_tuple(new_array(std::move(out), {b, t, h, d}),
                        new_array(std::move(lse), {b, t, h}));
}

int32_t attend_start(Store& store, int32_t cache, int32_t version, const AnyArray& q,
                     const Int32Array& rows, const Int32Array& position, const Int32Array& length,
                     float scale, int64_t window, float softcap, bool read_ahead) {
  const AttendArgs args =
      attend_args(store, cache, q, rows, position, length, scale, window, softcap, read_ahead);
  return without_gil([&] { return store.attend_start(cache, version, args); });
}

nb::tuple attend_wait(Store& store, int32_t ticket) {
  AttendResult result = without_gil([&] { return store.attend_wait(ticket); });
  const auto size = [&](size_t i) { return static_cast<size_t>(result.sizes[i]); };
  return nb::make_tuple(new_array(std::move(result.out), {size(0), size(1), size(2), size(3)}),
                        new_array(std::move(result.lse), {size(0), size(1), size(2)}));
}

void prefetch(Store& store, int32_t cache, const Int32Array& rows, const Int32Array& length,
              int64_t most_bytes) {
  check_sizes(AnyArray(length), "length", {static_cast<int64_t>(rows.size())});
  without_gil([&] {
    store.prefetch(cache,
                   {.rows = values(rows), .length = values(length), .most_bytes = most_bytes});
  });
}

nb::tuple read(Store& store, int32_t cache, int64_t row, int64_t begin, int64_t end) {
  const CacheShape shape = shape_of(store, cache);
  return shape.dtype == DType::kF32 ? read_as<float>(store, cache, shape, row, begin, end)
                                    : read_as<uint16_t>(store, cache, shape, row, begin, end);
}

}  // namespace nspjax
