// How K and V of one KV head and a fixed number of tokens lie: the order that the kernels read.
//
// The unit is a little-endian word of 32 bits. It holds P elements: 1 of float32, 2 of 16 bits, 4
// codes of int8, 8 of int4, two's complement. Element e of a word is its bits from
// e / 2 * element bits + e % 2 * 16 up, so that shifting and masking the word gives P / 2 pairs of
// neighbours, each in the two halves of a word: what a dot product of pairs takes. A tile is these
// sections, each beginning at a multiple of 64 bytes:
//
//   K          [tile_tokens / L][ceil(head_dim / P)][L]  words, L = min(64, tile_tokens)
//              A word holds P neighbouring channels of one token (0 beyond head_dim); L tokens lie
//              side by side, so that a vector is tokens, no sum goes across its lanes, and the four
//              vectors that a kernel has in work are read as one stream.
//   V          [ceil(tile_tokens / P)][head_dim]         words
//              A word holds one channel of P consecutive tokens; a vector is 16 channels' words.
//   K's scales [head_dim]    words, of int8 and int4 only: the scale of a channel
//   V's scales [tile_tokens] words, of int8 and int4 only: the scale of a token
//
// A scale is a bf16 scale in the lower half of a word and a bf16 offset in the upper half: an
// element is offset + scale * code. K is quantised by channel over the tile's tokens, since RoPE's
// and the biases' outliers stay in a channel, V by token (KIVI, arXiv:2402.02750).
//
// In a tile that is not full what belongs to later tokens may be anything, in K also the lanes, in
// V also the halves of words beside those of earlier tokens.
//
// A second copy of K for sparse attention, of chosen channels for all tokens
// ([head_dim][tile_tokens / P] words), would be a further section behind these.
#pragma once

#include <cstddef>
#include <cstdint>

#include "format/dtype.h"

namespace nspjax {

inline constexpr int64_t kMostLanes = 64;
inline constexpr int64_t kMostTileTokens = 1024;
inline constexpr int64_t kMostHeadDim = 4096;
inline constexpr int64_t kLeastQuantisedTileTokens = 16;

// Nothing here is inline: the files of an instruction set would emit copies with its instructions.
class HeadTile {
 public:
  // tile_tokens: a power of two from 1 to 1024 (from 16 for kInt8 and kInt4). Throws
  // InvalidArgument.
  HeadTile(DType type, int64_t head_dim, int64_t tile_tokens);

  DType type() const;
  int64_t head_dim() const;
  int64_t tile_tokens() const;
  int64_t bytes() const;  // K, V and scales; a multiple of 64

  int64_t elements_per_word() const;  // P
  int64_t lanes() const;              // L
  int64_t channel_words() const;      // ceil(head_dim / P)
  int64_t token_words() const;        // ceil(tile_tokens / P)

  // Where sections begin, in bytes; K is at 0.
  int64_t v_offset() const;
  int64_t k_scales_offset() const;
  int64_t v_scales_offset() const;

 private:
  DType type_;
  int64_t head_dim_;
  int64_t tile_tokens_;
  int64_t v_offset_;
  int64_t k_scales_offset_;
  int64_t v_scales_offset_;
  int64_t bytes_;
};

// Where element e of a word begins, in bits.
constexpr int element_shift(int64_t bits, int64_t e) {
  return static_cast<int>(e / 2 * bits + e % 2 * 16);
}

// Rows of one head: token t's K is at k + t * stride_bytes, head_dim elements of the tile's float
// type.
struct HeadRows {
  const std::byte* k;
  const std::byte* v;
  int64_t stride_bytes;
};
struct MutableHeadRows {
  std::byte* k;
  std::byte* v;
  int64_t stride_bytes;
};

// Tokens [begin, end) of a float tile, from rows whose first is token `begin`. Other tokens' bytes
// stay as they are.
void pack_head(const HeadTile& tile, const HeadRows& rows, int64_t begin, int64_t end,
               std::byte* to);
void unpack_head(const HeadTile& tile, const std::byte* from, int64_t begin, int64_t end,
                 const MutableHeadRows& rows);
// The first n tokens of a float tile into another of the same kind.
void copy_head_tokens(const HeadTile& tile, const std::byte* from, int64_t n, std::byte* to);
// A full tile from one type to another: float -> int8, int4 quantises, back dequantises, float ->
// float rounds; the same type: a copy. Codes are the nearest, so an element is off by half a scale
// at most. A token of which an element of K or V is not finite has NaN for its V's scale and
// offset, so its V is NaN and so is what sees it; the tile's other tokens do not notice, since such
// elements do not count for K's scales. Numbers beyond 1e38 may come back as infinities.
void convert_head(const HeadTile& from, const std::byte* data, const HeadTile& to, std::byte* into);

}  // namespace nspjax
