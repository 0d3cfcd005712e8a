// How a call is described: what it takes and gives, by name. Checks, XLA's handlers and the Python
// module's list of calls all follow from this.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string_view>

namespace nspjax::calls {

struct Arguments;

enum class Kind : uint8_t {
  kArray,
  kCache,  // a cache at a version
  kWeight,
  kTicket,  // an attention that was begun
  kDone,    // says that the call has run, nothing else
};

// An operand or a result.
struct Parameter {
  std::string_view name;
  Kind kind = Kind::kArray;

  // Of arrays. A letter an axis, the same size wherever a call has it: B batch rows, S rows of the
  // cache, T tokens, H KV heads, Q query heads, D head_dim; M, K, N of a product. A digit is that
  // size, "*" any shape.
  std::string_view axes = {};
  // As MLIR spells it: "i32", "f32", "bf16"; or "float": f32, bf16 or f16; "cache": as the cache;
  // "bytes": any whose elements are whole bytes.
  std::string_view type = {};
  // In place of axes where the call's attribute `transposed` is set.
  std::string_view transposed_axes = {};

  constexpr Parameter() = default;
  constexpr Parameter(std::string_view name_, Kind kind_) : name(name_), kind(kind_) {}
  constexpr Parameter(std::string_view name_, std::string_view axes_, std::string_view type_,
                      std::string_view transposed_axes_ = {})
      : name(name_), axes(axes_), type(type_), transposed_axes(transposed_axes_) {}
};

struct Attribute {
  std::string_view name;
  std::string_view type;  // "bool", "i64", "f32"
};

// Up to kMostParameters things with names.
inline constexpr size_t kMostParameters = 8;
template <typename T>
class Named {
 public:
  constexpr Named() = default;
  constexpr Named(std::initializer_list<T> items) : size_(items.size()) {
    if (size_ > kMostParameters) throw std::length_error("kMostParameters");
    std::ranges::copy(items, items_.begin());
  }

  constexpr size_t size() const { return size_; }
  constexpr auto begin() const { return items_.begin(); }
  constexpr auto end() const { return items_.begin() + size_; }
  constexpr const T& operator[](size_t i) const { return items_[i]; }

  // A name that is not there fails the build where it is asked for in a constant expression.
  constexpr size_t index(std::string_view name) const {
    for (size_t i = 0; i < size_; ++i) {
      if (items_[i].name == name) return i;
    }
    throw std::out_of_range("the call's description has no such name");
  }

 private:
  std::array<T, kMostParameters> items_{};
  size_t size_ = 0;
};

struct Call {
  std::string_view name;
  // What is no array comes first: the cache, weight or ticket that the call is about.
  Named<Parameter> operands;
  Named<Attribute> attributes;
  Named<Parameter> results;
  // Checks, does, and fills the results. Throws Error.
  void (*run)(Arguments& given);
  bool uses_threads = false;  // of the caller
};

}  // namespace nspjax::calls
