// Tiles of a page run whose tokens are another run's in another order.
#pragma once

#include "format/tile.h"

namespace nspjax {

// Makes a device's part of a full tile of `to` from the same tile of K and V as it is stored, so
// that both hold the same numbers, whatever they were rounded to. Only keys by channel are derived.
void derive_tile(const TileGeometry& from, const TileGeometry& to, int64_t row, int64_t device,
                 const std::byte* tile, std::byte* into);

}  // namespace nspjax
