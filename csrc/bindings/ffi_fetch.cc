// Tokens out of a cache for attention on the compute device, and the cache that keeps X.
#include "bindings/ffi_arguments.h"
#include "bindings/ffi_handlers.h"
#include "store/registry.h"

namespace nspjax {
namespace {

ffi::Error fetch(Int32s hk, Int32s hv, Int32s rows, Int32s begin, Int32s length, ffi::RemainingArgs,
                 int64_t n_tokens, int64_t read_ahead, ffi::Result<ffi::AnyBuffer> k,
                 ffi::Result<ffi::AnyBuffer> v, ffi::Result<Int32s> next_hk,
                 ffi::Result<Int32s> next_hv) {
  return guarded([&] {
    const Handle handle = read_handle(hk, hv);
    const auto store = find_store(handle.store);
    const CacheShape shape = store->shape(handle.cache);
    CallShapes shapes("nspjax.fetch",
                      {{'T', n_tokens}, {'H', shape.n_kv_heads}, {'D', shape.head_dim}});
    shapes.check("rows", rows, "B").check("begin", begin, "1").check("length", length, "B");
    shapes.check("k", *k, "BTHD").check("v", *v, "BTHD");
    shapes.check("hk'", *next_hk, kHandleAxes).check("hv'", *next_hv, kHandleAxes);
    check_dtype(*k, "k", shape.dtype);
    check_dtype(*v, "v", shape.dtype);
    store->fetch(handle.cache, handle.version,
                 {.rows = values_of(rows),
                  .length = values_of(length),
                  .begin = begin.typed_data()[0],
                  .n_tokens = n_tokens,
                  .read_ahead = read_ahead != 0,
                  .k = static_cast<std::byte*>(k->untyped_data()),
                  .v = static_cast<std::byte*>(v->untyped_data())});
    write_handle(handle, next_hk, next_hv);
  });
}

ffi::Error x_cache(Int32s hk, Int32s hv, ffi::RemainingArgs, int64_t n_heads, int64_t head_dim,
                   ffi::Result<Int32s> x_k, ffi::Result<Int32s> x_v) {
  return guarded([&] {
    const Handle handle = read_handle(hk, hv);
    CallShapes("nspjax.x_cache").check("x_k", *x_k, kHandleAxes).check("x_v", *x_v, kHandleAxes);
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
