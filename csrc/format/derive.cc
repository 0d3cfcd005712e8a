#include "format/derive.h"

#include <algorithm>
#include <cstring>

namespace nspjax {
namespace {

// Words of a block's lanes follow each other in both orders, and a channel has one scale in both.
void keys_by_channel_of(const HeadTile& kv, const std::byte* from, const HeadTile& to,
                        std::byte* into) {
  const PlaneTile &k = kv.planes()[0], &channels = to.planes()[0];
  const int64_t lanes = k.lanes(), n_words = k.channel_words(), n_tokens = k.tile_tokens;
  const auto bytes = static_cast<size_t>(4 * lanes);
  std::fill(into, into + to.bytes(), std::byte{0});
  for (int64_t first = 0; first < n_tokens; first += lanes) {
    for (int64_t word = 0; word < n_words; ++word) {
      std::memcpy(into + channels.offset + 4 * (word * n_tokens + first),
                  from + k.offset + 4 * (first * n_words + word * lanes), bytes);
    }
  }
  if (is_quantised(k.type)) {
    std::memcpy(into + channels.scales_offset, from + k.scales_offset,
                static_cast<size_t>(4 * k.width));
  }
}

}  // namespace

void derive_tile(const TileGeometry& from, const TileGeometry& to, int64_t row, int64_t device,
                 const std::byte* tile, std::byte* into) {
  const int64_t n_heads = to.heads(row, device).count;
  for (int64_t i = 0; i < n_heads; ++i) {
    keys_by_channel_of(from.stored(), tile + i * from.stored().bytes(), to.stored(),
                       into + i * to.stored().bytes());
  }
  std::fill(into + n_heads * to.stored().bytes(), into + to.tile_bytes(row, device), std::byte{0});
}

}  // namespace nspjax
