#include "layout/head_tile.h"

#include <cstring>

namespace nspjax {

void pack_head(const HeadTile& tile, const HeadRows& rows, int64_t begin, int64_t end,
               std::byte* to) {
  const int64_t n = tile.vector_bytes();
  for (int64_t t = begin; t < end; ++t) {
    const int64_t row = (t - begin) * rows.stride_bytes;
    std::memcpy(to + t * n, rows.k + row, static_cast<size_t>(n));
    std::memcpy(to + tile.v_offset() + t * n, rows.v + row, static_cast<size_t>(n));
  }
}

void unpack_head(const HeadTile& tile, const std::byte* from, int64_t begin, int64_t end,
                 const MutableHeadRows& rows) {
  const int64_t n = tile.vector_bytes();
  for (int64_t t = begin; t < end; ++t) {
    const int64_t row = (t - begin) * rows.stride_bytes;
    std::memcpy(rows.k + row, from + t * n, static_cast<size_t>(n));
    std::memcpy(rows.v + row, from + tile.v_offset() + t * n, static_cast<size_t>(n));
  }
}

void copy_head_tokens(const HeadTile& tile, const std::byte* from, int64_t n, std::byte* to) {
  const auto bytes = static_cast<size_t>(n * tile.vector_bytes());
  std::memcpy(to, from, bytes);
  std::memcpy(to + tile.v_offset(), from + tile.v_offset(), bytes);
}

void convert_head(const HeadTile& from, const std::byte* data, const HeadTile&, std::byte* into) {
  std::memcpy(into, data, static_cast<size_t>(from.bytes()));
}

}  // namespace nspjax
