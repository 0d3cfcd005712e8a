#include "format/head_tile.h"

#include <algorithm>
#include <bit>

#include "base/align.h"
#include "base/error.h"

namespace nspjax {
namespace {

constexpr int64_t kWordBytes = 4;
constexpr int64_t kSectionBytes = 64;

}  // namespace

HeadTile::HeadTile(DType type, int64_t head_dim, int64_t tile_tokens)
    : type_(type), head_dim_(head_dim), tile_tokens_(tile_tokens) {
  if (head_dim < 1 || head_dim > kMostHeadDim) {
    fail(ErrorKind::kInvalidArgument, "head_dim is ", head_dim, ": use 1 to ", kMostHeadDim);
  }
  const int64_t least = is_quantised(type) ? kLeastQuantisedTileTokens : 1;
  if (tile_tokens < least || tile_tokens > kMostTileTokens ||
      !std::has_single_bit(static_cast<uint64_t>(tile_tokens))) {
    fail(ErrorKind::kInvalidArgument, "tile_tokens is ", tile_tokens, ": use a power of two from ",
         least, " to ", kMostTileTokens, " for ", dtype_name(type));
  }
  const auto section = [](int64_t words) { return round_up(words * kWordBytes, kSectionBytes); };
  v_offset_ = section(tile_tokens * channel_words());
  k_scales_offset_ = v_offset_ + section(token_words() * head_dim);
  v_scales_offset_ = k_scales_offset_ + (is_quantised(type) ? section(head_dim) : 0);
  bytes_ = v_scales_offset_ + (is_quantised(type) ? section(tile_tokens) : 0);
}

DType HeadTile::type() const { return type_; }
int64_t HeadTile::head_dim() const { return head_dim_; }
int64_t HeadTile::tile_tokens() const { return tile_tokens_; }
int64_t HeadTile::bytes() const { return bytes_; }
int64_t HeadTile::elements_per_word() const { return 32 / element_bits(type_); }
int64_t HeadTile::lanes() const { return std::min(kMostLanes, tile_tokens_); }
int64_t HeadTile::channel_words() const { return ceil_div(head_dim_, elements_per_word()); }
int64_t HeadTile::token_words() const { return ceil_div(tile_tokens_, elements_per_word()); }
int64_t HeadTile::v_offset() const { return v_offset_; }
int64_t HeadTile::k_scales_offset() const { return k_scales_offset_; }
int64_t HeadTile::v_scales_offset() const { return v_scales_offset_; }

}  // namespace nspjax
