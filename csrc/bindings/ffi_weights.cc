#include "bindings/ffi_weights.h"

#include "bindings/ffi_arguments.h"
#include "store/registry.h"

namespace nspjax {
namespace {

struct WeightHandle {
  std::shared_ptr<Store> store;
  int32_t weight;
};

WeightHandle read_weight_handle(Int32s handle) {
  if (handle.element_count() != 3) {
    fail(ErrorKind::kInvalidArgument, "a weight's handle has 3 integers, got ",
         handle.element_count());
  }
  const int32_t* values = handle.typed_data();
  return {find_store(values[0]), values[1]};
}

ffi::Error load(Int32s handle, ffi::RemainingArgs, ffi::Result<ffi::AnyBuffer> value) {
  return guarded([&] {
    const WeightHandle found = read_weight_handle(handle);
    found.store->weights().load(
        found.weight, {static_cast<std::byte*>(value->untyped_data()), value->size_bytes()});
  });
}

ffi::Error load_ahead(Int32s handle, ffi::RemainingArgs, ffi::Result<Int32s> token) {
  return guarded([&] {
    const WeightHandle found = read_weight_handle(handle);
    found.store->weights().load_ahead(found.weight);
    std::fill_n(token->typed_data(), token->element_count(), 0);
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
