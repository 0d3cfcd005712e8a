// Tokens into a page run's tiles and out again, all heads of a row on a device. Tokens are an array
// for each plane, [tokens, heads, width].
#pragma once

#include "format/tile.h"

namespace nspjax {

template <typename Byte>
struct TokenRun {
  Byte* plane[kMostPlanesOfARun];
  int64_t first;  // the position in its row of the first token
};

// Copies the tokens at the positions [begin, end), all of one tile, into that tile's tail.
void pack_tail(const TileGeometry& geometry, HeadSet heads, const TokenRun<const std::byte>& from,
               int64_t begin, int64_t end, std::byte* tail);

// Makes the full tile of the tokens [begin, begin + tile_tokens): those before `from.first` come
// from the tail, the others from the run. Fills tile_bytes, padding included.
void pack_tile(const TileGeometry& geometry, HeadSet heads, const std::byte* tail,
               const TokenRun<const std::byte>& from, int64_t begin, int64_t tile_bytes,
               std::byte* tile);

// Copies the tokens [begin, end) of a tail, or of a stored tile, to the run.
void unpack_tail(const TileGeometry& geometry, HeadSet heads, const std::byte* tail, int64_t begin,
                 int64_t end, const TokenRun<std::byte>& into);
void unpack_tile(const TileGeometry& geometry, HeadSet heads, const std::byte* tile, int64_t begin,
                 int64_t end, const TokenRun<std::byte>& into);

// A stored tile as a tail: what was stored in fewer bits comes back as what it stood for.
void tile_to_tail(const TileGeometry& geometry, HeadSet heads, const std::byte* tile,
                  std::byte* tail);

}  // namespace nspjax
