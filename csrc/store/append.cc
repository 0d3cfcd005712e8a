// Appending tokens to rows.
#include <algorithm>
#include <set>

#include "base/scoped_timer.h"
#include "format/pack.h"
#include "store/store.h"

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
  return {args.rows[b], begin, begin + args.n_new[b], {args.k + before, args.v + before, begin}};
}

}  // namespace

int32_t Store::append(int32_t cache, int32_t version, const ArgsFor<AppendArgs>& args_for) {
  std::lock_guard lock(mutex_);
  const ScopedTimer timer(append_ns_);
  const TraceScope scope(trace_, {.cache = cache, .kind = TraceKind::kAppend});
  Cache& found = find_current(cache, version);
  const AppendArgs args = args_for(found.geometry.shape());
  check_append(found, args);
  settle_writes();
  throw_write_error();
  append_unlocked(found, args);
  return ++found.version;
}

void Store::check_append(const Cache& cache, const AppendArgs& args) {
  const CacheShape& shape = cache.geometry.shape();
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
    const int64_t length = cache.rows[static_cast<size_t>(row)].length;
    if (start < 0 || start > length) {
      fail(ErrorKind::kInvalidArgument, where(), "start is ", start, ", but the row has ", length,
           " tokens");
    }
    if (start + n_new > shape.capacity_tokens) {
      fail(ErrorKind::kInvalidArgument, where(), start, " + ", n_new,
           " tokens do not fit its capacity of ", shape.capacity_tokens);
    }
  }
}

// Whether the call fills tiles that are to go out.
bool Store::fills_tiles(const Cache& cache, const AppendArgs& args) {
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    const Row& row = cache.rows[static_cast<size_t>(args.rows[b])];
    if ((args.start[b] + args.n_new[b]) / cache.geometry.tile_tokens() > row.stored_tiles) {
      return true;
    }
  }
  return false;
}

// Whether host memory may keep all that the call's rows have then. What is being written does not
// count, so that this does not depend on how fast it is.
bool Store::has_room_to_hold(const Cache& cache, const AppendArgs& args) const {
  const int64_t tile_tokens = cache.geometry.tile_tokens();
  int64_t held_bytes = held_bytes_;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    const Row& row = cache.rows[static_cast<size_t>(args.rows[b])];
    const int64_t end = args.start[b] + args.n_new[b];
    const int64_t n_full = end / tile_tokens - row.stored_tiles;
    if (n_full * tile_tokens > kMostHeldTokens + tile_tokens) return false;
    const int64_t n_held = std::max<int64_t>(0, ceil_div(end, tile_tokens) - row.stored_tiles - 1);
    held_bytes += n_held * tail_tile_bytes(cache, args.rows[b]) - row.held_bytes;
  }
  return held_bytes <= std::max(held_bytes_, free_tail_bytes());
}

void Store::append_unlocked(Cache& cache, const AppendArgs& args) {
  const TileGeometry& geometry = cache.geometry;
  const int64_t tile_tokens = geometry.tile_tokens();
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] > 0) cut_back(cache, args.rows[b], args.start[b]);
  }
  const bool holds = has_room_to_hold(cache, args);
  // behind an attention that is at work, tiles wait in host memory for their turn
  const bool writes_later = !args.hold && holds && !executor_.idle();
  const bool writes = fills_tiles(cache, args) && !(args.hold && holds) && !writes_later;
  // tiles that are being written take room too, until they are
  if (writes || tail_bytes_ > budget_.cache_bytes - reserved_pinned_bytes_) drain();
  std::vector<std::vector<TailTile>> fresh(args.rows.size());
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    const Row& state = cache.rows[static_cast<size_t>(args.rows[b])];
    const int64_t end = args.start[b] + args.n_new[b];
    const int64_t begin = std::max(state.tail_end(), writes ? end / tile_tokens : 0);
    for (int64_t tile = begin; tile < ceil_div(end, tile_tokens); ++tile) {
      fresh[b].push_back(new_tail_tile(cache, args.rows[b]));
    }
  }
  if (writes) write_full_tiles(cache, args);

  // from here on nothing fails
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    const auto [row, begin, end, tokens] = new_tokens(args, b, geometry.shape());
    Row& state = cache.rows[static_cast<size_t>(row)];
    if (begin % tile_tokens != 0) executor_.wait_for(state.tail_job);
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
    bytes_appended_ += (end - begin) * geometry.shape().token_bytes();
  }
  if (!writes_later) return;
  std::vector<Writeback::Tiles> tiles;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    const Row& state = cache.rows[static_cast<size_t>(args.rows[b])];
    tiles.push_back(state.full_tiles(args.rows[b], tile_tokens));
  }
  queue_writeback(cache, std::move(tiles), false);
}

// Stores the tiles that the call fills, and those that were held until now. Tails are only read:
// until all is stored, the rows are as they were.
void Store::write_full_tiles(Cache& cache, const AppendArgs& args) {
  const TileGeometry& geometry = cache.geometry;
  const int64_t tile_tokens = geometry.tile_tokens();
  std::vector<NewTiles> filled;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    const auto [row, begin, end, tokens] = new_tokens(args, b, geometry.shape());
    const Row& state = cache.rows[static_cast<size_t>(row)];
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
    filled.push_back({*state.own, state.stored_tiles, end / tile_tokens, pack});
  }
  store_tiles(geometry, filled);
}

// Shortens a row; the tile that is then its last, if it was stored, goes back into the tail.
void Store::cut_back(Cache& cache, int64_t row, int64_t length) {
  const int64_t tile_tokens = cache.geometry.tile_tokens();
  Row& state = cache.rows[static_cast<size_t>(row)];
  const int64_t tile = length / tile_tokens;
  if (tile < state.length / tile_tokens) drain();  // somebody may read or write what goes
  if (tile < state.stored_tiles) {
    TailTile tail;
    if (length % tile_tokens != 0) {
      tail = new_tail_tile(cache, row);
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

void Store::set_length(Cache& cache, int64_t row, int64_t length) {
  int64_t& current = cache.rows[static_cast<size_t>(row)].length;
  kv_bytes_stored_ += (length - current) * cache.geometry.shape().token_bytes();
  current = length;
}

}  // namespace nspjax
