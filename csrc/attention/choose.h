// Which blocks of a row's values an attention reads, by the share of the softmax that each has.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nspjax {

// How much of V an attention reads. Of what it leaves out, the tokens' weights are known, and their
// values are taken as the mean of what their tile has beside what was read.
struct Sparsity {
  float mass = 1.0f;         // blocks are read until their shares, and what is at hand, are so much
  float budget = 1.0f;       // or until so much of the tokens is
  int64_t block_tokens = 0;  // a power of two; 0: as many as a page has

  bool is_dense() const { return mass >= 1.0f && budget >= 1.0f; }
};

// The first tokens, which collect what no other token wants (StreamingLLM, arXiv:2309.17453), and
// the newest: always read.
inline constexpr int64_t kFirstTokens = 4;
inline constexpr int64_t kNewestTokens = 64;

struct Choice {
  std::vector<int32_t> blocks;  // ascending
  float left_out;               // the share of those that are not among them
};

// shares [n_blocks]: of the softmax, the mean over a group's queries. steady: blocks that are taken
// whatever their share, ascending; at_hand: the share of what needs no choice, the tail.
// Blocks are taken in the order of their shares, those before others first where they are equal,
// until `mass` is reached or `most_blocks` are. Where shares are no numbers, all are taken.
Choice choose_blocks(std::span<const float> shares, std::span<const int32_t> steady, float at_hand,
                     float mass, int64_t most_blocks);

}  // namespace nspjax
