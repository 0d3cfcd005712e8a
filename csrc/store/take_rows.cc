// Rows that go on from others: full tiles change hands, or are shared; of tails there are copies.
#include <algorithm>

#include "store/cache_set.h"
#include "store/shared_runs.h"
#include "store/window.h"

namespace nspjax {
namespace {

// How many new rows go on from each old one.
std::vector<int64_t> count_takers(const TakeRowsArgs& args) {
  std::vector<int64_t> takers(args.order.size());
  for (const int32_t from : args.order) ++takers[static_cast<size_t>(from)];
  return takers;
}

void check_order(const Cache& cache, const TakeRowsArgs& args) {
  const TileGeometry& geometry = cache.geometry();
  check_can_share("take_rows", geometry.shape());
  for (size_t i = 0; i < args.order.size(); ++i) {
    const int64_t from = args.order[i], row = static_cast<int64_t>(i);
    check_row("take_rows of", cache, from);
    if (from == row) continue;
    check_same_places("take_rows", geometry, from, "as", row);
    const int64_t length = args.length[static_cast<size_t>(from)];
    if (length < 0 || length > cache.row(from).length) {
      fail(ErrorKind::kInvalidArgument, "take_rows of row ", from, " with ", length,
           " tokens: it has ", cache.row(from).length,
           "; rows that keep X, by x-cache, cannot be taken");
    }
  }
}

}  // namespace

int32_t CacheSet::take_rows(int32_t cache, int32_t version, const ArgsFor<TakeRowsArgs>& args_for) {
  const Lock lock(lane_.mutex);
  Cache& found = find_current(cache, version);
  const TileGeometry& geometry = found.geometry();
  const TakeRowsArgs args = args_for(geometry.shape());
  check_order(found, args);
  const std::vector<int64_t> takers = count_takers(args);
  drain();
  bool shares_more = false;
  for (size_t from = 0; from < takers.size(); ++from) {
    if (takers[from] < 2) continue;
    const auto row = static_cast<int64_t>(from);
    const int64_t length = args.length[from];
    cut_back(found, {{row, length}});
    const int64_t n_full = length / geometry.tile_tokens();
    write_held(found, row, n_full);
    shares_more |= found.row(row).own_begin() < n_full;
  }
  std::vector<Row> next = taken_rows(found, args, takers);

  // from here on nothing fails
  uncount_rows(found);
  found.rows = std::move(next);
  if (shares_more) regroup_shared_runs(found.rows);
  for (int64_t row = 0; row < std::ssize(found.rows); ++row) {
    set_length(found, row, std::exchange(found.row(row).length, 0));
    count_tail(found, row);
  }
  return ++found.version;
}

// One of the rows that go on from another keeps the region that it writes to; the others get those
// of rows that nobody goes on from. A region has a place for every tile of a row, and as many rows
// as there are need no more than one place each for their tiles of one number. So there is room
// enough, without any more, as long as rows that are taken for each other are equally long.
std::vector<Row> CacheSet::taken_rows(Cache& cache, const TakeRowsArgs& args,
                                      const std::vector<int64_t>& takers) {
  const int64_t tile_tokens = cache.geometry().tile_tokens();
  std::vector<Row> next(args.order.size());
  std::vector<bool> is_kept(args.order.size());  // by old row: its region, by a new one
  std::vector<int64_t> without_region;
  TilesInUse in_use;
  for (size_t i = 0; i < next.size(); ++i) {
    const auto from = static_cast<size_t>(args.order[i]);
    const Row& old = cache.rows[from];
    Row& row = next[i];
    row = old;
    row.tail_bytes = row.held_bytes = 0;
    if (takers[from] > 1 && old.own_begin() < old.stored_tiles) {
      row.shared.push_back({old.own, old.stored_tiles});
    }
    in_use.add_shared(row, row.stored_tiles);
    if (!is_kept[from]) {
      is_kept[from] = true;
      in_use.add_own(*row.own);
      continue;
    }
    without_region.push_back(static_cast<int64_t>(i));
    row.written_tokens = row.stored_tiles * tile_tokens;
    for (TailTile& tile : row.tail) {  // one, at most
      tile = copy_of_tail(cache, static_cast<int64_t>(i), *tile);
    }
  }
  for (const int64_t i : without_region) {
    Row& row = next[static_cast<size_t>(i)];
    row.own = free_region(cache, i, row.stored_tiles, in_use);
    in_use.add_own(*row.own);
  }
  return next;
}

}  // namespace nspjax
