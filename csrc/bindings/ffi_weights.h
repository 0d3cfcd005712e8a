// The custom calls that bring weights into XLA programs.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace nspjax {

// nspjax.load: (weight S32[4], after...) -> (value, of the dtype and shape that was stored)
// nspjax.load_ahead: (weight S32[4], after...) -> (token S32[1])
//
// weight is a handle (store/handle.h).
std::vector<std::pair<std::string, void*>> ffi_weight_handlers();

}  // namespace nspjax
