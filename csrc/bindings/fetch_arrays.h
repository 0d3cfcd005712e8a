// Store.fetch and Store.x_cache for Python.
#pragma once

#include <nanobind/nanobind.h>

#include "bindings/arrays.h"
#include "store/store.h"

namespace nspjax {

nb::tuple fetch(Store& store, int32_t cache, int32_t version, const Int32Array& rows, int64_t begin,
                const Int32Array& length, int64_t n_tokens, bool read_ahead);

// The number and version of the cache that keeps X.
nb::tuple x_cache(Store& store, int32_t cache, int64_t n_heads, int64_t head_dim);

}  // namespace nspjax
