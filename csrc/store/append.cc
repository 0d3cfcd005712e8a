// Appending tokens to rows.
#include <algorithm>
#include <set>

#include "base/scoped_timer.h"
#include "format/pack.h"
#include "store/cache_set.h"
#include "store/window.h"

namespace nspjax {
namespace {

// Batch row b's new tokens, and where they go.
struct NewTokens {
  int64_t row;
  int64_t begin;
  int64_t end;
  TokenRun<const std::byte> tokens;
};

NewTokens new_tokens(const AppendArgs& args, size_t b, const CacheShape& shape) {
  const int64_t before = static_cast<int64_t>(b) * args.n_tokens * shape.token_bytes() / 2;
  const int64_t begin = args.start[b];
  return {args.rows[b], begin, begin + args.n_new[b], {{args.k + before, args.v + before}, begin}};
}

void check_append(const Cache& cache, const AppendArgs& args) {
  const CacheShape& shape = cache.geometry().shape();
  std::set<int32_t> seen;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    const int64_t row = args.rows[b], start = args.start[b], n_new = args.n_new[b];
    const auto where = [&] { return concat("append to row ", row, " (batch row ", b, "): "); };
    if (n_new < 0 || n_new > args.n_tokens) {
      fail(ErrorKind::kInvalidArgument, where(), "n_new is ", n_new, ", with ", args.n_tokens,
           " tokens given");
    }
    if (n_new == 0) continue;
    if (row < 0 || row >= shape.batch) {
      fail(ErrorKind::kInvalidArgument, where(), "the cache has rows 0 to ", shape.batch - 1);
    }
    if (!seen.insert(args.rows[b]).second) {
      fail(ErrorKind::kInvalidArgument, where(), "the row is given twice in one call");
    }
    const int64_t length = cache.row(row).length;
    if (start < 0 || start > length) {
      fail(ErrorKind::kInvalidArgument, where(), "start is ", start, ", but the row has ", length,
           " tokens");
    }
    check_cut("append to", cache, row, start);
    if (start + n_new > shape.capacity_tokens) {
      fail(ErrorKind::kInvalidArgument, where(), start, " + ", n_new,
           " tokens do not fit its capacity of ", shape.capacity_tokens);
    }
  }
}

// Whether the call fills tiles that are to go out.
bool fills_tiles(const Cache& cache, const AppendArgs& args) {
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    const Row& row = cache.row(args.rows[b]);
    if ((args.start[b] + args.n_new[b]) / cache.geometry().tile_tokens() > row.stored_tiles) {
      return true;
    }
  }
  return false;
}

}  // namespace

int32_t CacheSet::append(int32_t cache, int32_t version, const ArgsFor<AppendArgs>& args_for) {
  const Lock lock(lane_.mutex);
  const ScopedTimer timer(lane_.counters().append_ns);
  const TraceScope scope(lane_.trace(), {.cache = cache, .kind = TraceKind::kAppend});
  Cache& found = find_current(cache, version);
  const AppendArgs args = args_for(found.geometry().shape());
  check_append(found, args);
  settle_writes();
  writes_.throw_error();
  std::vector<Cut> cuts;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] > 0) cuts.push_back({args.rows[b], args.start[b]});
  }
  cut_back(found, std::move(cuts));
  extend(found, args);
  return ++found.version;
}

// Whether host memory may keep all that the call's rows have then. What is being written does not
// count, so that this does not depend on how fast it is.
bool CacheSet::has_room_to_hold(const Cache& cache, const AppendArgs& args) const {
  const int64_t tile_tokens = cache.geometry().tile_tokens();
  int64_t held_bytes = budget_.held_bytes();
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    const Row& row = cache.row(args.rows[b]);
    const int64_t end = args.start[b] + args.n_new[b];
    const int64_t n_full = end / tile_tokens - row.stored_tiles;
    if (n_full * tile_tokens > kMostHeldTokens + tile_tokens) return false;
    const int64_t n_held = std::max<int64_t>(0, ceil_div(end, tile_tokens) - row.stored_tiles - 1);
    held_bytes += n_held * tail_tile_bytes(cache.geometry(), args.rows[b]) - row.held_bytes;
  }
  return budget_.may_hold(held_bytes);
}

void CacheSet::extend(Cache& cache, const AppendArgs& args) {
  const TileGeometry& geometry = cache.geometry();
  const int64_t tile_tokens = geometry.tile_tokens();
  const bool holds = has_room_to_hold(cache, args);
  // after an attention that is at work, tiles wait in host memory for their turn
  const bool writes_later = !args.hold && holds && !lane_.idle();
  const bool writes = fills_tiles(cache, args) && !(args.hold && holds) && !writes_later;
  // tiles that are being written take room too, until they are
  if (writes || budget_.is_overdrawn(lane_.counters().tail_bytes)) drain();
  std::vector<std::vector<TailTile>> fresh(args.rows.size());
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    const Row& state = cache.row(args.rows[b]);
    const int64_t end = args.start[b] + args.n_new[b];
    const int64_t begin = std::max(state.tail_end(), writes ? end / tile_tokens : 0);
    for (int64_t tile = begin; tile < ceil_div(end, tile_tokens); ++tile) {
      fresh[b].push_back(new_tail_tile(geometry, args.rows[b]));
    }
  }
  if (writes) {
    drain();  // nothing was queued since: it takes no time, and lets clang see it
    write_full_tiles(cache, args);
  }

  // from here on nothing fails
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    const auto [row, begin, end, tokens] = new_tokens(args, b, geometry.shape());
    Row& state = cache.row(row);
    if (begin % tile_tokens != 0) lane_.wait_for(state.tail_job);
    if (writes) state.store_before(end / tile_tokens);
    std::ranges::move(fresh[b], std::back_inserter(state.tail));
    for (int64_t from = std::max(begin, state.tail_begin * tile_tokens); from < end;) {
      const int64_t to = std::min(round_down(from, tile_tokens) + tile_tokens, end);
      for (int64_t d = 0; d < geometry.n_devices(); ++d) {
        pack_tail(geometry, geometry.heads(row, d), tokens, from, to,
                  state.tail_tile(from / tile_tokens) + geometry.tail_offset(row, d));
      }
      from = to;
    }
    set_length(cache, row, end);
    count_tail(cache, row);
    lane_.counters().bytes_appended += (end - begin) * geometry.shape().token_bytes();
  }
  if (!writes_later) return;
  std::vector<TilesToWrite> tiles;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    const Row& state = cache.row(args.rows[b]);
    tiles.push_back(state.full_tiles(args.rows[b], tile_tokens));
  }
  queue_writeback(cache, std::move(tiles), false);
}

// Stores the tiles that the call fills, and those that were held until now. Tails are only read:
// until all is stored, the rows are as they were, but for what a window drops.
void CacheSet::write_full_tiles(Cache& cache, const AppendArgs& args) {
  const TileGeometry& geometry = cache.geometry();
  const int64_t tile_tokens = geometry.tile_tokens();
  std::vector<NewTiles> filled;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    const auto [row, begin, end, tokens] = new_tokens(args, b, geometry.shape());
    const Row& state = cache.row(row);
    const auto pack = [&geometry, &state, row = row, tokens = tokens, tile_tokens](
                          int64_t device, int64_t tile, std::byte* to) {
      if ((tile + 1) * tile_tokens <= tokens.first) {
        return pack_tail_tile(geometry, row, device, tile, state.tail_tile(tile), to);
      }
      const std::byte* tail = state.has_in_tail(tile)
                                  ? state.tail_tile(tile) + geometry.tail_offset(row, device)
                                  : nullptr;
      pack_tile(geometry, geometry.heads(row, device), tail, tokens, tile * tile_tokens,
                geometry.tile_bytes(row, device), to);
    };
    make_room(cache, row, end / tile_tokens);
    filled.push_back({*state.own, state.stored_tiles, end / tile_tokens, pack});
  }
  lane_.store_tiles(*cache.view.runs, filled);
}

}  // namespace nspjax
