// Reading tokens back.
#include <algorithm>

#include "format/pack.h"
#include "store/cache_set.h"
#include "store/window.h"

namespace nspjax {

void CacheSet::read_into_tail(const Cache& cache, int64_t row, int64_t tile, std::byte* tail) {
  const TileGeometry& geometry = cache.geometry();
  const int64_t tile_tokens = geometry.tile_tokens();
  const auto spans =
      cache.row(row).spans(tile_tokens, tile * tile_tokens, (tile + 1) * tile_tokens);
  const auto visit = [&](int64_t d, size_t, int64_t, const std::byte* data) {
    tile_to_tail(geometry, geometry.heads(row, d), data, tail + geometry.tail_offset(row, d));
  };
  lane_.read_tiles(geometry, {.spans = std::span(spans).first(1),
                              .next = lane_.announced().reads(),
                              .verify = lane_.has_checksums(),
                              .visit = visit});
}

void CacheSet::read(int32_t cache, int64_t row, int64_t begin, int64_t end, std::byte* k,
                    std::byte* v) {
  const Lock lock(lane_.mutex);
  const Cache& found = find(cache);
  const TileGeometry& geometry = found.geometry();
  check_row("read of", found, row);
  const Row& state = found.row(row);
  if (begin < 0 || begin > end || end > state.length) {
    fail(ErrorKind::kInvalidArgument, "read of tokens ", begin, " to ", end, " of row ", row,
         ", which has ", state.length);
  }
  if (begin < end) check_kept("read of", found, row, begin);
  drain();
  const TokenRun<std::byte> into{{k, v}, begin};
  const int64_t tile_tokens = geometry.tile_tokens();
  const auto spans =
      state.spans(tile_tokens, begin, std::min(end, state.stored_tiles * tile_tokens));
  const auto unpack = [&](int64_t d, size_t, int64_t index, const std::byte* tile) {
    const int64_t from = index * tile_tokens;
    unpack_tile(geometry, geometry.heads(row, d), tile, std::max(begin, from),
                std::min(end, from + tile_tokens), into);
  };
  if (!spans.empty()) {
    lane_.read_tiles(geometry, {.spans = spans,
                                .next = lane_.announced().reads(),
                                .verify = lane_.has_checksums(),
                                .visit = unpack});
  }
  state.copy_tail(geometry, row, begin, end, into);
}

}  // namespace nspjax
