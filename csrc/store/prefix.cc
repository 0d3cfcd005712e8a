// Rows that have the first tokens of another row: full tiles are shared, the rest is copied.
#include <algorithm>
#include <cstring>
#include <set>

#include "store/cache_set.h"

namespace nspjax {

int32_t CacheSet::share_prefix(int32_t cache, int32_t version, int64_t from,
                               std::span<const int32_t> rows, int64_t n_tokens) {
  const Lock lock(lane_.mutex);
  Cache& found = find_current(cache, version);
  const TileGeometry& geometry = found.geometry();
  const int64_t batch = geometry.shape().batch;
  if (const int64_t window = geometry.shape().window_tokens; window > 0) {
    fail(ErrorKind::kInvalidArgument, "share_prefix: the cache keeps the newest ", window,
         " tokens of a row and writes over older ones, which rows can then not share; make it ",
         "without window_tokens");
  }
  check_row("share_prefix from", found, from);
  Row& source = found.row(from);
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
  const int64_t tail_bytes = tail_tile_bytes(found.geometry(), from);
  TailTile rest;
  if (has_rest) {
    rest = new_tail_tile(found.geometry(), from);
    if (source.has_in_tail(n_tiles)) {
      std::memcpy(rest->data(), source.tail_tile(n_tiles), static_cast<size_t>(tail_bytes));
    } else {
      read_into_tail(found, from, n_tiles, rest->data());
    }
  }
  std::vector<TailTile> rests;  // before anything changes
  for (size_t i = 0; has_rest && i < rows.size(); ++i) {
    rests.push_back(new_tail_tile(found.geometry(), from));
    std::memcpy(rests.back()->data(), rest->data(), static_cast<size_t>(tail_bytes));
    lane_.counters().copied_bytes += tail_bytes;
  }
  if (!rows.empty()) source.share_tiles(n_tiles);
  // This may fail for want of room: then no row has tokens that its handle does not know of.
  std::vector<Cut> cuts;
  for (const int32_t row : rows) cuts.push_back({row, 0});
  cut_back(found, std::move(cuts));
  for (size_t i = 0; i < rows.size(); ++i) {
    Row& state = found.row(rows[i]);
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

}  // namespace nspjax
