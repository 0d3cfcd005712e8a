// Contents for measurements of large caches that nobody wants to prefill.
#include <algorithm>
#include <bit>
#include <cstring>

#include "store/cache_set.h"

namespace nspjax {
namespace {

// A pseudo-random value of magnitude below 2, as the dtype's bits.
uint32_t value_bits(uint64_t random, DType dtype) {
  const float value = static_cast<float>(static_cast<int32_t>(random >> 32)) * 0x1p-31f;
  const auto bits = std::bit_cast<uint32_t>(value);
  switch (dtype) {
    case DType::kF32:
      return bits;
    case DType::kBF16:
      return bits >> 16;
    case DType::kF16:  // an exponent from 2^-7 to 2^0
      return (random >> 48 & 0x9fffu) | 0x2000u;
    default:
      fail(ErrorKind::kInvalidArgument, "fill_synthetic has no values of ", dtype_name(dtype));
  }
}

}  // namespace

int32_t CacheSet::fill_synthetic(int32_t cache, int64_t n_tokens) {
  const Lock lock(lane_.mutex);
  Cache& found = find(cache);
  const CacheShape& shape = found.geometry().shape();
  if (n_tokens < 0 || n_tokens > shape.capacity_tokens) {
    fail(ErrorKind::kInvalidArgument, "fill_synthetic with ", n_tokens, " tokens: the capacity is ",
         shape.capacity_tokens);
  }
  // One chunk of K and one of V; row r's K begins at token r of the first and runs on into V.
  constexpr int64_t kChunkTokens = 1024;
  const int64_t chunk_bytes = kChunkTokens * shape.token_bytes() / 2;
  const int64_t value_bytes = size_bytes(shape.dtype);
  std::vector<std::byte> values(static_cast<size_t>(2 * chunk_bytes));
  uint64_t random = 0x9e3779b97f4a7c15u;
  for (int64_t i = 0; i < std::ssize(values); i += value_bytes) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    const uint32_t bits = value_bits(random, shape.dtype);
    std::memcpy(values.data() + i, &bits, static_cast<size_t>(value_bytes));
  }
  drain();
  for (int32_t row = 0; row < shape.batch; ++row) {
    cut_back(found, {{row, 0}});
    const std::byte* k = values.data() + row % kChunkTokens * shape.token_bytes() / 2;
    for (int64_t begin = 0; begin < n_tokens; begin += kChunkTokens) {
      const auto start = static_cast<int32_t>(begin);
      const auto n_new = static_cast<int32_t>(std::min(kChunkTokens, n_tokens - begin));
      extend(found, {.k = k,
                     .v = values.data() + chunk_bytes,
                     .n_tokens = kChunkTokens,
                     .rows = {&row, 1},
                     .start = {&start, 1},
                     .n_new = {&n_new, 1}});
    }
  }
  return ++found.version;
}

}  // namespace nspjax
