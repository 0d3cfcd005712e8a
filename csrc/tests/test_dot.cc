// Products with weights on exactly sized heap arrays, by 1 to 5 threads, against plain sums.
// Accuracy and XLA's call: tests/engine/test_dot.py.
#include <bit>
#include <cmath>
#include <random>
#include <thread>
#include <vector>

#include "check.h"
#include "dot/dot.h"

namespace nspjax::testing {
namespace {

std::vector<uint16_t> random_bf16(int64_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values(static_cast<size_t>(n));
  for (uint16_t& value : values) {
    value = static_cast<uint16_t>(std::bit_cast<uint32_t>(normal(random)) >> 16);
  }
  return values;
}

float to_float(uint16_t bf16) { return std::bit_cast<float>(uint32_t{bf16} << 16); }

void check_product(int64_t m, int64_t k, int64_t n, bool transposed, int n_threads) {
  const std::vector<uint16_t> x = random_bf16(m * k, 1), w = random_bf16(k * n, 2);
  std::vector<float> out(static_cast<size_t>(m * n), NAN);
  {
    std::vector<std::jthread> threads;
    dot({x.data(), w.data(), out.data(), m, k, n, transposed}, n_threads,
        [&](std::function<void()> work) { threads.emplace_back(std::move(work)); });
    check(static_cast<int>(threads.size()) < n_threads, "the caller is one of them");
  }
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t column = 0; column < n; ++column) {
      double want = 0, most = 0;
      for (int64_t i = 0; i < k; ++i) {
        const int64_t at = transposed ? column * k + i : i * n + column;
        const double term = double{to_float(x[static_cast<size_t>(row * k + i)])} *
                            to_float(w[static_cast<size_t>(at)]);
        want += term;
        most += std::abs(term);
      }
      const double got = out[static_cast<size_t>(row * n + column)];
      check(std::abs(got - want) <= 1e-6 * most, "the sum of the products");
    }
  }
}

// A function that begins when the product is done, and the product gone.
void check_late_thread() {
  const std::vector<uint16_t> x = random_bf16(64, 1);
  std::function<void()> late;
  {
    const std::vector<uint16_t> w = random_bf16(int64_t{64} * 256, 2);
    std::vector<float> out(256);
    dot({x.data(), w.data(), out.data(), 1, 64, 256, false}, 2,
        [&](std::function<void()> work) { late = std::move(work); });
  }
  late();
}

}  // namespace
}  // namespace nspjax::testing

int main() {
  using namespace nspjax;
  using namespace nspjax::testing;
  if (!can_dot()) return 0;
  for (const bool transposed : {false, true}) {
    for (const int64_t m : {0, 1, 2, 3, 7, 12, 13, 16, 47, 48, 49, 100}) {
      check_product(m, 32, 64, transposed, 2);
      check_product(m, 96, 32, transposed, 3);
    }
    check_product(5, 64, 4128, transposed, 1);  // columns beyond one block's
    check_product(20, 64, 2016, transposed, 5);
  }
  check_late_thread();
}
