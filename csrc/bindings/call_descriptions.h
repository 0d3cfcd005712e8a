// The table of calls, for Python.
#pragma once

#include "bindings/arrays.h"

namespace nspjax {

// What programs say to the engine: name -> {"operands": {name: (type, axes)}, "attributes":
// {name: type}, "results": {name: (type, axes)}}, in order, what is no array as the integers that
// stand for it.
nb::dict call_descriptions();

}  // namespace nspjax
