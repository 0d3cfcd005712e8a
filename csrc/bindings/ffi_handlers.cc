#include "bindings/ffi_handlers.h"

#include <algorithm>
#include <optional>

#include "store/registry.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace nspjax {
namespace {

using Int32s = ffi::Buffer<ffi::S32>;

// What the engine throws becomes "[nspjax:Kind] text", which Python turns into its class.
template <typename Fn>
ffi::Error guarded(const Fn& fn) {
  const auto error = [](std::string_view kind, const char* what) {
    return ffi::Error::Internal(concat("[nspjax:", kind, "] ", what));
  };
  try {
    fn();
    return ffi::Error::Success();
  } catch (const Error& e) {
    return error(kind_name(e.kind()), e.what());
  } catch (const std::exception& e) {
    return error(kind_name(ErrorKind::kStorageIO), e.what());
  }
}

Handle read_handle(Int32s k, Int32s v) {
  if (k.element_count() != 3 || v.element_count() != 3) {
    fail(ErrorKind::kInvalidArgument, "a KV cache handle has 3 integers, got ", k.element_count(),
         " and ", v.element_count());
  }
  const int32_t* of_k = k.typed_data();
  if (!std::equal(of_k, of_k + 3, v.typed_data())) {
    fail(ErrorKind::kInvalidArgument, "K and V handles of different caches or versions were mixed");
  }
  return {of_k[0], of_k[1], of_k[2]};
}

void write_handle(Handle handle, ffi::Result<Int32s>& k, ffi::Result<Int32s>& v) {
  for (int32_t* to : {k->typed_data(), v->typed_data()}) {
    to[0] = handle.store;
    to[1] = handle.cache;
    to[2] = handle.version;
  }
}

DType dtype_of(ffi::AnyBuffer buffer, const char* name) {
  switch (buffer.element_type()) {
    case ffi::F32:
      return DType::kF32;
    case ffi::BF16:
      return DType::kBF16;
    case ffi::F16:
      return DType::kF16;
    default:
      fail(ErrorKind::kInvalidArgument, name, " must be f32, bf16 or f16");
  }
}

std::string shape_text(ffi::AnyBuffer buffer) {
  std::string text = "[";
  for (int64_t size : buffer.dimensions()) text += concat(text.size() > 1 ? ", " : "", size);
  return text + "]";
}

// [B, T, n_heads, head_dim] with -1 for any.
void check_shape(ffi::AnyBuffer buffer, const char* name, int64_t n_heads, int64_t head_dim) {
  const auto sizes = buffer.dimensions();
  if (sizes.size() != 4 || (n_heads >= 0 && sizes[2] != n_heads) || sizes[3] != head_dim) {
    fail(ErrorKind::kInvalidArgument, name, " is ", shape_text(buffer), ": the cache needs [B, T, ",
         n_heads < 0 ? "query heads" : concat(n_heads), ", ", head_dim, "]");
  }
}

std::span<const int32_t> row_values(Int32s buffer, ffi::AnyBuffer tokens, const char* name) {
  const auto batch = static_cast<size_t>(tokens.dimensions()[0]);
  if (buffer.element_count() != batch) {
    fail(ErrorKind::kInvalidArgument, name, " has ", buffer.element_count(), " values for ", batch,
         " rows");
  }
  return {buffer.typed_data(), batch};
}

ffi::Error append(Int32s hk, Int32s hv, ffi::AnyBuffer k, ffi::AnyBuffer v, Int32s rows,
                  Int32s start, Int32s n_new, ffi::Result<Int32s> next_hk,
                  ffi::Result<Int32s> next_hv) {
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
                  Int32s length, float scale, int64_t window, float softcap,
                  ffi::Result<ffi::Buffer<ffi::F32>> out, ffi::Result<ffi::Buffer<ffi::F32>> lse,
                  ffi::Result<Int32s> next_hk, ffi::Result<Int32s> next_hv) {
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
                           .Ret<Int32s>()          // hk'
                           .Ret<Int32s>());        // hv'

XLA_FFI_DEFINE_HANDLER(kAttend, attend,
                       ffi::Ffi::Bind()
                           .Arg<Int32s>()          // hk
                           .Arg<Int32s>()          // hv
                           .Arg<ffi::AnyBuffer>()  // q
                           .Arg<Int32s>()          // rows
                           .Arg<Int32s>()          // position
                           .Arg<Int32s>()          // length
                           .Attr<float>("scale")
                           .Attr<int64_t>("window")
                           .Attr<float>("softcap")
                           .Ret<ffi::Buffer<ffi::F32>>()  // out
                           .Ret<ffi::Buffer<ffi::F32>>()  // lse
                           .Ret<Int32s>()                 // hk'
                           .Ret<Int32s>());               // hv'

}  // namespace

std::vector<std::pair<std::string, void*>> ffi_handlers() {
  return {{"nspjax.kv.append", reinterpret_cast<void*>(kAppend)},
          {"nspjax.kv.attend", reinterpret_cast<void*>(kAttend)}};
}

int ffi_api_minor_version() { return XLA_FFI_API_MINOR; }

}  // namespace nspjax
