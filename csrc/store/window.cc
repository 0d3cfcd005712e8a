#include "store/window.h"

#include <algorithm>
#include <string>

#include "store/cache_set.h"

namespace nspjax {

void check_window(const char* what, const CacheShape& shape, int64_t window) {
  if (window < 0) {
    fail(ErrorKind::kInvalidArgument, what, " with window ", window,
         ": it may not be negative, 0 is none");
  }
  if (shape.window_tokens == 0 || (window > 0 && window <= shape.window_tokens)) return;
  fail(ErrorKind::kInvalidArgument, what, " with ",
       window > 0 ? concat("a window of ", window, " tokens") : std::string("no window"),
       ": the cache keeps the newest ", shape.window_tokens,
       " tokens of a row, which is the widest ",
       "window there may be; make it with more window_tokens, or without");
}

void check_can_share(const char* what, const CacheShape& shape) {
  if (shape.window_tokens == 0) return;
  fail(ErrorKind::kInvalidArgument, what, ": the cache keeps the newest ", shape.window_tokens,
       " tokens of a row and writes over older ones, which rows can then not share; make it ",
       "without window_tokens");
}

void check_kept(const char* what, const Cache& cache, int64_t row, int64_t begin) {
  const int64_t kept = cache.row(row).begin;
  if (begin >= kept) return;
  fail(ErrorKind::kInvalidArgument, what, " row ", row, " from token ", begin,
       " on: the cache keeps the newest ", cache.geometry().shape().window_tokens,
       " tokens of a row, and of this one has those from ", kept, " on");
}

bool has_window(const Cache& cache, int64_t row, int64_t length) {
  const int64_t begin = cache.row(row).begin;
  return begin == 0 || length == 0 || length >= begin + cache.geometry().shape().window_tokens;
}

void check_cut(const char* what, const Cache& cache, int64_t row, int64_t length) {
  const Row& state = cache.row(row);
  const int64_t window = cache.geometry().shape().window_tokens;
  if (length == state.length || has_window(cache, row, length)) return;
  fail(ErrorKind::kInvalidArgument, what, " row ", row, " to ", length,
       " tokens: the cache keeps the newest ", window,
       " tokens of a row, and this one's before token ", state.begin,
       " are dropped: cut it back to ", state.begin + window,
       " tokens at the least, or start it over with 0");
}

std::vector<int64_t> CacheSet::begins(int32_t cache) const {
  const Lock lock(lane_.mutex);
  std::vector<int64_t> begins;
  for (const Row& row : find(cache).rows) begins.push_back(row.begin);
  return begins;
}

bool CacheSet::can_truncate(int32_t cache, std::span<const int32_t> lengths) const {
  const Lock lock(lane_.mutex);
  const Cache& found = find(cache);
  for (size_t row = 0; row < std::min(lengths.size(), found.rows.size()); ++row) {
    if (!has_window(found, static_cast<int64_t>(row), lengths[row])) return false;
  }
  return true;
}

void CacheSet::make_room(Cache& cache, int64_t row, int64_t end) {
  const TileGeometry& geometry = cache.geometry();
  const int64_t begin = (end - geometry.room_tiles()) * geometry.tile_tokens();
  const Row& state = cache.row(row);
  if (begin > state.begin) set_extent(cache, row, begin, state.length);
}

}  // namespace nspjax
