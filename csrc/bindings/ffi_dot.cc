#include "bindings/ffi_dot.h"

#include "bindings/ffi_arguments.h"
#include "dot/dot.h"

namespace nspjax {
namespace {

using BF16s = ffi::Buffer<ffi::BF16>;

ffi::Error host_dot(ffi::ThreadPool pool, BF16s x, BF16s w, ffi::RemainingArgs, int64_t transposed,
                    ffi::Result<ffi::Buffer<ffi::F32>> out) {
  return guarded([&] {
    CallShapes shapes("nspjax.dot");
    shapes.check("x", x, "MK").check("w", w, transposed != 0 ? "NK" : "KN");
    shapes.check("out", *out, "MN");
    dot({.x = reinterpret_cast<const uint16_t*>(x.typed_data()),
         .w = reinterpret_cast<const uint16_t*>(w.typed_data()),
         .out = out->typed_data(),
         .m = shapes['M'],
         .k = shapes['K'],
         .n = shapes['N'],
         .transposed = transposed != 0},
        static_cast<int>(pool.num_threads()),
        [&](std::function<void()> work) { pool.Schedule(std::move(work)); });
  });
}

XLA_FFI_DEFINE_HANDLER(kDot, host_dot,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<BF16s>()     // x
                           .Arg<BF16s>()     // w
                           .RemainingArgs()  // only order the call
                           .Attr<int64_t>("transposed")
                           .Ret<ffi::Buffer<ffi::F32>>());  // out

}  // namespace

std::vector<std::pair<std::string, void*>> ffi_dot_handlers() {
  return {{"nspjax.dot", reinterpret_cast<void*>(kDot)}};
}

}  // namespace nspjax
