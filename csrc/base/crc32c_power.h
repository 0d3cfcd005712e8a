// Powers of x modulo CRC-32C's polynomial, as factors that put parts of a checksum together.
#pragma once

#include <cstdint>

namespace nspjax {

// x^n. Bit 31 stands for x^0, as everywhere in a reflected CRC. A carry-less product of two such
// numbers of 64 bits is one power of x short, and 32 bits in one of 64 are 32 powers more: the
// product with x^n multiplies by x^(n + 33).
constexpr uint32_t crc32c_x_power(int64_t n) {
  uint32_t power = 0x80000000u;
  for (; n > 0; --n) power = (power >> 1) ^ (power & 1 ? 0x82f63b78u : 0u);
  return power;
}

}  // namespace nspjax
