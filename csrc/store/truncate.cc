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
  std::vector<Cut> cuts;
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
    cuts.push_back({rows[i], lengths[i]});
  }
  cut_back(found, cuts);
  return ++found.version;
}

// All together: what one row lets go of, another need not leave to it.
void CacheSet::cut_back(Cache& cache, std::vector<Cut> cuts) {
  const int64_t tile_tokens = cache.geometry().tile_tokens();
  std::erase_if(cuts, [&](const Cut& cut) { return cut.length == cache.row(cut.row).length; });
  const auto drops_full_tiles = [&](const Cut& cut) {
    return cut.length / tile_tokens < cache.row(cut.row).length / tile_tokens;
  };
  // somebody may read or write what goes
  if (std::ranges::any_of(cuts, drops_full_tiles)) drain();
  const auto drops_stored_tiles = [&](const Cut& cut) {
    return cut.length / tile_tokens < cache.row(cut.row).stored_tiles;
  };
  if (std::ranges::any_of(cuts, drops_stored_tiles)) {
    drain();  // as above, for clang to see
    prepare_cuts(cache, cuts);
  }

  // from here on nothing fails
  for (const Cut& cut : cuts) {
    Row& state = cache.row(cut.row);
    const int64_t tile = cut.length / tile_tokens;
    if (tile < state.stored_tiles) {
      if (cut.region) {
        if (tile > state.own_begin()) state.shared.push_back({state.own, tile});
        state.own = cut.region;
      }
      state.cut_shared(tile);
      state.tail.clear();
      state.stored_tiles = state.tail_begin = tile;
      if (cut.tail) state.tail.push_back(cut.tail);
    }
    state.tail.resize(static_cast<size_t>(ceil_div(cut.length, tile_tokens) - state.tail_begin));
    state.due_tiles = std::min(state.due_tiles, tile);
    state.written_tokens = std::min(state.written_tokens, cut.length);
    set_length(cache, cut.row, cut.length);
    count_tail(cache, cut.row);
  }
}

// The tile that is then a row's last goes back into the tail. Tiles of its own that other rows go
// on sharing stay theirs: what the row writes from now on goes elsewhere.
void CacheSet::prepare_cuts(Cache& cache, std::vector<Cut>& cuts) {
  const int64_t tile_tokens = cache.geometry().tile_tokens();
  std::vector<int64_t> n_tiles;  // [row], when all is done
  for (const Row& row : cache.rows) n_tiles.push_back(row.stored_tiles);
  for (const Cut& cut : cuts) n_tiles[static_cast<size_t>(cut.row)] = cut.length / tile_tokens;
  TilesInUse in_use;
  for (size_t row = 0; row < n_tiles.size(); ++row) in_use.add(cache.rows[row], n_tiles[row]);
  for (Cut& cut : cuts) {
    const Row& state = cache.row(cut.row);
    const int64_t tile = cut.length / tile_tokens;
    if (tile >= state.stored_tiles) continue;
    if (cut.length % tile_tokens != 0) {
      cut.tail = new_tail_tile(cache.geometry(), cut.row);
      read_into_tail(cache, cut.row, tile, cut.tail->data());
    }
    if (in_use.is_free_from(*state.own, tile)) continue;
    cut.region = free_region(cache, cut.row, tile, in_use);
    in_use.add_own(*cut.region);
    if (tile > state.own_begin()) in_use.add(*state.own, tile);
  }
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

}  // namespace nspjax
