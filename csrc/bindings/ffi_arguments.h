// What XLA's calls have in common: errors, handles, element types.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/error.h"
#include "bindings/ffi_shapes.h"
#include "format/dtype.h"
#include "store/handle.h"
#include "xla/ffi/api/ffi.h"

namespace nspjax {

using Int32s = ffi::Buffer<ffi::S32>;
static_assert(kHandleIntegers == 4);
inline constexpr std::string_view kHandleAxes = "4", kTicketAxes = "2", kTokenAxes = "1";

// What the engine throws becomes "[nspjax:Kind] text", which Python turns into its class.
template <typename Fn>
inline ffi::Error guarded(const Fn& fn) {
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

inline std::span<const int32_t> values_of(Int32s buffer) {
  return {buffer.typed_data(), buffer.element_count()};
}

inline Handle read_handle(Int32s k, Int32s v) {
  CallShapes("a KV cache's handle").check("of K", k, kHandleAxes).check("of V", v, kHandleAxes);
  return parse_handles(values_of(k), values_of(v));
}

inline Handle read_weight_handle(Int32s weight) {
  CallShapes("a weight's handle").check("it", weight, kHandleAxes);
  return parse_handle(values_of(weight), HandleKind::kWeight);
}

// Results whose shape was checked.
inline void write_handle(const Handle& handle, ffi::Result<Int32s>& k, ffi::Result<Int32s>& v) {
  std::ranges::copy(handle_integers(handle, HandleKind::kKeys), k->typed_data());
  std::ranges::copy(handle_integers(handle, HandleKind::kValues), v->typed_data());
}

inline DType dtype_of(ffi::AnyBuffer buffer, const char* name) {
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

inline void check_dtype(ffi::AnyBuffer buffer, const char* name, DType wanted) {
  const DType dtype = dtype_of(buffer, name);
  if (dtype != wanted) {
    fail(ErrorKind::kInvalidArgument, name, " is ", dtype_name(dtype), ", but the cache is ",
         dtype_name(wanted));
  }
}

}  // namespace nspjax
