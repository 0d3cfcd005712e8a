// Tokens into tiles and out again. Tokens are arrays [tokens, n_kv_heads, head_dim].
#pragma once

#include "layout/tile.h"

namespace nspjax {

template <typename Byte>
struct TokenRun {
  Byte* k;
  Byte* v;
  int64_t first;  // the position in its row of the first token
};

// Copies the tokens at the positions [begin, end), all of one tile, into that tile.
void pack_tokens(const TileGeometry& geometry, HeadSet heads, const TokenRun<const std::byte>& from,
                 int64_t begin, int64_t end, std::byte* tile);
// The reverse.
void unpack_tokens(const TileGeometry& geometry, HeadSet heads, const std::byte* tile,
                   int64_t begin, int64_t end, const TokenRun<std::byte>& into);
// Copies the first n tokens of a tile into another.
void copy_tokens(const TileGeometry& geometry, HeadSet heads, const std::byte* from, int64_t n,
                 std::byte* to);
// Zeroes what pads a tile to whole pages.
void clear_padding(const TileGeometry& geometry, HeadSet heads, int64_t tile_bytes,
                   std::byte* tile);

}  // namespace nspjax
