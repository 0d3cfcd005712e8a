// From tails to devices: at once, or as a job.
#include <algorithm>

#include "format/pack.h"
#include "store/cache_set.h"

namespace nspjax {

void CacheSet::count_tail(Cache& cache, int64_t row) {
  Row& state = cache.row(row);
  const int64_t tile_bytes = tail_tile_bytes(cache.geometry(), row);
  const int64_t tail_bytes = std::ssize(state.tail) * tile_bytes;
  lane_.counters().tail_bytes += tail_bytes - std::exchange(state.tail_bytes, tail_bytes);
  const int64_t n_held = std::max<int64_t>(0, state.tail_end() - state.stored_tiles - 1);
  budget_.hold(n_held * tile_bytes - std::exchange(state.held_bytes, n_held * tile_bytes));
}

void CacheSet::write_held(Cache& cache, int64_t row, int64_t end) {
  Row& state = cache.row(row);
  if (end <= state.stored_tiles) return;
  const TileGeometry& geometry = cache.geometry();
  make_room(cache, row, end);
  const NewTiles run{*state.own, state.stored_tiles, end,
                     [&](int64_t device, int64_t tile, std::byte* to) {
                       pack_tail_tile(geometry, row, device, tile, state.tail_tile(tile), to);
                     }};
  lane_.store_tiles(*cache.view.runs, {&run, 1});
  state.store_before(end);
  count_tail(cache, row);
}

void CacheSet::writeback(int32_t cache, int32_t version, int64_t interval_tokens, bool exclusive) {
  const TraceScope scope(lane_.trace(), {.cache = cache, .kind = TraceKind::kWriteback});
  const Lock lock(lane_.mutex);
  Cache& found = find_current(cache, version);
  if (interval_tokens < 1) {
    fail(ErrorKind::kInvalidArgument, "writeback with an interval of ", interval_tokens,
         " tokens: give 1 or more");
  }
  settle_writes();
  writes_.throw_error();
  const int64_t tile_tokens = found.geometry().tile_tokens();
  std::vector<TilesToWrite> tiles;
  for (int64_t row = 0; row < std::ssize(found.rows); ++row) {
    Row& state = found.row(row);
    const int64_t written = std::max(state.stored_tiles * tile_tokens, state.written_tokens);
    if (state.length - written < interval_tokens) continue;
    tiles.push_back(state.full_tiles(row, tile_tokens));
    if (interval_tokens >= tile_tokens) continue;
    state.written_tokens = state.length;
    // the tile that is not full too, but what is pinned never leaves host memory
    const int64_t n_full = state.length / tile_tokens;
    if (n_full < state.tail_end() && n_full >= state.own->pinned_tiles) {
      tiles.back().data.push_back(state.tail.back());
    }
  }
  queue_writeback(found, std::move(tiles), exclusive);
}

void CacheSet::queue_writeback(Cache& cache, std::vector<TilesToWrite> tiles, bool exclusive) {
  std::erase_if(tiles, [](const TilesToWrite& of_row) { return of_row.data.empty(); });
  if (tiles.empty()) return;
  const auto write = writes_.post(lane_, cache.view, std::move(tiles), exclusive);
  for (const TilesToWrite& of_row : write->tiles) {
    Row& state = cache.row(of_row.row);
    make_room(cache, of_row.row, of_row.begin + std::ssize(of_row.data));
    state.stored_tiles = state.due_tiles = of_row.begin + of_row.n_full;
    if (std::ssize(of_row.data) > of_row.n_full) state.tail_job = write->job;
    count_tail(cache, of_row.row);
  }
}

void CacheSet::settle_writes() {
  while (const auto write = writes_.take_done(lane_)) settle(*write);
}

// A tile leaves the tail when it and all before it are stored. After an error it is as if the write
// had not been asked for, but that flush() does what was asked.
void CacheSet::settle(const Writeback& write) {
  Cache& cache = caches_.at(write.cache.id);
  for (const TilesToWrite& tiles : write.tiles) {
    Row& row = cache.row(tiles.row);
    if (!write.error) {
      if (tiles.begin <= row.tail_begin) row.store_before(tiles.begin + tiles.n_full);
    } else {
      if (tiles.n_full > 0) row.stored_tiles = std::min(row.stored_tiles, tiles.begin);
      row.written_tokens =
          std::min(row.written_tokens, tiles.begin * cache.geometry().tile_tokens());
    }
    count_tail(cache, tiles.row);
  }
}

}  // namespace nspjax
