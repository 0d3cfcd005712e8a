// NumPy arrays in and out. bf16 and f16 travel as uint16, their bits.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <initializer_list>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "format/dtype.h"

namespace nspjax {

namespace nb = nanobind;

using AnyArray = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Int32Array = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

inline std::span<const int32_t> values(const Int32Array& array) {
  return {array.data(), array.size()};
}

// The dtype of an array of float32, float16, or uint16 that stands for `sixteen_bit`.
inline DType array_dtype(const AnyArray& array, const char* name, DType sixteen_bit) {
  if (array.dtype() == nb::dtype<float>()) return DType::kF32;
  const bool float16 =
      array.dtype() ==
      nb::dlpack::dtype{static_cast<uint8_t>(nb::dlpack::dtype_code::Float), 16, 1};
  if (float16) return DType::kF16;
  if (array.dtype() == nb::dtype<uint16_t>() && sixteen_bit != DType::kF32) return sixteen_bit;
  fail(ErrorKind::kInvalidArgument, name,
       " must be float32, float16, or uint16 that holds the bits of a 16-bit cache's elements");
}

// Sizes with -1 for any.
inline void check_sizes(const AnyArray& array, const char* name,
                        std::initializer_list<int64_t> sizes) {
  bool same = array.ndim() == sizes.size();
  for (size_t i = 0; same && i < sizes.size(); ++i) {
    const int64_t wanted = sizes.begin()[i];
    same = wanted < 0 || static_cast<int64_t>(array.shape(i)) == wanted;
  }
  if (same) return;
  std::string got, want;
  for (size_t i = 0; i < array.ndim(); ++i) got += concat(i ? ", " : "", array.shape(i));
  for (size_t i = 0; i < sizes.size(); ++i) {
    const int64_t size = sizes.begin()[i];
    want += concat(i ? ", " : "", size < 0 ? "any" : concat(size));
  }
  fail(ErrorKind::kInvalidArgument, name, " is [", got, "], it must be [", want, "]");
}

// A new array that owns its elements.
template <typename T>
nb::object new_array(std::vector<T> elements, std::initializer_list<size_t> sizes) {
  auto owned = std::make_unique<std::vector<T>>(std::move(elements));
  T* data = owned->data();
  nb::capsule owner(owned.release(), [](void* p) noexcept {
    std::unique_ptr<std::vector<T>>(static_cast<std::vector<T>*>(p)).reset();
  });
  return nb::cast(nb::ndarray<nb::numpy, T>(data, sizes, owner));
}

}  // namespace nspjax
