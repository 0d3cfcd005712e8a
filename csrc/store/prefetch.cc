// What is read next, as calls guess it and as somebody says it.
#include <algorithm>
#include <set>

#include "store/cache_set.h"
#include "store/read_ahead.h"

namespace nspjax {
namespace {

void check_prefetch(const Cache& cache, const PrefetchArgs& args) {
  if (args.most_bytes < 0) {
    fail(ErrorKind::kInvalidArgument, "prefetch of at most ", args.most_bytes,
         " bytes: give 0 for all that there is room for, or more");
  }
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] < 0) {
      fail(ErrorKind::kInvalidArgument, "prefetch of ", args.length[b], " tokens (batch row ", b,
           ")");
    }
    if (args.length[b] > 0) check_row("prefetch of", cache, args.rows[b]);
  }
}

// The runs that were seen: rows share some.
using Seen = std::set<std::pair<const Region*, int64_t>>;

// The first token that an attention over `length` tokens of a row can see.
int64_t first_seen(const RowTiles& row, int64_t length, int64_t window_tokens) {
  return std::max(row.begin, window_tokens > 0 ? length - window_tokens : 0);
}

// A device that has nothing to do begins at once.
void announce(Lane& lane, const Announced& announced) {
  lane.has_device_access();
  lane.announced().add(announced);
  const DeviceReads reads = lane.announced().reads();
  try {
    lane.on_all_devices(
        [&](Device& device, int64_t d) { device.read_ahead(reads[static_cast<size_t>(d)]); });
  } catch (const std::exception&) {
    // Nobody waits for it. What cannot be read is asked for again by an attention, which says so.
  }
}

}  // namespace

void CacheSet::note_attended(const Cache& cache) {
  if (const auto last = caches_.find(last_attended_); last != caches_.end()) {
    last->second.attended_next = cache.id();
  }
  last_attended_ = cache.id();
}

// What the next call that reads all of a cache will probably read first: that of the cache which
// followed last time, for the same rows, as far as they are stored now. Calls that read a part in
// between leave it as it is: what they read next is not known.
DeviceReads CacheSet::next_reads(Cache& cache, const AttendArgs& args) {
  if (args.sparsity.is_dense()) note_attended(cache);
  ReadList list(lane_, lane_.memory().slots);
  const auto last = caches_.find(last_attended_);
  const auto next =
      last == caches_.end() ? caches_.end() : caches_.find(last->second.attended_next);
  if (next == caches_.end()) return list.take();
  const TileGeometry& geometry = next->second.geometry();
  Seen seen;
  for (size_t b = 0; b < args.rows.size() && !list.full(); ++b) {
    if (args.length[b] == 0 || args.rows[b] >= geometry.shape().batch) continue;
    const Row& row = next->second.row(args.rows[b]);
    const int64_t from = first_seen(row, row.length, args.window);
    const int64_t stored = row.stored_tiles * geometry.tile_tokens();
    for (const TileSpan& span : row.spans(geometry.tile_tokens(), from, stored)) {
      if (seen.insert({span.region, span.begin}).second) list.add(geometry, span, row.stored_tiles);
    }
  }
  return list.take();
}

void CacheSet::prefetch(int32_t cache, const PrefetchArgs& args) {
  TraceScope scope(lane_.trace(), {.cache = cache, .kind = TraceKind::kPrefetch});
  const Lock lock(lane_.mutex);
  const Cache& found = find(cache);
  check_prefetch(found, args);
  const TileGeometry& geometry = found.geometry();
  const int64_t tile_tokens = geometry.tile_tokens();
  // devices have equal shares, which the first read that does not fit ends
  const int64_t share =
      args.most_bytes > 0 ? args.most_bytes / lane_.n_devices() : ReadList::kNoLimit;
  ReadList list(lane_, ReadList::kNoLimit, share);
  std::vector<int32_t> rows;
  int64_t most_tokens = 0;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] > 0) rows.push_back(args.rows[b]);
    most_tokens = std::max<int64_t>(most_tokens, args.length[b]);
  }
  // in the order in which they are asked for: row by row, or chunk by chunk
  const int64_t chunk = found.fetched_tokens > 0 ? found.fetched_tokens : most_tokens;
  const int64_t window = geometry.shape().window_tokens;
  Seen seen;
  for (int64_t begin = 0; begin < most_tokens && !list.full(); begin += chunk) {
    for (size_t b = 0; b < args.rows.size(); ++b) {
      if (args.length[b] <= begin) continue;
      const Row& row = found.row(args.rows[b]);
      const int64_t stored = row.stored_tiles * tile_tokens;
      const int64_t end = std::min({int64_t{args.length[b]}, begin + chunk, stored});
      const int64_t from = std::max(begin, first_seen(row, args.length[b], window));
      if (from >= end) continue;
      for (const TileSpan& span : row.spans(tile_tokens, from, end)) {
        if (!seen.insert({span.region, span.begin}).second) continue;
        list.add(geometry, span, row.stored_tiles);
      }
    }
  }
  scope.event().bytes = list.bytes();
  lane_.post([this, announced = Announced{cache, std::move(rows), list.take()}] {
    announce(lane_, announced);
  });
}

}  // namespace nspjax
