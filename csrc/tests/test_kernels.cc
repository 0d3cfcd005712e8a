// The kernels on exactly sized heap arrays of tiles (a read beyond one is seen by
// AddressSanitizer), and the vector kernels against the scalar one. Accuracy:
// tests/engine/test_kernels.py.
#include <bit>
#include <cmath>
#include <cstring>
#include <random>

#include "attention/kernel.h"
#include "attention/merge.h"
#include "base/align.h"
#include "check.h"
#include "format/numbers.h"

namespace nspjax::testing {
namespace {

struct Result {
  std::vector<float> max, sum, acc;
};

// A full tile for a quantised type, otherwise one that ends in tokens that are not there.
Result run(const KernelSet& kernel, DType type, int n_queries, int n_tokens, int head_dim) {
  const bool quantised = is_quantised(type);
  const DType dtype = row_of(type).appended ? type : DType::kF32;
  auto tile_tokens = static_cast<int64_t>(std::bit_ceil(static_cast<unsigned>(n_tokens)));
  if (quantised) n_tokens = static_cast<int>(tile_tokens = std::max<int64_t>(16, tile_tokens));
  std::mt19937 random(static_cast<unsigned>(n_tokens * 1000 + head_dim));
  std::normal_distribution<float> normal;
  const auto padded = round_up(head_dim, kPadFloats);
  const auto values = [&] {
    std::vector<std::byte> bytes(static_cast<size_t>(n_tokens * head_dim * size_bytes(dtype)));
    for (size_t i = 0; i < bytes.size(); i += static_cast<size_t>(size_bytes(dtype))) {
      const float x = normal(random);
      const uint32_t bits =
          with_dtype(dtype, [&]<DType kDType>() { return Element<kDType>::encode(x); });
      std::memcpy(bytes.data() + i, &bits, static_cast<size_t>(size_bytes(dtype)));
    }
    return bytes;
  };
  const auto k = values(), v = values();
  const HeadTile floats(dtype, head_dim, tile_tokens);
  const HeadTile tile(type, head_dim, tile_tokens);
  std::vector<std::byte> packed(static_cast<size_t>(floats.bytes()), std::byte{0xff});
  pack_head(floats, {k.data(), v.data(), head_dim * size_bytes(dtype)}, 0, n_tokens, packed.data());
  std::vector<std::byte> data(static_cast<size_t>(tile.bytes()));
  convert_head(floats, packed.data(), tile, data.data());

  std::vector<float> queries(static_cast<size_t>(n_queries * padded));
  for (int64_t i = 0; i < n_queries; ++i) {
    for (int d = 0; d < head_dim; ++d)
      queries[static_cast<size_t>(i * padded + d)] = normal(random);
  }
  const std::vector<int32_t> first(static_cast<size_t>(n_queries), 0);
  const std::vector<int32_t> last(static_cast<size_t>(n_queries), n_tokens);
  Result result{std::vector(static_cast<size_t>(n_queries), kMinusInfinity),
                std::vector(static_cast<size_t>(n_queries), 0.0f),
                std::vector(static_cast<size_t>(n_queries * padded), 0.0f)};
  kernel.of(type).attend({queries.data(), 0.1f, n_queries, head_dim, static_cast<int>(padded),
                          first.data(), last.data(), &tile, data.data(), 0, 0, n_tokens, 0.0f,
                          result.max.data(), result.sum.data(), result.acc.data()});
  return result;
}

}  // namespace
}  // namespace nspjax::testing

int main() {
  using namespace nspjax;
  using namespace nspjax::testing;
  for (const KernelSet& kernel : available_kernels()) {
    for (const DTypeRow& row : kDTypes) {
      const DType type = row.dtype;
      for (const int head_dim : {1, 7, 16, 24, 40, 80, 128}) {
        for (const int n_queries : {1, 3, 13}) {
          for (const int n_tokens : {1, 5, 63, 64, 97}) {
            const Result got = run(kernel, type, n_queries, n_tokens, head_dim);
            const Result want = run(scalar_kernels(), type, n_queries, n_tokens, head_dim);
            for (size_t i = 0; i < got.acc.size(); ++i) {
              // int8 and int4: 16-bit queries and weights, times sums of weights
              const float most = (is_quantised(type) ? 4e-3f : 1e-3f) * (1 + std::abs(want.acc[i]));
              check(std::abs(got.acc[i] - want.acc[i]) <= most, "as the scalar kernel");
            }
          }
        }
      }
    }
  }
}
