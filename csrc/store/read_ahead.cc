// What devices are asked to read before it is attended over: guessed, or announced.
#include <algorithm>
#include <limits>
#include <set>

#include "device/read_plan.h"
#include "store/store.h"

namespace nspjax {

// What the next call will probably read first: that of the cache which followed this one last time,
// for the same rows, as far as they are stored now.
std::vector<std::vector<TileRange>> Store::next_reads(Cache& cache, int32_t id,
                                                      const AttendArgs& args) {
  if (const auto last = caches_.find(last_attended_); last != caches_.end()) {
    last->second.attended_next = id;
  }
  last_attended_ = id;
  std::vector<std::vector<TileRange>> reads(devices_.size());
  const auto next = caches_.find(cache.attended_next);
  if (next == caches_.end()) return reads;
  const TileGeometry& geometry = next->second.geometry;
  std::set<std::pair<const Region*, int64_t>> seen;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] == 0 || args.rows[b] >= geometry.shape().batch) continue;
    const Row& row = next->second.rows[static_cast<size_t>(args.rows[b])];
    const int64_t stored = row.stored_tiles;
    const int64_t from = args.window > 0 ? std::max<int64_t>(0, row.length - args.window) : 0;
    for (const TileSpan& span :
         tile_spans(next->second, row, from, stored * geometry.tile_tokens())) {
      if (!seen.insert({span.region, span.begin}).second) continue;
      for (size_t d = 0; d < devices_.size(); ++d) {
        for (const TileRead& read :
             plan_reads(geometry, span, stored, static_cast<int64_t>(d), budget_.slot_bytes)) {
          if (std::ssize(reads[d]) < budget_.slots) reads[d].push_back(read.range);
        }
      }
    }
  }
  return reads;
}

void Store::prefetch(int32_t cache, const PrefetchArgs& args) {
  TraceScope scope(trace_, {.cache = cache, .kind = TraceKind::kPrefetch});
  std::lock_guard lock(mutex_);
  const Cache& found = find(cache);
  check_prefetch(found, args);
  const TileGeometry& geometry = found.geometry;
  Announced announced{cache, {}, std::vector<std::vector<TileRange>>(devices_.size())};
  // devices have equal shares, which the first read that does not fit ends
  constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();
  const int64_t share = args.most_bytes > 0 ? args.most_bytes / std::ssize(devices_) : kNoLimit;
  std::vector<int64_t> left(devices_.size(), share);
  std::set<std::pair<const Region*, int64_t>> seen;
  int64_t most_tokens = 0;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] > 0) announced.rows.push_back(args.rows[b]);
    most_tokens = std::max<int64_t>(most_tokens, args.length[b]);
  }
  // in the order in which they are asked for: row by row, or chunk by chunk
  const int64_t chunk = found.fetched_tokens > 0 ? found.fetched_tokens : most_tokens;
  for (int64_t begin = 0; begin < most_tokens; begin += chunk) {
    for (size_t b = 0; b < args.rows.size(); ++b) {
      if (args.length[b] <= begin) continue;
      const Row& row = found.rows[static_cast<size_t>(args.rows[b])];
      const int64_t stored = row.stored_tiles * geometry.tile_tokens();
      const int64_t end = std::min({int64_t{args.length[b]}, begin + chunk, stored});
      if (begin >= end) continue;
      for (const TileSpan& span : tile_spans(found, row, begin, end)) {
        if (!seen.insert({span.region, span.begin}).second) continue;
        for (size_t d = 0; d < devices_.size(); ++d) {
          for (const TileRead& read : plan_reads(geometry, span, row.stored_tiles,
                                                 static_cast<int64_t>(d), budget_.slot_bytes)) {
            if (read.range.bytes > left[d]) {
              left[d] = 0;
              break;
            }
            left[d] -= read.range.bytes;
            announced.ranges[d].push_back(read.range);
            scope.event().bytes += read.range.bytes;
          }
        }
      }
    }
  }
  executor_.post([this, announced = std::move(announced)] { announce(announced); });
}

// A device that has nothing to do begins at once.
void Store::announce(const Announced& announced) {
  announced_.add(announced);
  const auto reads = announced_.reads();
  try {
    on_all_devices([&](int64_t d) {
      const auto device = static_cast<size_t>(d);
      devices_[device]->read_ahead(reads[device]);
    });
  } catch (const std::exception&) {
    // Nobody waits for it. What cannot be read is asked for again by an attention, which says so.
  }
}

void Store::check_prefetch(const Cache& cache, const PrefetchArgs& args) {
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

}  // namespace nspjax
