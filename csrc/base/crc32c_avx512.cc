// CRC-32C by carry-less products of 512 bits, after Gopal et al., "Fast CRC Computation for Generic
// Polynomials Using PCLMULQDQ Instruction" (Intel, 2009): what was read so far is folded onto the
// bytes kFoldBytes further on, which leaves the remainder as it is.
#include <immintrin.h>

#include <array>

#include "base/crc32c.h"
#include "base/crc32c_power.h"

namespace nspjax {
namespace {

constexpr int64_t kVectorBytes = 64;
constexpr int64_t kVectors = 4;  // the latency of a product, over those that a cycle begins
constexpr int64_t kFoldBytes = kVectors * kVectorBytes;
constexpr int64_t kPrefetchBytes = 2048;  // memory is further away than what the CPU fetches ahead

// Multiplies the 128-bit pieces of a vector by x^(8 * n_bytes). In a piece the low 64 bits are
// those of the higher powers; a product with crc32c_x_power(n) is one with x^(n + 33).
template <int64_t n_bytes>
__m512i advanced(__m512i v) {
  constexpr int64_t kLow = crc32c_x_power(8 * n_bytes + 64 - 33);
  constexpr int64_t kHigh = crc32c_x_power(8 * n_bytes - 33);
  const __m512i factors = _mm512_set_epi64(kHigh, kLow, kHigh, kLow, kHigh, kLow, kHigh, kLow);
  return _mm512_xor_si512(_mm512_clmulepi64_epi128(v, factors, 0x00),
                          _mm512_clmulepi64_epi128(v, factors, 0x11));
}

}  // namespace

uint32_t crc32c_avx512(uint32_t before, std::span<const std::byte> data) {
  if (std::ssize(data) < kFoldBytes) return crc32c_sse42(before, data);
  const auto vector = [&](int64_t i) { return _mm512_loadu_si512(data.data() + i * kVectorBytes); };
  __m512i v[kVectors] = {vector(0), vector(1), vector(2), vector(3)};
  v[0] = _mm512_xor_si512(v[0],
                          _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int32_t>(~before))));
  data = data.subspan(kFoldBytes);
  for (; std::ssize(data) >= kFoldBytes; data = data.subspan(kFoldBytes)) {
    for (int64_t i = 0; i < kVectors; ++i) {
      __m512i& folded = v[i];
      _mm_prefetch(data.data() + kPrefetchBytes + i * kVectorBytes, _MM_HINT_T0);
      folded = _mm512_xor_si512(advanced<kFoldBytes>(folded), vector(i));
    }
  }
  __m512i last = v[0];
  for (int64_t i = 1; i < kVectors; ++i) {
    last = _mm512_xor_si512(advanced<kVectorBytes>(last), v[i]);
  }
  std::array<std::byte, kVectorBytes> remainder{};
  _mm512_storeu_si512(remainder.data(), last);
  // crc32c_sse42 inverts what comes before: 0 must go in
  return crc32c_sse42(crc32c_sse42(~0u, remainder), data);
}

}  // namespace nspjax
