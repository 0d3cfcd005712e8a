#include "bindings/ffi_handlers.h"

#include "bindings/ffi_arguments.h"
#include "store/registry.h"

namespace nspjax {
namespace {

using Floats = ffi::Buffer<ffi::F32>;

ffi::Error append(Int32s hk, Int32s hv, ffi::AnyBuffer k, ffi::AnyBuffer v, Int32s rows,
                  Int32s start, Int32s n_new, ffi::RemainingArgs, int64_t hold,
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
                                    .n_new = row_values(n_new, k, "n_new"),
                                    .hold = hold != 0});
    write_handle(handle, next_hk, next_hv);
  });
}

struct Settings {
  float scale;
  int64_t window;
  float softcap;
  int64_t read_ahead;
};

// All but where the result goes.
AttendArgs attend_args(const Store& store, const Handle& handle, ffi::AnyBuffer q, Int32s rows,
                       Int32s position, Int32s length, const Settings& settings) {
  check_shape(q, "q", -1, store.shape(handle.cache).head_dim);
  return {.q = q.untyped_data(),
          .q_dtype = dtype_of(q, "q"),
          .n_tokens = q.dimensions()[1],
          .n_q_heads = q.dimensions()[2],
          .rows = row_values(rows, q, "rows"),
          .position = row_values(position, q, "position"),
          .length = row_values(length, q, "length"),
          .scale = settings.scale,
          .window = settings.window,
          .softcap = settings.softcap,
          .out = nullptr,
          .lse = nullptr,
          .read_ahead = settings.read_ahead != 0};
}

ffi::Error attend(Int32s hk, Int32s hv, ffi::AnyBuffer q, Int32s rows, Int32s position,
                  Int32s length, ffi::RemainingArgs, float scale, int64_t window, float softcap,
                  int64_t read_ahead, ffi::Result<Floats> out, ffi::Result<Floats> lse,
                  ffi::Result<Int32s> next_hk, ffi::Result<Int32s> next_hv) {
  return guarded([&] {
    const Handle handle = read_handle(hk, hv);
    const auto store = find_store(handle.store);
    AttendArgs args = attend_args(*store, handle, q, rows, position, length,
                                  {scale, window, softcap, read_ahead});
    const auto head_dim = static_cast<size_t>(q.dimensions()[3]);
    if (out->element_count() != q.element_count() ||
        lse->element_count() != q.element_count() / head_dim) {
      fail(ErrorKind::kInvalidArgument,
           "the results must be [B, T, query heads, head_dim] and [B, T, query heads] for q ",
           shape_text(q));
    }
    args.out = out->typed_data();
    args.lse = lse->typed_data();
    store->attend(handle.cache, handle.version, args);
    write_handle(handle, next_hk, next_hv);
  });
}

ffi::Error attend_start(Int32s hk, Int32s hv, ffi::AnyBuffer q, Int32s rows, Int32s position,
                        Int32s length, ffi::RemainingArgs, float scale, int64_t window,
                        float softcap, int64_t read_ahead, ffi::Result<Int32s> ticket,
                        ffi::Result<Int32s> next_hk, ffi::Result<Int32s> next_hv) {
  return guarded([&] {
    const Handle handle = read_handle(hk, hv);
    const auto store = find_store(handle.store);
    if (ticket->element_count() != 2) {
      fail(ErrorKind::kInvalidArgument, "a ticket has 2 integers, the result has ",
           ticket->element_count());
    }
    const AttendArgs args = attend_args(*store, handle, q, rows, position, length,
                                        {scale, window, softcap, read_ahead});
    ticket->typed_data()[0] = handle.store;
    ticket->typed_data()[1] = store->attend_start(handle.cache, handle.version, args);
    write_handle(handle, next_hk, next_hv);
  });
}

ffi::Error attend_wait(Int32s ticket, ffi::RemainingArgs, ffi::Result<Floats> out,
                       ffi::Result<Floats> lse) {
  return guarded([&] {
    if (ticket.element_count() != 2) {
      fail(ErrorKind::kInvalidArgument, "a ticket has 2 integers, got ", ticket.element_count());
    }
    const auto [store, number] = std::pair(ticket.typed_data()[0], ticket.typed_data()[1]);
    const AttendResult result = find_store(store)->attend_wait(number);
    if (out->element_count() != result.out.size() || lse->element_count() != result.lse.size()) {
      const auto& [batch, n_tokens, n_q_heads, head_dim] = result.sizes;
      fail(ErrorKind::kInvalidArgument, "attend_wait for ticket ", number, ": its results are [",
           batch, ", ", n_tokens, ", ", n_q_heads, ", ", head_dim, "] and the same without ",
           head_dim, ", but the call has others");
    }
    std::ranges::copy(result.out, out->typed_data());
    std::ranges::copy(result.lse, lse->typed_data());
  });
}

ffi::Error prefetch(Int32s hk, Int32s hv, Int32s rows, Int32s length, ffi::RemainingArgs,
                    int64_t most_bytes, ffi::Result<Int32s> token) {
  return guarded([&] {
    const Handle handle = read_handle(hk, hv);
    if (rows.element_count() != length.element_count()) {
      fail(ErrorKind::kInvalidArgument, "rows has ", rows.element_count(), " values, length ",
           length.element_count());
    }
    find_store(handle.store)
        ->prefetch(handle.cache, {.rows = {rows.typed_data(), rows.element_count()},
                                  .length = {length.typed_data(), length.element_count()},
                                  .most_bytes = most_bytes});
    std::fill_n(token->typed_data(), token->element_count(), 0);
  });
}

ffi::Error writeback(Int32s hk, Int32s hv, ffi::RemainingArgs, int64_t interval_tokens,
                     int64_t exclusive, ffi::Result<Int32s> token) {
  return guarded([&] {
    const Handle handle = read_handle(hk, hv);
    find_store(handle.store)
        ->writeback(handle.cache, handle.version, interval_tokens, exclusive != 0);
    std::fill_n(token->typed_data(), token->element_count(), 0);
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

// What attend and attend_start are called with.
auto attend_operands() {
  return ffi::Ffi::Bind()
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
      .Attr<int64_t>("read_ahead");
}

XLA_FFI_DEFINE_HANDLER(kAttend, attend,
                       attend_operands()
                           .Ret<Floats>()    // out
                           .Ret<Floats>()    // lse
                           .Ret<Int32s>()    // hk'
                           .Ret<Int32s>());  // hv'

XLA_FFI_DEFINE_HANDLER(kAttendStart, attend_start,
                       attend_operands()
                           .Ret<Int32s>()    // ticket
                           .Ret<Int32s>()    // hk'
                           .Ret<Int32s>());  // hv'

XLA_FFI_DEFINE_HANDLER(kAttendWait, attend_wait,
                       ffi::Ffi::Bind()
                           .Arg<Int32s>()    // ticket
                           .RemainingArgs()  // only order the call
                           .Ret<Floats>()    // out
                           .Ret<Floats>());  // lse

XLA_FFI_DEFINE_HANDLER(kPrefetch, prefetch,
                       ffi::Ffi::Bind()
                           .Arg<Int32s>()    // hk
                           .Arg<Int32s>()    // hv
                           .Arg<Int32s>()    // rows
                           .Arg<Int32s>()    // length
                           .RemainingArgs()  // only order the call
                           .Attr<int64_t>("most_bytes")
                           .Ret<Int32s>());  // token

XLA_FFI_DEFINE_HANDLER(kWriteback, writeback,
                       ffi::Ffi::Bind()
                           .Arg<Int32s>()    // hk
                           .Arg<Int32s>()    // hv
                           .RemainingArgs()  // only order the call
                           .Attr<int64_t>("interval_tokens")
                           .Attr<int64_t>("exclusive")
                           .Ret<Int32s>());  // token

}  // namespace

std::vector<std::pair<std::string, void*>> ffi_handlers() {
  return {{"nspjax.append", reinterpret_cast<void*>(kAppend)},
          {"nspjax.attend", reinterpret_cast<void*>(kAttend)},
          {"nspjax.attend_start", reinterpret_cast<void*>(kAttendStart)},
          {"nspjax.attend_wait", reinterpret_cast<void*>(kAttendWait)},
          {"nspjax.prefetch", reinterpret_cast<void*>(kPrefetch)},
          {"nspjax.writeback", reinterpret_cast<void*>(kWriteback)}};
}

int ffi_api_minor_version() { return XLA_FFI_API_MINOR; }

}  // namespace nspjax
