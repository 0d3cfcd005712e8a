// CRC-32C (Castagnoli), as in iSCSI and ext4: in hardware where the CPU has it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace nspjax {

uint32_t crc32c(std::span<const std::byte> data);

// What crc32c() chooses between; tests hold one against the other. All take the checksum of what
// comes before `data` (0: nothing) and return that of all of it.
using Crc32c = uint32_t(uint32_t before, std::span<const std::byte> data);
Crc32c crc32c_table;
#ifdef NSPJAX_X86
bool cpu_has_crc32();  // the instruction
Crc32c crc32c_sse42;
bool cpu_has_wide_products();  // carry-less, of 512 bits
Crc32c crc32c_avx512;
#endif

}  // namespace nspjax
