// Attention on the host's CPU over the tiles that a device delivers.
#pragma once

#include <cstdint>

#include "device/attend_call.h"
#include "device/device.h"

namespace nspjax {

// Rows are read in runs of whole tiles and attended over in segments. Workers turn each segment
// into partial results, which are added up in token order, so neither timing nor the number of
// threads nor the other rows can be seen in the result.
void attend_on_host(Device& device, const AttendCall& call, int64_t device_index,
                    ThreadPool& workers);

// How many segments the tiles [begin, end) of a row are.
int64_t count_segments(const TileGeometry& geometry, int64_t begin, int64_t end);

// Throws StoreDamaged where the checksum of a tile that was read is not what it was written with.
void check_tile(const Device& device, const std::vector<uint32_t>& checksums, int64_t tile,
                const TileRange& range, const std::byte* data);

}  // namespace nspjax
