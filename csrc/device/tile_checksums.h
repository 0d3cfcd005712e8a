// CRC-32C of what was stored, kept in host memory and compared with what is read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "device/device.h"
#include "format/region.h"

namespace nspjax {

// Room for those of the tiles before slot n_slots.
void make_room_for_checksums(const TileGeometry& geometry, Region& region, int64_t device_index,
                             int64_t n_slots);
// Of a tile's part on the device, as it is written.
void note_checksums(const TileGeometry& geometry, Region& region, int64_t device_index,
                    int64_t tile, const std::byte* data);

// Whole checked_bytes() of a tile, from its byte `offset` on. Throws StoreDamaged where they are
// not what was written.
void check_part(const Device& device, int64_t device_index, const TileGeometry& geometry,
                const Region& region, int64_t tile, int64_t offset,
                std::span<const std::byte> data);
// All of a tile's part on the device.
void check_tile(const Device& device, int64_t device_index, const TileGeometry& geometry,
                const Region& region, int64_t tile, const std::byte* data);

}  // namespace nspjax
