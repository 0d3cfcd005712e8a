// CRC-32C (Castagnoli), as in iSCSI and ext4: in hardware where the CPU has it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace nspjax {

uint32_t crc32c(std::span<const std::byte> data);

// What crc32c() chooses between; tests hold one against the other. Both take the checksum of what
// comes before `data` (0: nothing) and return that of all of it.
uint32_t crc32c_table(uint32_t before, std::span<const std::byte> data);
#ifdef NSPJAX_X86
bool cpu_has_crc32c();
uint32_t crc32c_sse42(uint32_t before, std::span<const std::byte> data);
#endif

}  // namespace nspjax
