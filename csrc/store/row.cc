#include "store/row.h"

#include <algorithm>

namespace nspjax {

std::vector<TileSpan> RowTiles::spans(int64_t tile_tokens, int64_t token_begin,
                                      int64_t token_end) const {
  const int64_t last = ceil_div(token_end, tile_tokens);
  int64_t next = token_begin / tile_tokens;
  std::vector<TileSpan> spans;
  for (const Shared& run : shared) {
    const int64_t end = std::min(run.end, last);
    if (next >= end) continue;
    spans.push_back({run.region.get(), next, end});
    next = end;
  }
  if (next < last) spans.push_back({own.get(), next, last});
  return spans;
}

void RowTiles::copy_tail(const TileGeometry& geometry, int64_t row, int64_t token_begin,
                         int64_t token_end, const TokenRun<std::byte>& into) const {
  const int64_t tile_tokens = geometry.tile_tokens();
  for (int64_t from = std::max(token_begin, stored_tiles * tile_tokens); from < token_end;) {
    const int64_t tile = from / tile_tokens;
    const int64_t to = std::min((tile + 1) * tile_tokens, token_end);
    for (int64_t d = 0; d < geometry.n_devices(); ++d) {
      unpack_tail(geometry, geometry.heads(row, d), tail_tile(tile) + geometry.tail_offset(row, d),
                  from, to, into);
    }
    from = to;
  }
}

// What is shared begins and ends alike in all rows that have it, so that one scan serves them, and
// so that what is added up to what does not depend on who is in a call.
void Row::share_tiles(int64_t n_tiles) {
  if (own_begin() < n_tiles) {
    shared.push_back({own, n_tiles});
    return;
  }
  int64_t first = 0;
  for (auto span = shared.begin(); span != shared.end(); first = span++->end) {
    if (first < n_tiles && n_tiles < span->end) {
      shared.insert(span, {span->region, n_tiles});
      return;
    }
  }
}

void Row::cut_shared(int64_t n_tiles) {
  const auto first = [&](size_t i) { return i == 0 ? 0 : shared[i - 1].end; };
  while (!shared.empty() && first(shared.size() - 1) >= n_tiles) shared.pop_back();
  if (!shared.empty()) shared.back().end = std::min(shared.back().end, n_tiles);
}

void Row::store_before(int64_t tile) {
  if (tile <= tail_begin) return;
  const auto n = static_cast<std::ptrdiff_t>(std::min(tile - tail_begin, std::ssize(tail)));
  tail.erase(tail.begin(), tail.begin() + n);
  tail_begin = tile;
  stored_tiles = std::max(stored_tiles, tile);
  due_tiles = std::max(due_tiles, tile);
}

TilesToWrite Row::full_tiles(int64_t row, int64_t tile_tokens) const {
  const int64_t n = length / tile_tokens - stored_tiles;
  const auto first = tail.begin() + (stored_tiles - tail_begin);
  return {row, own, stored_tiles, n, {first, first + n}};
}

int64_t tail_tile_bytes(const TileGeometry& geometry, int64_t row) {
  return round_up(geometry.tail_bytes(row), kPageBytes);
}

TailTile new_tail_tile(const TileGeometry& geometry, int64_t row) {
  return std::make_shared<AlignedBuffer>(geometry.tail_bytes(row));
}

void pack_tail_tile(const TileGeometry& geometry, int64_t row, int64_t device, int64_t tile,
                    const std::byte* tail, std::byte* to) {
  const int64_t begin = tile * geometry.tile_tokens();
  pack_tile(geometry, geometry.heads(row, device), tail + geometry.tail_offset(row, device),
            {{nullptr, nullptr}, begin + geometry.tile_tokens()}, begin,
            geometry.tile_bytes(row, device), to);
}

}  // namespace nspjax
