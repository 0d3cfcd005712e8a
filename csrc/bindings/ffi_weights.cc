#include "bindings/ffi_weights.h"

#include "bindings/ffi_arguments.h"
#include "store/registry.h"

namespace nspjax {
namespace {

// The engine knows a weight's bytes, not its shape.
std::span<std::byte> bytes_of(ffi::AnyBuffer value) {
  switch (value.element_type()) {
    case ffi::DataType::INVALID:
    case ffi::TOKEN:
    case ffi::S1:
    case ffi::U1:
    case ffi::S2:
    case ffi::U2:
    case ffi::S4:
    case ffi::U4:
    case ffi::F4E2M1FN:
      // XLA may pack several into a byte, while size_bytes() counts a byte for each
      fail(ErrorKind::kInvalidArgument,
           "nspjax.load: the result must have elements of whole bytes");
    default:
      return {static_cast<std::byte*>(value.untyped_data()), value.size_bytes()};
  }
}

ffi::Error load(Int32s weight, ffi::RemainingArgs, ffi::Result<ffi::AnyBuffer> value) {
  return guarded([&] {
    const Handle handle = read_weight_handle(weight);
    find_store(handle.store)->weights().load(handle.cache, bytes_of(*value));
  });
}

ffi::Error load_ahead(Int32s weight, ffi::RemainingArgs, ffi::Result<Int32s> token) {
  return guarded([&] {
    const Handle handle = read_weight_handle(weight);
    CallShapes("nspjax.load_ahead").check("token", *token, kTokenAxes);
    find_store(handle.store)->weights().load_ahead(handle.cache);
    token->typed_data()[0] = 0;
  });
}

XLA_FFI_DEFINE_HANDLER(kLoad, load,
                       ffi::Ffi::Bind()
                           .Arg<Int32s>()    // weight
                           .RemainingArgs()  // only order the call
                           .Ret<ffi::AnyBuffer>());

XLA_FFI_DEFINE_HANDLER(kLoadAhead, load_ahead,
                       ffi::Ffi::Bind()
                           .Arg<Int32s>()    // weight
                           .RemainingArgs()  // only order the call
                           .Ret<Int32s>());  // token

}  // namespace

std::vector<std::pair<std::string, void*>> ffi_weight_handlers() {
  return {{"nspjax.load", reinterpret_cast<void*>(kLoad)},
          {"nspjax.load_ahead", reinterpret_cast<void*>(kLoadAhead)}};
}

}  // namespace nspjax
