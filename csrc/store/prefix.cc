// Rows that have the first tokens of another row: full tiles are shared, the rest is copied.
#include <algorithm>
#include <cstring>
#include <set>

#include "store/store.h"

namespace nspjax {

// What is shared begins and ends alike in all rows that have it, so that one scan serves them, and
// so that what is added up to what does not depend on who is in a call.
void Row::share_tiles(int64_t n_tiles) {
  if (own_begin() < n_tiles) {
    shared.push_back({own, n_tiles});
    return;
  }
  int64_t begin = 0;
  for (auto span = shared.begin(); span != shared.end(); begin = span++->end) {
    if (begin < n_tiles && n_tiles < span->end) {
      shared.insert(span, {span->region, n_tiles});
      return;
    }
  }
}

int32_t Store::share_prefix(int32_t cache, int32_t version, int64_t from,
                            std::span<const int32_t> rows, int64_t n_tokens) {
  std::lock_guard lock(mutex_);
  Cache& found = find_current(cache, version);
  const TileGeometry& geometry = found.geometry;
  const int64_t batch = geometry.shape().batch;
  check_row("share_prefix from", found, from);
  Row& source = found.rows[static_cast<size_t>(from)];
  if (n_tokens < 0 || n_tokens > source.length) {
    fail(ErrorKind::kInvalidArgument, "share_prefix of ", n_tokens, " tokens: row ", from, " has ",
         source.length);
  }
  std::set<int32_t> seen;
  for (const int32_t row : rows) {
    if (row < 0 || row >= batch || row == from || !seen.insert(row).second) {
      fail(ErrorKind::kInvalidArgument, "share_prefix with row ", row,
           ": give each of the cache's rows 0 to ", batch - 1, " once, and not row ", from);
    }
    if (!geometry.same_places(from, row)) {
      fail(ErrorKind::kInvalidArgument, "share_prefix of row ", from, " with row ", row, ": with ",
           geometry.shape().n_kv_heads, " KV heads on ", geometry.n_devices(),
           " devices their heads lie on different devices; use rows that differ by a multiple of ",
           geometry.n_devices());
    }
  }

  drain();
  const int64_t n_tiles = n_tokens / geometry.tile_tokens();
  write_held(found, from, n_tiles);
  const bool has_rest = n_tokens % geometry.tile_tokens() != 0;
  const int64_t tail_bytes = tail_tile_bytes(found, from);
  TailTile rest;
  if (has_rest) {
    rest = new_tail_tile(found, from);
    if (source.has_in_tail(n_tiles)) {
      std::memcpy(rest->data(), source.tail_tile(n_tiles), static_cast<size_t>(tail_bytes));
    } else {
      read_into_tail(found, from, n_tiles, rest->data());
    }
  }
  std::vector<TailTile> rests;  // before anything changes
  for (size_t i = 0; has_rest && i < rows.size(); ++i) {
    rests.push_back(new_tail_tile(found, from));
    std::memcpy(rests.back()->data(), rest->data(), static_cast<size_t>(tail_bytes));
  }
  if (!rows.empty()) source.share_tiles(n_tiles);
  // This may fail for want of room: then no row has tokens that its handle does not know of.
  for (const int32_t row : rows) cut_back(found, row, 0);
  for (size_t i = 0; i < rows.size(); ++i) {
    Row& state = found.rows[static_cast<size_t>(rows[i])];
    for (const Row::Shared& shared : source.shared) {
      if (state.own_begin() < n_tiles) {
        state.shared.push_back({shared.region, std::min(shared.end, n_tiles)});
      }
    }
    state.stored_tiles = state.tail_begin = n_tiles;
    if (has_rest) state.tail.push_back(rests[i]);
    set_length(found, rows[i], n_tokens);
    count_tail(found, rows[i]);
  }
  return ++found.version;
}

// The row keeps n_tiles full tiles. Those of its own that other rows share stay theirs: what the
// row writes from now on goes elsewhere.
void Store::drop_shared_tiles(Cache& cache, int64_t row, int64_t n_tiles) {
  Row& state = cache.rows[static_cast<size_t>(row)];
  const auto ours = std::ranges::count(state.shared, state.own, &Row::Shared::region);
  if (state.own.use_count() > 2 + ours) {  // the cache, this row, and others
    std::shared_ptr<Region> fresh = free_region(cache, row);
    if (n_tiles > state.own_begin()) state.shared.push_back({state.own, n_tiles});
    state.own = std::move(fresh);
  }
  const auto begin = [&](size_t i) { return i == 0 ? 0 : state.shared[i - 1].end; };
  while (!state.shared.empty() && begin(state.shared.size() - 1) >= n_tiles) {
    state.shared.pop_back();
  }
  if (!state.shared.empty()) state.shared.back().end = std::min(state.shared.back().end, n_tiles);
}

std::vector<TileSpan> tile_spans(const Cache& cache, const Row& row, int64_t token_begin,
                                 int64_t token_end) {
  const int64_t tile_tokens = cache.geometry.tile_tokens();
  const int64_t last = ceil_div(token_end, tile_tokens);
  int64_t begin = token_begin / tile_tokens;
  std::vector<TileSpan> spans;
  for (const Row::Shared& shared : row.shared) {
    const int64_t end = std::min(shared.end, last);
    if (begin >= end) continue;
    spans.push_back({shared.region.get(), begin, end});
    begin = end;
  }
  if (begin < last) spans.push_back({row.own.get(), begin, last});
  return spans;
}

}  // namespace nspjax
