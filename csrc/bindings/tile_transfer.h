// Full tiles of a row to Python and back, as they are stored.
#pragma once

#include "bindings/arrays.h"
#include "store/store.h"

namespace nspjax {

// The fields of TileLayout by name; dtypes as create_caches() takes them.
nb::dict tile_layout(const Store& store, int32_t cache);
nb::object export_tiles(Store& store, int32_t cache, int32_t version, int64_t row, int64_t begin,
                        int64_t end);
void import_tiles(Store& store, int32_t cache, int32_t version, int64_t row, int64_t begin,
                  const AnyArray& tiles);

}  // namespace nspjax
