// One run of the attention kernel: tiles as the engine writes them, operands, results, and what a
// float64 oracle makes of the same elements.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "attention/attention.h"
#include "format/head_tile.h"

namespace nspjax::testing {

struct Sizes {
  DType type;
  int head_dim;
  int tile_tokens;
  int n_heads;
  int n_queries;
  int n_tokens;         // valid ones: the others hold infinities and NaNs
  int first_token = 0;  // position of the first
  float softcap = 0.0f;
};

struct Range {
  int first;
  int last;
};

struct Result {
  float max;
  float sum;
  std::vector<float> sums;  // [head_dim]
  bool operator==(const Result&) const = default;
};

// All heads' elements as stored, and the memory in which they lie for the kernel.
class AttentionCase {
 public:
  explicit AttentionCase(const Sizes& sizes, unsigned seed = 1);

  // What query i sees; all of the tokens to begin with.
  std::vector<Range> visible;

  const HeadTile& tile() const { return tile_; }
  int n_tiles() const { return n_tiles_; }
  std::vector<kernel::Beat> operands() const;
  // The results' memory has one beat more than it needs.
  std::vector<kernel::Beat> run(std::span<const kernel::Beat> operands) const;
  // [n_heads * n_queries]; fails unless the kernel says that it is done.
  std::vector<Result> results() const;
  Result results_of(std::span<const kernel::Beat> results, int head, int query) const;
  // Compares with float64.
  void check_against_oracle() const;

  std::vector<kernel::Beat> kv;
  std::vector<float> queries;  // [n_heads][n_queries][head_dim]
  Sizes sizes;
  float scale;

 private:
  void fill_head(int head, unsigned seed);
  size_t head_begin(int tile, int head) const;

  HeadTile tile_;
  int n_tiles_;
  std::vector<float> k_, v_;  // [n_heads][n_tokens][head_dim]
};

}  // namespace nspjax::testing
