// The engine's calls as XLA's custom calls, on the host of any platform.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace nspjax {

// "nspjax.append" and its handler, and so on: all of calls/table.h. Operands and results are those
// of the table in its order, what is no array as bindings/references.h has it; further operands are
// not read: they order calls. Attributes are i64 (a bool too) and f32.
std::vector<std::pair<std::string, void*>> ffi_handlers();
int ffi_api_minor_version();

}  // namespace nspjax
