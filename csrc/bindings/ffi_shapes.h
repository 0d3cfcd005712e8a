// The shapes of what XLA's call has for operands and results, checked against one description
// before anything is read or written.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "base/error.h"
#include "xla/ffi/api/ffi.h"

namespace nspjax {

namespace ffi = xla::ffi;

inline std::string shape_text(const auto& buffer) {
  std::string text = "[";
  for (const int64_t size : buffer.dimensions()) text += concat(text.size() > 1 ? ", " : "", size);
  return text + "]";
}

// "BTHD" is a buffer with four axes. The same letter is the same size in all buffers of a call:
// that which the cache has, or which the first buffer had. A digit is that size.
class CallShapes {
 public:
  struct Size {
    char letter;
    int64_t size;
  };

  explicit CallShapes(const char* call, std::initializer_list<Size> known = {}) : call_(call) {
    sizes_.fill(kUnknown);
    for (const Size& each : known) at(each.letter) = each.size;
  }

  // Throws InvalidArgument.
  CallShapes& check(const char* name, const auto& buffer, std::string_view axes) {
    const auto sizes = buffer.dimensions();
    bool same = sizes.size() == axes.size();
    for (size_t i = 0; same && i < axes.size(); ++i) {
      if (at(axes[i]) == kUnknown) at(axes[i]) = sizes[i];
      same = at(axes[i]) == sizes[i];
    }
    if (same) return *this;
    fail(ErrorKind::kInvalidArgument, call_, ": ", name, " is ", shape_text(buffer),
         ", it must be ", wanted(axes));
  }

  int64_t operator[](char letter) const { return sizes_[index(letter)]; }

 private:
  static constexpr int64_t kUnknown = -1;

  static size_t index(char axis) { return static_cast<size_t>(axis - '0'); }
  int64_t& at(char axis) {
    int64_t& size = sizes_[index(axis)];
    if (axis <= '9') size = axis - '0';
    return size;
  }

  // "[B = 2, T, 2, 32]": what is known of each axis.
  std::string wanted(std::string_view axes) {
    std::string text;
    for (const char axis : axes) {
      text += text.empty() ? "[" : ", ";
      if (axis <= '9') {
        text += axis;
      } else {
        text += at(axis) == kUnknown ? concat(axis) : concat(axis, " = ", at(axis));
      }
    }
    return text + "]";
  }

  const char* call_;
  std::array<int64_t, 'Z' - '0' + 1> sizes_;
};

}  // namespace nspjax
