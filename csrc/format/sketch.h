// What host memory keeps of a head's tile that is stored, so that attention scores every token
// without reading anything, and reads the V of those that matter:
//
//   [K's codes][K's scales][V's scales][the sum of V, float32 [head_dim]]
//
// K is in int4 or, where the tile is stored as codes, in those: then scores are the same as the
// tile's own. V's scales are there where V is stored as codes: a few tokens' V is read without
// them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "format/head_tile.h"

namespace nspjax {

class SketchTile {
 public:
  // stored: a tile of K and V. Throws InvalidArgument where it is too small for codes.
  explicit SketchTile(const HeadTile& stored);

  // K alone, from the sketch's first byte on.
  const HeadTile& keys() const { return keys_; }
  int64_t v_scales_offset() const { return keys_.bytes(); }
  int64_t v_sum_offset() const { return v_sum_offset_; }
  int64_t bytes() const { return bytes_; }

 private:
  HeadTile keys_;
  int64_t v_sum_offset_;
  int64_t bytes_;
};

// Where K has an element that is not finite, all of the tile's scores are NaN, as every answer is
// that sees such a token.
void make_sketch(const HeadTile& stored, const std::byte* tile, const SketchTile& sketch,
                 std::byte* into);

}  // namespace nspjax
