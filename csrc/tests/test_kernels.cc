// The kernels on exactly sized heap arrays (a read beyond one is seen by AddressSanitizer), and the
// vector kernels against the scalar one. Accuracy: tests/engine/test_kernels.py.
#include <cmath>
#include <cstring>
#include <random>

#include "attention/kernel.h"
#include "attention/merge.h"
#include "base/align.h"
#include "check.h"

namespace nspjax::testing {
namespace {

struct Result {
  std::vector<float> max, sum, acc;
};

Result run(const KernelSet& kernel, DType dtype, int n_queries, int n_tokens, int head_dim) {
  std::mt19937 random(static_cast<unsigned>(n_tokens * 1000 + head_dim));
  std::normal_distribution<float> normal;
  const auto padded = round_up(head_dim, kPadFloats);
  const auto values = [&] {  // of any dtype: the bits of a float, or its upper half (a bf16)
    std::vector<std::byte> bytes(static_cast<size_t>(n_tokens * head_dim * size_bytes(dtype)));
    for (size_t i = 0; i < bytes.size(); i += static_cast<size_t>(size_bytes(dtype))) {
      auto bits = std::bit_cast<uint32_t>(normal(random));
      if (dtype == DType::kBF16) bits >>= 16;
      if (dtype == DType::kF16) bits = (bits >> 16 & 0x83ffu) | 0x3800u;
      std::memcpy(bytes.data() + i, &bits, static_cast<size_t>(size_bytes(dtype)));
    }
    return bytes;
  };
  const auto k = values(), v = values();
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
  kernel.of(dtype)({queries.data(), n_queries, head_dim, static_cast<int>(padded), first.data(),
                    last.data(), k.data(), v.data(), 0, 0, n_tokens, 0.0f, result.max.data(),
                    result.sum.data(), result.acc.data()});
  return result;
}

}  // namespace
}  // namespace nspjax::testing

int main() {
  using namespace nspjax;
  using namespace nspjax::testing;
  for (const KernelSet& kernel : available_kernels()) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const int head_dim : {1, 7, 16, 24, 40, 80, 128}) {
        for (const int n_queries : {1, 3, 13}) {
          for (const int n_tokens : {1, 5, 63, 64, 97}) {
            const Result got = run(kernel, dtype, n_queries, n_tokens, head_dim);
            const Result want = run(scalar_kernels(), dtype, n_queries, n_tokens, head_dim);
            for (size_t i = 0; i < got.acc.size(); ++i) {
              check(std::abs(got.acc[i] - want.acc[i]) <= 1e-3f * (1 + std::abs(want.acc[i])),
                    "as the scalar kernel");
            }
          }
        }
      }
    }
  }
}
