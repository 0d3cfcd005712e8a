// Traces for Python.
#pragma once

#include <nanobind/nanobind.h>

#include <vector>

#include "base/trace.h"

namespace nspjax {

// One array for each field of TraceEvent, by its name.
nanobind::dict trace_arrays(const std::vector<TraceEvent>& events);

// The class Trace, for tests, and `trace_kinds`, the names of the kinds.
void bind_trace(nanobind::module_& m);

}  // namespace nspjax
