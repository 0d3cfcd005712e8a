// What XLA's calls have in common: errors, handles, shapes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/dtype.h"
#include "base/error.h"
#include "store/store.h"
#include "xla/ffi/api/ffi.h"

namespace nspjax {

namespace ffi = xla::ffi;
using Int32s = ffi::Buffer<ffi::S32>;

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

inline Handle read_handle(Int32s k, Int32s v) {
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

inline void write_handle(Handle handle, ffi::Result<Int32s>& k, ffi::Result<Int32s>& v) {
  for (int32_t* to : {k->typed_data(), v->typed_data()}) {
    to[0] = handle.store;
    to[1] = handle.cache;
    to[2] = handle.version;
  }
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

template <typename Buffer>
inline std::string shape_text(const Buffer& buffer) {
  std::string text = "[";
  for (int64_t size : buffer.dimensions()) text += concat(text.size() > 1 ? ", " : "", size);
  return text + "]";
}

// [B, T, n_heads, head_dim] with -1 for any.
inline void check_shape(ffi::AnyBuffer buffer, const char* name, int64_t n_heads,
                        int64_t head_dim) {
  const auto sizes = buffer.dimensions();
  if (sizes.size() != 4 || (n_heads >= 0 && sizes[2] != n_heads) || sizes[3] != head_dim) {
    fail(ErrorKind::kInvalidArgument, name, " is ", shape_text(buffer), ": the cache needs [B, T, ",
         n_heads < 0 ? "query heads" : concat(n_heads), ", ", head_dim, "]");
  }
}

inline std::span<const int32_t> row_values(Int32s buffer, ffi::AnyBuffer tokens, const char* name) {
  const auto batch = static_cast<size_t>(tokens.dimensions()[0]);
  if (buffer.element_count() != batch) {
    fail(ErrorKind::kInvalidArgument, name, " has ", buffer.element_count(), " values for ", batch,
         " rows");
  }
  return {buffer.typed_data(), batch};
}

}  // namespace nspjax
