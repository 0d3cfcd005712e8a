#include "base/crc32c.h"

#include <array>

namespace nspjax {
namespace {

using Table = std::array<uint32_t, 256>;

// tables[n][b]: the remainder of byte b with n zero bytes after it. Eight of them take eight bytes
// at a time ("slicing by 8").
constexpr std::array<Table, 8> kTables = [] {
  std::array<Table, 8> tables{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t crc = b;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0u);
    tables[0][b] = crc;
  }
  for (size_t n = 1; n < tables.size(); ++n) {
    for (uint32_t b = 0; b < 256; ++b) {
      const uint32_t shorter = tables[n - 1][b];
      tables[n][b] = (shorter >> 8) ^ tables[0][shorter & 0xffu];
    }
  }
  return tables;
}();

Crc32c& best() {
#ifdef NSPJAX_X86
  if (cpu_has_wide_products()) return crc32c_avx512;
  if (cpu_has_crc32()) return crc32c_sse42;
#endif
  return crc32c_table;
}

}  // namespace

uint32_t crc32c(std::span<const std::byte> data) {
  static Crc32c& best_here = best();
  return best_here(0, data);
}

uint32_t crc32c_table(uint32_t before, std::span<const std::byte> data) {
  uint32_t crc = ~before;
  for (; data.size() >= 8; data = data.subspan(8)) {
    uint32_t next = 0;
    for (size_t i = 0; i < 8; ++i) {
      const uint32_t fold = i < 4 ? crc >> (8 * i) : 0;
      next ^= kTables[7 - i][(fold ^ std::to_integer<uint32_t>(data[i])) & 0xffu];
    }
    crc = next;
  }
  for (std::byte b : data) {
    crc = (crc >> 8) ^ kTables[0][(crc ^ std::to_integer<uint32_t>(b)) & 0xffu];
  }
  return ~crc;
}

#ifdef NSPJAX_X86
bool cpu_has_crc32() {
  return __builtin_cpu_supports("sse4.2") != 0 && __builtin_cpu_supports("pclmul") != 0;
}
bool cpu_has_wide_products() {
  return cpu_has_crc32() && __builtin_cpu_supports("avx512f") != 0 &&
         __builtin_cpu_supports("vpclmulqdq") != 0;
}
#endif

}  // namespace nspjax
