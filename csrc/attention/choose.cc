#include "attention/choose.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace nspjax {

Choice choose_blocks(std::span<const float> shares, std::span<const int32_t> steady, float at_hand,
                     float mass, int64_t most_blocks) {
  const auto share = [&](int32_t block) { return shares[static_cast<size_t>(block)]; };
  Choice choice{{}, 0.0f};
  const bool are_numbers = std::ranges::all_of(shares, [](float x) { return std::isfinite(x); });
  if (!are_numbers || (mass >= 1.0f && most_blocks >= std::ssize(shares))) {
    choice.blocks.resize(shares.size());
    std::iota(choice.blocks.begin(), choice.blocks.end(), 0);
    return choice;
  }
  choice.blocks.assign(steady.begin(), steady.end());
  double taken = at_hand;
  for (const int32_t block : steady) taken += share(block);
  std::vector<int32_t> others;
  for (int32_t block = 0; block < std::ssize(shares); ++block) {
    if (!std::ranges::binary_search(steady, block)) others.push_back(block);
  }
  const int64_t most_others =
      std::clamp<int64_t>(most_blocks - std::ssize(steady), 0, std::ssize(others));
  std::ranges::stable_sort(others, std::ranges::greater(), share);
  int64_t n = 0;
  for (; n < most_others && taken < mass; ++n) taken += share(others[static_cast<size_t>(n)]);
  choice.blocks.insert(choice.blocks.end(), others.begin(), others.begin() + n);
  std::ranges::sort(choice.blocks);
  double left_out = 0.0;
  for (size_t i = static_cast<size_t>(n); i < others.size(); ++i) left_out += share(others[i]);
  choice.left_out = static_cast<float>(left_out);
  return choice;
}

}  // namespace nspjax
