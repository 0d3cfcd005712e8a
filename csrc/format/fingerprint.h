// Whether two page runs have the same order inside a tile.
#pragma once

#include <cstdint>

#include "format/tile.h"

namespace nspjax {

// The checksum of a head's tile of known tokens: another one where anything lies elsewhere or is
// rounded otherwise, so nobody has to remember to count layouts.
uint32_t layout_fingerprint(const TileGeometry& geometry);

}  // namespace nspjax
