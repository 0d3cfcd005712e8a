#include "layout/pack.h"

#include <algorithm>

namespace nspjax {
namespace {

// Where a token of a head is in the arrays, and how far it is to the next.
int64_t row_offset(const TileGeometry& geometry, int64_t head, int64_t token) {
  return (token * geometry.shape().n_kv_heads + head) * geometry.shape().vector_bytes();
}
int64_t token_stride(const TileGeometry& geometry) {
  return geometry.shape().n_kv_heads * geometry.shape().vector_bytes();
}

}  // namespace

void pack_tokens(const TileGeometry& geometry, HeadSet heads, const TokenRun<const std::byte>& from,
                 int64_t begin, int64_t end, std::byte* tile) {
  const int64_t tile_begin = round_down(begin, geometry.tile_tokens());
  for (int64_t i = 0; i < heads.count; ++i) {
    const int64_t offset = row_offset(geometry, heads.head(i), begin - from.first);
    pack_head(geometry.head_tile(), {from.k + offset, from.v + offset, token_stride(geometry)},
              begin - tile_begin, end - tile_begin, tile + geometry.head_offset(i));
  }
}

void unpack_tokens(const TileGeometry& geometry, HeadSet heads, const std::byte* tile,
                   int64_t begin, int64_t end, const TokenRun<std::byte>& into) {
  const int64_t tile_begin = round_down(begin, geometry.tile_tokens());
  for (int64_t i = 0; i < heads.count; ++i) {
    const int64_t offset = row_offset(geometry, heads.head(i), begin - into.first);
    unpack_head(geometry.head_tile(), tile + geometry.head_offset(i), begin - tile_begin,
                end - tile_begin, {into.k + offset, into.v + offset, token_stride(geometry)});
  }
}

void copy_tokens(const TileGeometry& geometry, HeadSet heads, const std::byte* from, int64_t n,
                 std::byte* to) {
  for (int64_t i = 0; i < heads.count; ++i) {
    const int64_t offset = geometry.head_offset(i);
    copy_head_tokens(geometry.head_tile(), from + offset, n, to + offset);
  }
}

void clear_padding(const TileGeometry& geometry, HeadSet heads, int64_t tile_bytes,
                   std::byte* tile) {
  std::fill(tile + geometry.head_offset(heads.count), tile + tile_bytes, std::byte{0});
}

}  // namespace nspjax
