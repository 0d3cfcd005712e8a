// What a store says about itself, as dictionaries.
#pragma once

#include <nanobind/nanobind.h>

#include "store/store.h"

namespace nspjax {

// What `n_layers` caches of such a shape need, and what there is.
nanobind::dict cache_needs(const Store& store, int64_t n_layers, const CacheShape& shape,
                           int64_t tile_tokens);
nanobind::list devices(const Store& store);
// The fields of StoreStats by name, and `devices`: a dictionary of counters for each.
nanobind::dict stats(const Store& store);

}  // namespace nspjax
