// A call of calls/ on NumPy arrays, outside of any program.
#pragma once

#include <array>
#include <string_view>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "calls/arguments.h"

namespace nspjax {

class ArrayCall {
 public:
  ArrayCall(const calls::Call& call, calls::Reference about) : call_(call) {
    given_.about = std::move(about);
  }

  // Operands outlive the call, which only reads them. uint16 stands for the elements of a 16-bit
  // cache.
  ArrayCall& operand(const char* name, const AnyArray& array, DType cache_type) {
    return operand(name, array, dtype_name(array_dtype(array, name, cache_type)));
  }
  ArrayCall& operand(const char* name, const Int32Array& array) {
    return operand(name, AnyArray(array), "i32");
  }
  // [1]
  ArrayCall& operand(std::string_view name, const int32_t& value) {
    static constexpr std::array<int64_t, 1> kOne = {1};
    given_.operands[call_.operands.index(name)] = {"i32", sizeof(value), kOne,
                                                   const_cast<int32_t*>(&value)};
    return *this;
  }
  ArrayCall& attribute(std::string_view name, int64_t value) {
    given_.attributes[call_.attributes.index(name)].integer = value;
    return *this;
  }
  ArrayCall& attribute(std::string_view name, float value) {
    given_.attributes[call_.attributes.index(name)].real = value;
    return *this;
  }

  // Where a result goes: as many elements of a type as sizes say.
  template <typename T>
  std::vector<T> result(std::string_view name, std::string_view type,
                        const std::vector<int64_t>& sizes) {
    size_t n = 1;
    for (const int64_t size : sizes) n *= static_cast<size_t>(size);
    std::vector<T> elements(n, T{1});  // not 0: that is for the call to write
    given_.results[call_.results.index(name)] = {type, sizeof(T), sizes, elements.data()};
    return elements;
  }

  // Returns the result that is a cache or a ticket.
  Handle run(std::string_view reference) {
    without_gil([&] { call_.run(given_); });
    return given_.references[call_.results.index(reference)];
  }
  void run() {
    without_gil([&] { call_.run(given_); });
  }

 private:
  ArrayCall& operand(const char* name, const AnyArray& array, std::string_view type) {
    given_.operands[call_.operands.index(name)] = {type,
                                                   static_cast<int64_t>(array.itemsize()),
                                                   {array.shape_ptr(), array.ndim()},
                                                   const_cast<void*>(array.data())};
    return *this;
  }

  const calls::Call& call_;
  calls::Arguments given_;
};

}  // namespace nspjax
