// Rows that have the first tokens of another row: full tiles are shared, the rest is copied.
#include <algorithm>
#include <cstring>
#include <set>

#include "store/cache_set.h"
#include "store/window.h"

namespace nspjax {

TailTile CacheSet::copy_of_tail(const Cache& cache, int64_t row, const AlignedBuffer& tail) {
  const int64_t bytes = tail_tile_bytes(cache.geometry(), row);
  const TailTile copy = new_tail_tile(cache.geometry(), row);
  std::memcpy(copy->data(), tail.data(), static_cast<size_t>(bytes));
  lane_.counters().copied_bytes += bytes;
  return copy;
}

int32_t CacheSet::share_prefix(int32_t cache, int32_t version, int64_t from,
                               std::span<const int32_t> rows, int64_t n_tokens) {
  const Lock lock(lane_.mutex);
  Cache& found = find_current(cache, version);
  const TileGeometry& geometry = found.geometry();
  const int64_t batch = geometry.shape().batch;
  check_can_share("share_prefix", geometry.shape());
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
    check_same_places("share_prefix", geometry, from, "with", row);
  }

  drain();
  const int64_t n_tiles = n_tokens / geometry.tile_tokens();
  write_held(found, from, n_tiles);
  const bool has_rest = n_tokens % geometry.tile_tokens() != 0;
  TailTile rest;
  if (has_rest) {
    rest = new_tail_tile(found.geometry(), from);
    if (source.has_in_tail(n_tiles)) {
      std::memcpy(rest->data(), source.tail_tile(n_tiles),
                  static_cast<size_t>(tail_tile_bytes(geometry, from)));
    } else {
      read_into_tail(found, from, n_tiles, rest->data());
    }
  }
  std::vector<TailTile> rests;  // before anything changes
  for (size_t i = 0; has_rest && i < rows.size(); ++i) {
    rests.push_back(copy_of_tail(found, from, *rest));
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
