// Tokens out of a cache for attention on the compute device, and the cache that keeps X.
#include "bindings/ffi_arguments.h"
#include "bindings/ffi_handlers.h"
#include "store/registry.h"

namespace nspjax {
namespace {

std::byte* fetched(ffi::Result<ffi::AnyBuffer>& buffer, const char* name, const CacheShape& shape,
                   int64_t batch, int64_t n_tokens) {
  check_shape(*buffer, name, shape.n_kv_heads, shape.head_dim);
  const auto sizes = buffer->dimensions();
  if (sizes[0] != batch || sizes[1] != n_tokens || dtype_of(*buffer, name) != shape.dtype) {
    fail(ErrorKind::kInvalidArgument, name, " is ", shape_text(*buffer), ": the result must be [",
         batch, ", ", n_tokens, ", ", shape.n_kv_heads, ", ", shape.head_dim, "] in ",
         dtype_name(shape.dtype));
  }
  return static_cast<std::byte*>(buffer->untyped_data());
}

std::span<const int32_t> values_of(Int32s buffer) {
  return {buffer.typed_data(), buffer.element_count()};
}

ffi::Error fetch(Int32s hk, Int32s hv, Int32s rows, Int32s begin, Int32s length, ffi::RemainingArgs,
                 int64_t n_tokens, int64_t read_ahead, ffi::Result<ffi::AnyBuffer> k,
                 ffi::Result<ffi::AnyBuffer> v, ffi::Result<Int32s> next_hk,
                 ffi::Result<Int32s> next_hv) {
  return guarded([&] {
    const Handle handle = read_handle(hk, hv);
    const auto store = find_store(handle.store);
    const CacheShape shape = store->shape(handle.cache);
    if (begin.element_count() != 1 || length.element_count() != rows.element_count()) {
      fail(ErrorKind::kInvalidArgument, "fetch of ", rows.element_count(), " rows with ",
           begin.element_count(), " begins and ", length.element_count(),
           " lengths: give one begin, and a length for each row");
    }
    const auto batch = static_cast<int64_t>(rows.element_count());
    store->fetch(handle.cache, handle.version,
                 {.rows = values_of(rows),
                  .length = values_of(length),
                  .begin = begin.typed_data()[0],
                  .n_tokens = n_tokens,
                  .read_ahead = read_ahead != 0,
                  .k = fetched(k, "k", shape, batch, n_tokens),
                  .v = fetched(v, "v", shape, batch, n_tokens)});
    write_handle(handle, next_hk, next_hv);
  });
}

ffi::Error x_cache(Int32s hk, Int32s hv, ffi::RemainingArgs, int64_t n_heads, int64_t head_dim,
                   ffi::Result<Int32s> x_k, ffi::Result<Int32s> x_v) {
  return guarded([&] {
    const Handle handle = read_handle(hk, hv);
    write_handle(find_store(handle.store)->x_cache(handle.cache, n_heads, head_dim), x_k, x_v);
  });
}

XLA_FFI_DEFINE_HANDLER(kFetch, fetch,
                       ffi::Ffi::Bind()
                           .Arg<Int32s>()    // hk
                           .Arg<Int32s>()    // hv
                           .Arg<Int32s>()    // rows
                           .Arg<Int32s>()    // begin
                           .Arg<Int32s>()    // length
                           .RemainingArgs()  // only order the call
                           .Attr<int64_t>("n_tokens")
                           .Attr<int64_t>("read_ahead")
                           .Ret<ffi::AnyBuffer>()  // k
                           .Ret<ffi::AnyBuffer>()  // v
                           .Ret<Int32s>()          // hk'
                           .Ret<Int32s>());        // hv'

XLA_FFI_DEFINE_HANDLER(kXCache, x_cache,
                       ffi::Ffi::Bind()
                           .Arg<Int32s>()    // hk
                           .Arg<Int32s>()    // hv
                           .RemainingArgs()  // only order the call
                           .Attr<int64_t>("n_heads")
                           .Attr<int64_t>("head_dim")
                           .Ret<Int32s>()    // x_k
                           .Ret<Int32s>());  // x_v

}  // namespace

std::vector<std::pair<std::string, void*>> fetch_handlers() {
  return {{"nspjax.fetch", reinterpret_cast<void*>(kFetch)},
          {"nspjax.x_cache", reinterpret_cast<void*>(kXCache)}};
}

}  // namespace nspjax
