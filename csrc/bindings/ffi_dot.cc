#include "bindings/ffi_dot.h"

#include "bindings/ffi_arguments.h"
#include "dot/dot.h"

namespace nspjax {
namespace {

using BF16s = ffi::Buffer<ffi::BF16>;

ffi::Error host_dot(ffi::ThreadPool pool, BF16s x, BF16s w, ffi::RemainingArgs, int64_t transposed,
                    ffi::Result<ffi::Buffer<ffi::F32>> out) {
  return guarded([&] {
    const auto x_sizes = x.dimensions(), w_sizes = w.dimensions(), out_sizes = out->dimensions();
    const bool matrices = x_sizes.size() == 2 && w_sizes.size() == 2 && out_sizes.size() == 2;
    const size_t across = transposed != 0 ? 0 : 1;  // which of w's axes is out's
    if (!matrices || x_sizes[1] != w_sizes[1 - across] || out_sizes[0] != x_sizes[0] ||
        out_sizes[1] != w_sizes[across]) {
      fail(ErrorKind::kInvalidArgument, "nspjax.dot: ", shape_text(x), " and ", shape_text(w),
           transposed != 0 ? ", transposed," : "", " do not give ", shape_text(*out));
    }
    dot({.x = reinterpret_cast<const uint16_t*>(x.typed_data()),
         .w = reinterpret_cast<const uint16_t*>(w.typed_data()),
         .out = out->typed_data(),
         .m = x_sizes[0],
         .k = x_sizes[1],
         .n = out_sizes[1],
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
