#include "bindings/paths.h"

#include "base/error.h"

namespace nspjax {

namespace nb = nanobind;

std::string path_bytes(nb::handle path) {
  PyObject* encoded = nullptr;
  if (!PyUnicode_FSConverter(path.ptr(), static_cast<void*>(&encoded))) {
    const nb::python_error error;
    fail(ErrorKind::kInvalidArgument, nb::repr(path).c_str(), " is no path: ", error.what());
  }
  const auto bytes = nb::steal<nb::bytes>(encoded);
  return {bytes.c_str(), bytes.size()};
}

std::vector<std::string> path_bytes(const nb::list& paths) {
  std::vector<std::string> all;
  for (const nb::handle path : paths) all.push_back(path_bytes(path));
  return all;
}

nb::object path_text(const std::string& path) {
  return nb::steal(
      PyUnicode_DecodeFSDefaultAndSize(path.data(), static_cast<Py_ssize_t>(path.size())));
}

}  // namespace nspjax
