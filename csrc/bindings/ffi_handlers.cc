#include "bindings/ffi_handlers.h"

#include "bindings/ffi_arguments.h"
#include "store/registry.h"

namespace nspjax {
namespace {

ffi::Error append(Int32s hk, Int32s hv, ffi::AnyBuffer k, ffi::AnyBuffer v, Int32s rows,
                  Int32s start, Int32s n_new, ffi::RemainingArgs, [[maybe_unused]] int64_t hold,
                  ffi::Result<Int32s> next_hk, ffi::Result<Int32s> next_hv) {
  return guarded([&] {
    Handle handle = read_handle(hk, hv);
    const auto store = find_store(handle.store);
    const CacheShape shape = store->shape(handle.cache);
    for (const auto& [buffer, name] : {std::pair(k, "k"), std::pair(v, "v")}) {
      check_shape(buffer, name, shape.n_kv_heads, shape.head_dim);
      const DType dtype = dtype_of(buffer, name);
      if (dtype != shape.dtype) {
        fail(ErrorKind::kInvalidArgument, name, " is ", dtype_name(dtype), ", but the cache is ",
             dtype_name(shape.dtype));
      }
    }
    if (!std::equal(k.dimensions().begin(), k.dimensions().end(), v.dimensions().begin())) {
      fail(ErrorKind::kInvalidArgument, "k is ", shape_text(k), " but v is ", shape_text(v));
    }
    handle.version = store->append(handle.cache, handle.version,
                                   {.k = static_cast<const std::byte*>(k.untyped_data()),
                                    .v = static_cast<const std::byte*>(v.untyped_data()),
                                    .n_tokens = k.dimensions()[1],
                                    .rows = row_values(rows, k, "rows"),
                                    .start = row_values(start, k, "start"),
                                    .n_new = row_values(n_new, k, "n_new")});
    write_handle(handle, next_hk, next_hv);
  });
}

ffi::Error attend(Int32s hk, Int32s hv, ffi::AnyBuffer q, Int32s rows, Int32s position,
                  Int32s length, ffi::RemainingArgs, float scale, int64_t window, float softcap,
                  [[maybe_unused]] int64_t read_ahead, ffi::Result<ffi::Buffer<ffi::F32>> out,
                  ffi::Result<ffi::Buffer<ffi::F32>> lse, ffi::Result<Int32s> next_hk,
                  ffi::Result<Int32s> next_hv) {
  return guarded([&] {
    const Handle handle = read_handle(hk, hv);
    const auto store = find_store(handle.store);
    check_shape(q, "q", -1, store->shape(handle.cache).head_dim);
    const auto sizes = q.dimensions();
    if (out->element_count() != q.element_count() ||
        lse->element_count() != q.element_count() / static_cast<size_t>(sizes[3])) {
      fail(ErrorKind::kInvalidArgument,
           "the results must be [B, T, query heads, head_dim] and [B, "
           "T, query heads] for q ",
           shape_text(q));
    }
    store->attend(handle.cache, handle.version,
                  {.q = q.untyped_data(),
                   .q_dtype = dtype_of(q, "q"),
                   .n_tokens = sizes[1],
                   .n_q_heads = sizes[2],
                   .rows = row_values(rows, q, "rows"),
                   .position = row_values(position, q, "position"),
                   .length = row_values(length, q, "length"),
                   .scale = scale,
                   .window = window,
                   .softcap = softcap,
                   .out = out->typed_data(),
                   .lse = lse->typed_data()});
    write_handle(handle, next_hk, next_hv);
  });
}

XLA_FFI_DEFINE_HANDLER(kAppend, append,
                       ffi::Ffi::Bind()
                           .Arg<Int32s>()          // hk
                           .Arg<Int32s>()          // hv
                           .Arg<ffi::AnyBuffer>()  // k
                           .Arg<ffi::AnyBuffer>()  // v
                           .Arg<Int32s>()          // rows
                           .Arg<Int32s>()          // start
                           .Arg<Int32s>()          // n_new
                           .RemainingArgs()        // only order the call
                           .Attr<int64_t>("hold")
                           .Ret<Int32s>()    // hk'
                           .Ret<Int32s>());  // hv'

XLA_FFI_DEFINE_HANDLER(kAttend, attend,
                       ffi::Ffi::Bind()
                           .Arg<Int32s>()          // hk
                           .Arg<Int32s>()          // hv
                           .Arg<ffi::AnyBuffer>()  // q
                           .Arg<Int32s>()          // rows
                           .Arg<Int32s>()          // position
                           .Arg<Int32s>()          // length
                           .RemainingArgs()        // only order the call
                           .Attr<float>("scale")
                           .Attr<int64_t>("window")
                           .Attr<float>("softcap")
                           .Attr<int64_t>("read_ahead")
                           .Ret<ffi::Buffer<ffi::F32>>()  // out
                           .Ret<ffi::Buffer<ffi::F32>>()  // lse
                           .Ret<Int32s>()                 // hk'
                           .Ret<Int32s>());               // hv'

}  // namespace

std::vector<std::pair<std::string, void*>> ffi_handlers() {
  return {{"nspjax.append", reinterpret_cast<void*>(kAppend)},
          {"nspjax.attend", reinterpret_cast<void*>(kAttend)}};
}

int ffi_api_minor_version() { return XLA_FFI_API_MINOR; }

}  // namespace nspjax
