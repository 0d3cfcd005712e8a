#include "layout/pack.h"

#include <algorithm>
#include <cstring>

namespace nspjax {
namespace {

// Calls fn(offset in the run, offset of K in the tile, offset of V) for each vector.
template <class Fn>
void for_each_vector(const TileGeometry& geometry, HeadSet heads, int64_t first, int64_t begin,
                     int64_t end, const Fn& fn) {
  const int64_t vector_bytes = geometry.shape().vector_bytes();
  for (int64_t i = 0; i < heads.count; ++i) {
    for (int64_t token = begin; token < end; ++token) {
      const int64_t vector = (token - first) * geometry.shape().n_kv_heads + heads.head(i);
      const int64_t in_tile = token % geometry.tile_tokens();
      fn(vector * vector_bytes, geometry.k_offset(i, in_tile), geometry.v_offset(i, in_tile));
    }
  }
}

}  // namespace

void pack_tokens(const TileGeometry& geometry, HeadSet heads, const TokenRun<const std::byte>& from,
                 int64_t begin, int64_t end, std::byte* tile) {
  const auto n = static_cast<size_t>(geometry.shape().vector_bytes());
  for_each_vector(geometry, heads, from.first, begin, end,
                  [&](int64_t in_run, int64_t k_offset, int64_t v_offset) {
                    std::memcpy(tile + k_offset, from.k + in_run, n);
                    std::memcpy(tile + v_offset, from.v + in_run, n);
                  });
}

void unpack_tokens(const TileGeometry& geometry, HeadSet heads, const std::byte* tile,
                   int64_t begin, int64_t end, const TokenRun<std::byte>& into) {
  const auto n = static_cast<size_t>(geometry.shape().vector_bytes());
  for_each_vector(geometry, heads, into.first, begin, end,
                  [&](int64_t in_run, int64_t k_offset, int64_t v_offset) {
                    std::memcpy(into.k + in_run, tile + k_offset, n);
                    std::memcpy(into.v + in_run, tile + v_offset, n);
                  });
}

void copy_tokens(const TileGeometry& geometry, HeadSet heads, const std::byte* from, int64_t n,
                 std::byte* to) {
  const auto bytes = static_cast<size_t>(n * geometry.shape().vector_bytes());
  for (int64_t i = 0; i < heads.count; ++i) {
    std::memcpy(to + geometry.k_offset(i, 0), from + geometry.k_offset(i, 0), bytes);
    std::memcpy(to + geometry.v_offset(i, 0), from + geometry.v_offset(i, 0), bytes);
  }
}

void clear_padding(const TileGeometry& geometry, HeadSet heads, int64_t tile_bytes,
                   std::byte* tile) {
  std::fill(tile + heads.count * geometry.head_bytes(), tile + tile_bytes, std::byte{0});
}

}  // namespace nspjax
