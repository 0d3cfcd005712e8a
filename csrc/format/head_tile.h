// How the planes of one page run lie in one head's part of a tile: the order that the kernels read.
//
// The unit is a little-endian word of 32 bits. It holds P elements: 1 of float32, 2 of 16 bits, 4
// codes of int8, 8 of int4, two's complement. Element e of a word is its bits from
// e / 2 * element bits + e % 2 * 16 up, so that shifting and masking the word gives P / 2 pairs of
// neighbours, each in the two halves of a word: what a dot product of pairs takes. The elements of
// every plane come first, then the scales of every plane; each begins at a multiple of 64 bytes.
//
//   by channel  [tile_tokens / L][ceil(width / P)][L]  words, L = tile_tokens
//               A word holds P neighbouring channels of one token (0 beyond the width).
//   by block    the same, L = min(64, tile_tokens)
//               L tokens lie side by side, so that a vector is tokens, no sum goes across its
//               lanes, and the four vectors that a kernel has in work are read as one stream.
//   by token    [ceil(tile_tokens / P)][width]         words
//               A word holds one channel of P consecutive tokens; a vector is 16 channels' words.
//   scales      [width] or, by token, [tile_tokens]    words, of codes only
//
// A scale is a bf16 scale in the lower half of a word and a bf16 offset in the upper half: an
// element is offset + scale * code. K is quantised by channel over the tile's tokens, since RoPE's
// and the biases' outliers stay in a channel, V by token (KIVI, arXiv:2402.02750).
//
// In a tile that is not full what belongs to later tokens may be anything: lanes, and by token also
// the halves of words beside those of earlier tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "format/planes.h"

namespace nspjax {

inline constexpr int64_t kMostLanes = 64;
inline constexpr int64_t kMostTileTokens = 1024;
inline constexpr int64_t kMostHeadDim = 4096;
inline constexpr int64_t kLeastQuantisedTileTokens = 16;

// A plane's part of a head's tile.
struct PlaneTile {
  DType type;
  Order order;
  int64_t width;
  int64_t tile_tokens;
  int64_t offset;  // in bytes: where its words begin
  int64_t scales_offset;

  bool by_token() const;
  int64_t elements_per_word() const;  // P
  int64_t lanes() const;              // L, but of kByToken
  int64_t channel_words() const;      // ceil(width / P)
  int64_t token_words() const;        // ceil(tile_tokens / P)
  int64_t bytes() const;              // of its words
  int64_t scales_bytes() const;
};

// Nothing here is inline: the files of an instruction set would emit copies with its instructions.
class HeadTile {
 public:
  // tile_tokens: a power of two from 1 to 1024 (from 16 for codes). Throws InvalidArgument.
  HeadTile(const PageRun& run, DType type, int64_t tile_tokens);
  // Of K and V.
  HeadTile(DType type, int64_t head_dim, int64_t tile_tokens);

  DType type() const;
  int64_t tile_tokens() const;
  int64_t bytes() const;  // all planes, and their scales; a multiple of 64
  std::span<const PlaneTile> planes() const;

  // Of a tile of K and V, what kernels need.
  int64_t head_dim() const;
  int64_t elements_per_word() const;
  int64_t lanes() const;
  int64_t channel_words() const;
  int64_t v_offset() const;
  int64_t k_scales_offset() const;
  int64_t v_scales_offset() const;

 private:
  DType type_;
  int64_t tile_tokens_;
  std::array<PlaneTile, kMostPlanesOfARun> planes_;
  size_t n_planes_;
  int64_t bytes_;
};

// Where element e of a word begins, in bits.
constexpr int element_shift(int64_t bits, int64_t e) {
  return static_cast<int>(e / 2 * bits + e % 2 * 16);
}

// Tokens of one head, for each plane: token t's elements are at plane[i] + t * stride_bytes, in the
// tile's type. A braced list of pointers and a stride makes one.
template <typename Byte>
struct RowsOfPlanes {
  Byte* plane[kMostPlanesOfARun];
  int64_t stride_bytes;
};
using HeadRows = RowsOfPlanes<const std::byte>;
using MutableHeadRows = RowsOfPlanes<std::byte>;

// Tokens [begin, end) of a tile of an appended type, from rows whose first is token `begin`. Other
// tokens' bytes stay as they are.
void pack_head(const HeadTile& tile, const HeadRows& rows, int64_t begin, int64_t end,
               std::byte* to);
void unpack_head(const HeadTile& tile, const std::byte* from, int64_t begin, int64_t end,
                 const MutableHeadRows& rows);
// The first n tokens of such a tile into another of the same kind.
void copy_head_tokens(const HeadTile& tile, const std::byte* from, int64_t n, std::byte* to);
// A full tile from one type to another: float -> codes quantises, back dequantises, float -> float
// rounds; the same type: a copy. Codes are the nearest, so an element is off by half a scale at
// most. A token of which an element of any plane is not finite has NaN for its scale and offset in
// planes by token, so there it is NaN and so is what sees it; the tile's other tokens do not
// notice, since such elements do not count for a channel's scales. Numbers beyond 1e38 may come
// back as infinities.
void convert_head(const HeadTile& from, const std::byte* data, const HeadTile& to, std::byte* into);

}  // namespace nspjax
