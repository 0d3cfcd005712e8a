// Reading tokens back.
#include <algorithm>
#include <vector>

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
  read_run(find(cache), 0, row, {begin, end}, {{k, v}, begin});
}

void CacheSet::read_keys_by_channel(int32_t cache, int64_t row, int64_t begin, int64_t end,
                                    std::byte* k) {
  const Lock lock(lane_.mutex);
  const Cache& found = find(cache);
  if (found.view.runs->size() < 2) {
    fail(ErrorKind::kInvalidArgument, "read of keys by channel: cache ", cache,
         " was made without k_by_channel");
  }
  const CacheShape& shape = found.geometry().shape();
  const int64_t n_tokens = std::max<int64_t>(0, end - begin);
  std::vector<std::byte> v(static_cast<size_t>(n_tokens * shape.token_bytes() / 2));  // of the tail
  read_run(found, 1, row, {begin, end}, {{k, v.data()}, begin});
}

void CacheSet::read_run(const Cache& cache, size_t run, int64_t row, TokenSpan tokens,
                        const TokenRun<std::byte>& into) {
  const auto [begin, end] = tokens;
  const TileGeometry& geometry = (*cache.view.runs)[run];
  check_row("read of", cache, row);
  const Row& state = cache.row(row);
  if (begin < 0 || begin > end || end > state.length) {
    fail(ErrorKind::kInvalidArgument, "read of tokens ", begin, " to ", end, " of row ", row,
         ", which has ", state.length);
  }
  if (begin < end) check_kept("read of", cache, row, begin);
  drain();
  const int64_t tile_tokens = geometry.tile_tokens();
  auto spans = state.spans(tile_tokens, begin, std::min(end, state.stored_tiles * tile_tokens));
  for (TileSpan& span : spans) span.region = &span.region->of_run(run);
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
  state.copy_tail(cache.geometry(), row, begin, end, into);
}

}  // namespace nspjax
