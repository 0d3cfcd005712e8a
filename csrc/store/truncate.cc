// Rows that are cut back.
#include <algorithm>
#include <set>

#include "store/cache_set.h"
#include "store/window.h"

namespace nspjax {

int32_t CacheSet::truncate(int32_t cache, int32_t version, std::span<const int32_t> rows,
                           std::span<const int32_t> lengths) {
  const Lock lock(lane_.mutex);
  Cache& found = find_current(cache, version);
  std::set<int32_t> seen;
  for (size_t i = 0; i < rows.size(); ++i) {
    check_row("truncate of", found, rows[i]);
    if (!seen.insert(rows[i]).second) {
      fail(ErrorKind::kInvalidArgument, "truncate of row ", rows[i], ": it is given twice");
    }
    if (const int64_t length = found.row(rows[i]).length; lengths[i] < 0 || lengths[i] > length) {
      fail(ErrorKind::kInvalidArgument, "truncate of row ", rows[i], " to ", lengths[i],
           " tokens: it has ", length);
    }
    check_cut("truncate of", found, rows[i], lengths[i]);
  }
  for (size_t i = 0; i < rows.size(); ++i) cut_back(found, rows[i], lengths[i]);
  return ++found.version;
}

void CacheSet::cut_back(Cache& cache, int64_t row, int64_t length) {
  const int64_t tile_tokens = cache.geometry().tile_tokens();
  Row& state = cache.row(row);
  const int64_t tile = length / tile_tokens;
  if (tile < state.length / tile_tokens) drain();  // somebody may read or write what goes
  if (tile < state.stored_tiles) {
    drain();  // as above, for clang to see
    TailTile tail;
    if (length % tile_tokens != 0) {
      tail = new_tail_tile(cache.geometry(), row);
      read_into_tail(cache, row, tile, tail->data());
    }
    drop_shared_tiles(cache, row, tile);  // throws where there is no room
    state.tail.clear();                   // last: until now it may be needed still
    state.stored_tiles = state.tail_begin = tile;
    if (tail) state.tail.push_back(std::move(tail));
  }
  state.tail.resize(static_cast<size_t>(ceil_div(length, tile_tokens) - state.tail_begin));
  state.due_tiles = std::min(state.due_tiles, tile);
  state.written_tokens = std::min(state.written_tokens, length);
  set_length(cache, row, length);
  count_tail(cache, row);
}

void CacheSet::set_length(Cache& cache, int64_t row, int64_t length) {
  set_extent(cache, row, length == 0 ? 0 : cache.row(row).begin, length);
}

void CacheSet::set_extent(Cache& cache, int64_t row, int64_t begin, int64_t length) {
  Row& state = cache.row(row);
  const int64_t before = state.n_kept();
  state.begin = begin;
  state.length = length;
  lane_.counters().kv_bytes_stored +=
      (state.n_kept() - before) * cache.geometry().shape().token_bytes();
}

// The row keeps n_tiles full tiles. Those of its own that other rows share stay theirs: what the
// row writes from now on goes elsewhere.
void CacheSet::drop_shared_tiles(Cache& cache, int64_t row, int64_t n_tiles) {
  Row& state = cache.row(row);
  const auto ours = std::ranges::count(state.shared, state.own, &Row::Shared::region);
  if (state.own.use_count() > 2 + ours) {  // the cache, this row, and others
    std::shared_ptr<Region> fresh = free_region(cache, row);
    if (n_tiles > state.own_begin()) state.shared.push_back({state.own, n_tiles});
    state.own = std::move(fresh);
  }
  state.cut_shared(n_tiles);
}

}  // namespace nspjax
