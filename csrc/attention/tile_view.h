// The part of a tile that a vector kernel works on.
#pragma once

#include "attention/kernel.h"

namespace nspjax {

// Tokens of a block: it begins at the tile's token `token`, [begin, end) of it count.
struct Block {
  int token;
  int begin;
  int end;
};

// The tokens of a block that a query sees: [begin, end), within the block's.
struct Seen {
  int begin;
  int end;
  bool none() const { return begin >= end; }
};

// Where a tile's words lie; plain numbers, since calls to HeadTile are not inlined.
struct TileView {
  const uint32_t* k;
  const uint32_t* v;
  const uint32_t* k_scales;
  const uint32_t* v_scales;
  int head_dim;
  int padded_dim;
  int channel_words;
  int lanes;
};

// Memory is read in the order in which it lies, tile after tile, so what lies this far beyond a
// word that is read now will be read soon. It is fetched into the second-level cache. How far ahead
// was measured (bench/kernel.py): one query leaves a word quickly, several stay with it.
template <int QB>
inline constexpr int kPrefetchBytes = QB == 1 ? 3072 : 16384;

}  // namespace nspjax
