// Weights of a store as NumPy arrays of bytes.
#pragma once

#include "bindings/arrays.h"
#include "store/store.h"

namespace nspjax {

int32_t put_weight(Store& store, const AnyArray& data);
nb::object load_weight(Store& store, int32_t weight);

}  // namespace nspjax
