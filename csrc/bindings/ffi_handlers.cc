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
    CallShapes shapes("nspjax.append", {{'H', shape.n_kv_heads}, {'D', shape.head_dim}});
    shapes.check("k", k, "BTHD").check("v", v, "BTHD");
    shapes.check("rows", rows, "B").check("start", start, "B").check("n_new", n_new, "B");
    shapes.check("hk'", *next_hk, kHandleAxes).check("hv'", *next_hv, kHandleAxes);
    check_dtype(k, "k", shape.dtype);
    check_dtype(v, "v", shape.dtype);
    handle.version = store->append(handle.cache, handle.version,
                                   {.k = static_cast<const std::byte*>(k.untyped_data()),
                                    .v = static_cast<const std::byte*>(v.untyped_data()),
                                    .n_tokens = shapes['T'],
                                    .rows = values_of(rows),
                                    .start = values_of(start),
                                    .n_new = values_of(n_new),
                                    .hold = hold != 0});
    write_handle(handle, next_hk, next_hv);
  });
}

// What attend and attend_start have for operands and attributes.
struct Query {
  Int32s hk, hv;
  ffi::AnyBuffer q;
  Int32s rows, position, length;
  float scale;
  int64_t window;
  float softcap;
  int64_t read_ahead;
};

CallShapes query_shapes(const char* call, const Query& query, int64_t head_dim) {
  CallShapes shapes(call, {{'D', head_dim}});
  shapes.check("q", query.q, "BTQD").check("rows", query.rows, "B");
  shapes.check("position", query.position, "B").check("length", query.length, "B");
  return shapes;
}

// All but where the result goes.
AttendArgs attend_args(const Query& query, const CallShapes& shapes) {
  return {.q = query.q.untyped_data(),
          .q_dtype = dtype_of(query.q, "q"),
          .n_tokens = shapes['T'],
          .n_q_heads = shapes['Q'],
          .rows = values_of(query.rows),
          .position = values_of(query.position),
          .length = values_of(query.length),
          .scale = query.scale,
          .window = query.window,
          .softcap = query.softcap,
          .out = nullptr,
          .lse = nullptr,
          .read_ahead = query.read_ahead != 0};
}

ffi::Error attend(Int32s hk, Int32s hv, ffi::AnyBuffer q, Int32s rows, Int32s position,
                  Int32s length, ffi::RemainingArgs, float scale, int64_t window, float softcap,
                  int64_t read_ahead, ffi::Result<Floats> out, ffi::Result<Floats> lse,
                  ffi::Result<Int32s> next_hk, ffi::Result<Int32s> next_hv) {
  return guarded([&] {
    const Query query{hk, hv, q, rows, position, length, scale, window, softcap, read_ahead};
    const Handle handle = read_handle(hk, hv);
    const auto store = find_store(handle.store);
    CallShapes shapes = query_shapes("nspjax.attend", query, store->shape(handle.cache).head_dim);
    shapes.check("out", *out, "BTQD").check("lse", *lse, "BTQ");
    shapes.check("hk'", *next_hk, kHandleAxes).check("hv'", *next_hv, kHandleAxes);
    AttendArgs args = attend_args(query, shapes);
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
    const Query query{hk, hv, q, rows, position, length, scale, window, softcap, read_ahead};
    const Handle handle = read_handle(hk, hv);
    const auto store = find_store(handle.store);
    CallShapes shapes =
        query_shapes("nspjax.attend_start", query, store->shape(handle.cache).head_dim);
    shapes.check("ticket", *ticket, kTicketAxes);
    shapes.check("hk'", *next_hk, kHandleAxes).check("hv'", *next_hv, kHandleAxes);
    ticket->typed_data()[1] =
        store->attend_start(handle.cache, handle.version, attend_args(query, shapes));
    ticket->typed_data()[0] = handle.store;
    write_handle(handle, next_hk, next_hv);
  });
}

ffi::Error attend_wait(Int32s ticket, ffi::RemainingArgs, ffi::Result<Floats> out,
                       ffi::Result<Floats> lse) {
  return guarded([&] {
    CallShapes("nspjax.attend_wait").check("ticket", ticket, kTicketAxes);
    const auto [store, number] = std::pair(ticket.typed_data()[0], ticket.typed_data()[1]);
    const AttendResult result = find_store(store)->attend_wait(number);
    const auto& [batch, n_tokens, n_q_heads, head_dim] = result.sizes;
    CallShapes shapes("nspjax.attend_wait",
                      {{'B', batch}, {'T', n_tokens}, {'Q', n_q_heads}, {'D', head_dim}});
    shapes.check("out", *out, "BTQD").check("lse", *lse, "BTQ");
    std::ranges::copy(result.out, out->typed_data());
    std::ranges::copy(result.lse, lse->typed_data());
  });
}

ffi::Error prefetch(Int32s hk, Int32s hv, Int32s rows, Int32s length, ffi::RemainingArgs,
                    int64_t most_bytes, ffi::Result<Int32s> token) {
  return guarded([&] {
    const Handle handle = read_handle(hk, hv);
    CallShapes shapes("nspjax.prefetch");
    shapes.check("rows", rows, "B").check("length", length, "B");
    shapes.check("token", *token, kTokenAxes);
    find_store(handle.store)
        ->prefetch(
            handle.cache,
            {.rows = values_of(rows), .length = values_of(length), .most_bytes = most_bytes});
    token->typed_data()[0] = 0;
  });
}

ffi::Error writeback(Int32s hk, Int32s hv, ffi::RemainingArgs, int64_t interval_tokens,
                     int64_t exclusive, ffi::Result<Int32s> token) {
  return guarded([&] {
    const Handle handle = read_handle(hk, hv);
    CallShapes("nspjax.writeback").check("token", *token, kTokenAxes);
    find_store(handle.store)
        ->writeback(handle.cache, handle.version, interval_tokens, exclusive != 0);
    token->typed_data()[0] = 0;
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
