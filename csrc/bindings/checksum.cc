#include "bindings/checksum.h"

#include "base/crc32c.h"

namespace nspjax {
namespace {

namespace nb = nanobind;

class BufferView {
 public:
  explicit BufferView(const nb::object& object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw nb::python_error();
  }
  ~BufferView() { PyBuffer_Release(&view_); }
  BufferView(const BufferView&) = delete;
  BufferView& operator=(const BufferView&) = delete;

  std::span<const std::byte> bytes() const {
    return {static_cast<const std::byte*>(view_.buf), static_cast<size_t>(view_.len)};
  }

 private:
  Py_buffer view_{};
};

}  // namespace

uint32_t crc32c_of_buffer(const nb::object& bytes_like) {
  const BufferView view(bytes_like);
  const nb::gil_scoped_release release;
  return crc32c(view.bytes());
}

}  // namespace nspjax
