#include "format/pack.h"

#include <algorithm>
#include <vector>

namespace nspjax {
namespace {

// One head's rows in a run of tokens, from position `begin` on.
template <typename Byte>
RowsOfPlanes<Byte> head_rows(const TileGeometry& geometry, const TokenRun<Byte>& tokens,
                             int64_t begin, int64_t head) {
  const CacheShape& shape = geometry.shape();
  const int64_t stride = shape.n_kv_heads * shape.vector_bytes();
  const int64_t at = (begin - tokens.first) * stride + head * shape.vector_bytes();
  RowsOfPlanes<Byte> rows{.plane = {}, .stride_bytes = stride};
  for (size_t i = 0; i < geometry.run().n_planes; ++i) rows.plane[i] = tokens.plane[i] + at;
  return rows;
}

AlignedBuffer& scratch_head(int64_t bytes) {
  thread_local AlignedBuffer scratch;
  if (scratch.size_bytes() < bytes) scratch = AlignedBuffer(bytes);
  return scratch;
}

}  // namespace

void pack_tail(const TileGeometry& geometry, HeadSet heads, const TokenRun<const std::byte>& from,
               int64_t begin, int64_t end, std::byte* tail) {
  const int64_t first = round_down(begin, geometry.tile_tokens());
  for (int64_t i = 0; i < heads.count; ++i) {
    pack_head(geometry.tail(), head_rows(geometry, from, begin, heads.head(i)), begin - first,
              end - first, tail + i * geometry.tail().bytes());
  }
}

void pack_tile(const TileGeometry& geometry, HeadSet heads, const std::byte* tail,
               const TokenRun<const std::byte>& from, int64_t begin, int64_t tile_bytes,
               std::byte* tile) {
  const bool converts = geometry.stored().type() != geometry.tail().type();
  const int64_t in_tail = std::max<int64_t>(from.first - begin, 0);
  for (int64_t i = 0; i < heads.count; ++i) {
    std::byte* stored = tile + i * geometry.stored().bytes();
    std::byte* head = converts ? scratch_head(geometry.tail().bytes()).data() : stored;
    if (in_tail > 0) {
      copy_head_tokens(geometry.tail(), tail + i * geometry.tail().bytes(), in_tail, head);
    }
    if (in_tail < geometry.tile_tokens()) {
      pack_head(geometry.tail(), head_rows(geometry, from, begin + in_tail, heads.head(i)), in_tail,
                geometry.tile_tokens(), head);
    }
    if (converts) convert_head(geometry.tail(), head, geometry.stored(), stored);
  }
  std::fill(tile + heads.count * geometry.stored().bytes(), tile + tile_bytes, std::byte{0});
}

void unpack_tail(const TileGeometry& geometry, HeadSet heads, const std::byte* tail, int64_t begin,
                 int64_t end, const TokenRun<std::byte>& into) {
  const int64_t first = round_down(begin, geometry.tile_tokens());
  for (int64_t i = 0; i < heads.count; ++i) {
    unpack_head(geometry.tail(), tail + i * geometry.tail().bytes(), begin - first, end - first,
                head_rows(geometry, into, begin, heads.head(i)));
  }
}

void unpack_tile(const TileGeometry& geometry, HeadSet heads, const std::byte* tile, int64_t begin,
                 int64_t end, const TokenRun<std::byte>& into) {
  if (geometry.stored().type() == geometry.tail().type()) {
    return unpack_tail(geometry, heads, tile, begin, end, into);  // heads lie alike in both
  }
  AlignedBuffer tail(heads.count * geometry.tail().bytes());
  tile_to_tail(geometry, heads, tile, tail.data());
  unpack_tail(geometry, heads, tail.data(), begin, end, into);
}

void tile_to_tail(const TileGeometry& geometry, HeadSet heads, const std::byte* tile,
                  std::byte* tail) {
  for (int64_t i = 0; i < heads.count; ++i) {
    convert_head(geometry.stored(), tile + i * geometry.stored().bytes(), geometry.tail(),
                 tail + i * geometry.tail().bytes());
  }
}

}  // namespace nspjax
