// The interpreter's lock.
#pragma once

#include <nanobind/nanobind.h>

namespace nspjax {

// For what may wait for the store: other Python threads run meanwhile.
template <typename Fn>
auto without_gil(const Fn& fn) {
  nanobind::gil_scoped_release release;
  return fn();
}

}  // namespace nspjax
