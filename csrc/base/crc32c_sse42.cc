// CRC-32C by the crc32 instruction. It takes eight bytes a cycle but gives its result after three,
// so three streams run at once, and their checksums are put together by carry-less products.
#include <nmmintrin.h>
#include <wmmintrin.h>

#include <bit>
#include <cstring>

#include "base/crc32c.h"
#include "base/crc32c_power.h"

namespace nspjax {
namespace {

static_assert(std::endian::native == std::endian::little);

// The state after n_bytes of zeros, from `factor` = x^(8 * n_bytes - 33).
uint64_t after_zeros(uint64_t crc, uint32_t factor) {
  const __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128(static_cast<int64_t>(crc)),
                                               _mm_cvtsi64_si128(factor), 0);
  return _mm_crc32_u64(0, static_cast<uint64_t>(_mm_cvtsi128_si64(product)));
}

uint64_t load64(const std::byte* from) {
  uint64_t word = 0;
  std::memcpy(&word, from, sizeof(word));
  return word;
}

// Takes 3 * kStreamBytes at a time while there are as many.
template <int64_t kStreamBytes>
uint64_t three_streams(uint64_t crc, std::span<const std::byte>& data) {
  constexpr uint32_t kOneStream = crc32c_x_power(8 * kStreamBytes - 33);
  constexpr uint32_t kTwoStreams = crc32c_x_power(16 * kStreamBytes - 33);
  for (; std::ssize(data) >= 3 * kStreamBytes; data = data.subspan(3 * kStreamBytes)) {
    const std::byte* const begin = data.data();
    uint64_t a = crc, b = 0, c = 0;
    for (const std::byte* p = begin; p < begin + kStreamBytes; p += 8) {
      a = _mm_crc32_u64(a, load64(p));
      b = _mm_crc32_u64(b, load64(p + kStreamBytes));
      c = _mm_crc32_u64(c, load64(p + 2 * kStreamBytes));
    }
    crc = after_zeros(a, kTwoStreams) ^ after_zeros(b, kOneStream) ^ c;
  }
  return crc;
}

}  // namespace

uint32_t crc32c_sse42(uint32_t before, std::span<const std::byte> data) {
  uint64_t crc = ~before;
  crc = three_streams<4096>(crc, data);
  crc = three_streams<256>(crc, data);
  for (; data.size() >= 8; data = data.subspan(8)) crc = _mm_crc32_u64(crc, load64(data.data()));
  auto state = static_cast<uint32_t>(crc);
  for (std::byte b : data) state = _mm_crc32_u8(state, std::to_integer<uint8_t>(b));
  return ~state;
}

}  // namespace nspjax
