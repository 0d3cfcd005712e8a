#include "device/tile_checksums.h"

#include "base/crc32c.h"
#include "base/error.h"

namespace nspjax {
namespace {

// How many a tile has.
int64_t n_checksums(const TileGeometry& geometry, const Region& region, int64_t device) {
  return geometry.tile_bytes(region.row, device) / geometry.checked_bytes(region.row, device);
}

size_t first_checksum(const TileGeometry& geometry, const Region& region, int64_t device,
                      int64_t tile) {
  return static_cast<size_t>(geometry.slot(tile) * n_checksums(geometry, region, device));
}

}  // namespace

void make_room_for_checksums(const TileGeometry& geometry, Region& region, int64_t device_index,
                             int64_t n_slots) {
  std::vector<uint32_t>& checksums = region.checksums[static_cast<size_t>(device_index)];
  const auto n = static_cast<size_t>(n_slots * n_checksums(geometry, region, device_index));
  if (checksums.size() < n) checksums.resize(n);
}

void note_checksums(const TileGeometry& geometry, Region& region, int64_t device_index,
                    int64_t tile, const std::byte* data) {
  const auto bytes = static_cast<size_t>(geometry.checked_bytes(region.row, device_index));
  auto* to = region.checksums[static_cast<size_t>(device_index)].data() +
             first_checksum(geometry, region, device_index, tile);
  for (int64_t i = 0; i < n_checksums(geometry, region, device_index); ++i, data += bytes) {
    to[i] = crc32c({data, bytes});
  }
}

void check_part(const Device& device, int64_t device_index, const TileGeometry& geometry,
                const Region& region, int64_t tile, int64_t offset,
                std::span<const std::byte> data) {
  const auto bytes = geometry.checked_bytes(region.row, device_index);
  const auto* checksums = region.checksums[static_cast<size_t>(device_index)].data() +
                          first_checksum(geometry, region, device_index, tile) + offset / bytes;
  for (int64_t i = 0; i < std::ssize(data) / bytes; ++i) {
    const uint32_t expected = checksums[i];
    const uint32_t got =
        crc32c(data.subspan(static_cast<size_t>(i * bytes), static_cast<size_t>(bytes)));
    if (got == expected) continue;
    fail(ErrorKind::kStoreDamaged, "the tile's part of ", bytes, " bytes at offset ",
         tile_offset(geometry, region, device_index, tile) + offset + i * bytes, " of ",
         device.info().path, " is damaged: its checksum is ", got, ", was written as ", expected,
         "; the row that it belongs to must be computed again, and the device be checked");
  }
}

void check_tile(const Device& device, int64_t device_index, const TileGeometry& geometry,
                const Region& region, int64_t tile, const std::byte* data) {
  check_part(device, device_index, geometry, region, tile, 0,
             {data, static_cast<size_t>(geometry.tile_bytes(region.row, device_index))});
}

}  // namespace nspjax
