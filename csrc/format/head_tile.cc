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

bool PlaneTile::by_token() const { return order == Order::kByToken; }
int64_t PlaneTile::elements_per_word() const { return 32 / element_bits(type); }
int64_t PlaneTile::lanes() const {
  return order == Order::kByChannel ? tile_tokens : std::min(kMostLanes, tile_tokens);
}
int64_t PlaneTile::channel_words() const { return ceil_div(width, elements_per_word()); }
int64_t PlaneTile::token_words() const { return ceil_div(tile_tokens, elements_per_word()); }
int64_t PlaneTile::bytes() const {
  const int64_t words = by_token() ? token_words() * width : tile_tokens * channel_words();
  return round_up(words * kWordBytes, kSectionBytes);
}
int64_t PlaneTile::scales_bytes() const {
  if (!is_quantised(type)) return 0;
  return round_up((by_token() ? tile_tokens : width) * kWordBytes, kSectionBytes);
}

HeadTile::HeadTile(const PageRun& run, DType type, int64_t tile_tokens)
    : type_(type), tile_tokens_(tile_tokens), planes_{}, n_planes_(run.n_planes), bytes_(0) {
  const int64_t least = is_quantised(type) ? kLeastQuantisedTileTokens : 1;
  for (const Plane& plane : run.planes()) {
    if (plane.width < 1 || plane.width > kMostHeadDim) {
      fail(ErrorKind::kInvalidArgument, "head_dim is ", plane.width, ": use 1 to ", kMostHeadDim);
    }
  }
  if (tile_tokens < least || tile_tokens > kMostTileTokens ||
      !std::has_single_bit(static_cast<uint64_t>(tile_tokens))) {
    fail(ErrorKind::kInvalidArgument, "tile_tokens is ", tile_tokens, ": use a power of two from ",
         least, " to ", kMostTileTokens, " for ", dtype_name(type));
  }
  for (size_t i = 0; i < n_planes_; ++i) {
    planes_[i] = {type, run.plane[i].order, run.plane[i].width, tile_tokens, bytes_, 0};
    bytes_ += planes_[i].bytes();
  }
  for (size_t i = 0; i < n_planes_; ++i) {
    planes_[i].scales_offset = bytes_;
    bytes_ += planes_[i].scales_bytes();
  }
}

HeadTile::HeadTile(DType type, int64_t head_dim, int64_t tile_tokens)
    : HeadTile(keys_and_values(1, head_dim, type), type, tile_tokens) {}

DType HeadTile::type() const { return type_; }
int64_t HeadTile::tile_tokens() const { return tile_tokens_; }
int64_t HeadTile::bytes() const { return bytes_; }
std::span<const PlaneTile> HeadTile::planes() const { return {planes_.data(), n_planes_}; }
int64_t HeadTile::head_dim() const { return planes_[0].width; }
int64_t HeadTile::elements_per_word() const { return planes_[0].elements_per_word(); }
int64_t HeadTile::lanes() const { return planes_[0].lanes(); }
int64_t HeadTile::channel_words() const { return planes_[0].channel_words(); }
int64_t HeadTile::v_offset() const { return planes_[1].offset; }
int64_t HeadTile::k_scales_offset() const { return planes_[0].scales_offset; }
int64_t HeadTile::v_scales_offset() const { return planes_[1].scales_offset; }

}  // namespace nspjax
