// CRC-32C (Castagnoli), as in iSCSI and ext4. Table-driven: it runs over a superblock, not over KV.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace nspjax {

constexpr uint32_t crc32c(std::span<const std::byte> data) {
  constexpr auto kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t crc = i;
      for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0u);
      table[i] = crc;
    }
    return table;
  }();
  uint32_t crc = ~0u;
  for (std::byte b : data) crc = (crc >> 8) ^ kTable[(crc ^ std::to_integer<uint32_t>(b)) & 0xffu];
  return ~crc;
}

}  // namespace nspjax
