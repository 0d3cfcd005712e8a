// Handles as Python has them: int32 arrays that it never looks into.
#pragma once

#include "bindings/arrays.h"
#include "store/store.h"

namespace nspjax {

// -> of keys, of values
nb::tuple cache_handles(const Store& store, int32_t cache, int32_t version);
nb::object weight_handle(const Store& store, int32_t weight);

// -> cache, version. Throws InvalidArgument where they are no handles, or another store's.
nb::tuple read_cache_handles(const Store& store, const Int32Array& keys, const Int32Array& values);
// Of keys or of values.
nb::tuple read_cache_handle(const Store& store, const Int32Array& handle);
int32_t read_weight_handle(const Store& store, const Int32Array& handle);

}  // namespace nspjax
