#include "bindings/fetch_arrays.h"

namespace nspjax {
namespace {

template <typename T>
nb::tuple fetch_as(Store& store, int32_t cache, int32_t version, const CacheShape& shape,
                   FetchArgs args) {
  const auto b = args.rows.size();
  const auto n = static_cast<size_t>(std::max<int64_t>(0, args.n_tokens));
  const auto h = static_cast<size_t>(shape.n_kv_heads), d = static_cast<size_t>(shape.head_dim);
  std::vector<T> k(b * n * h * d, T{1}), v(k);  // not 0: that is for the store to write
  args.k = reinterpret_cast<std::byte*>(k.data());
  args.v = reinterpret_cast<std::byte*>(v.data());
  {
    nb::gil_scoped_release release;
    store.fetch(cache, version, args);
  }
  return nb::make_tuple(new_array(std::move(k), {b, n, h, d}),
                        new_array(std::move(v), {b, n, h, d}));
}

}  // namespace

nb::tuple fetch(Store& store, int32_t cache, int32_t version, const Int32Array& rows, int64_t begin,
                const Int32Array& length, int64_t n_tokens, bool read_ahead) {
  check_sizes(AnyArray(length), "length", {static_cast<int64_t>(rows.size())});
  const CacheShape shape = [&] {
    nb::gil_scoped_release release;
    return store.shape(cache);
  }();
  const FetchArgs args{.rows = values(rows),
                       .length = values(length),
                       .begin = begin,
                       .n_tokens = n_tokens,
                       .read_ahead = read_ahead,
                       .k = nullptr,
                       .v = nullptr};
  return shape.dtype == DType::kF32 ? fetch_as<float>(store, cache, version, shape, args)
                                    : fetch_as<uint16_t>(store, cache, version, shape, args);
}

nb::tuple x_cache(Store& store, int32_t cache, int64_t n_heads, int64_t head_dim) {
  const Handle handle = [&] {
    nb::gil_scoped_release release;
    return store.x_cache(cache, n_heads, head_dim);
  }();
  return nb::make_tuple(handle.cache, handle.version);
}

}  // namespace nspjax
