// The custom call for products with weights.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace nspjax {

// nspjax.dot: (x BF16[m, k], w BF16[k, n], or [n, k] if transposed, after...) -> (out F32[m, n])
//
// It shares XLA's threads.
std::vector<std::pair<std::string, void*>> ffi_dot_handlers();

}  // namespace nspjax
