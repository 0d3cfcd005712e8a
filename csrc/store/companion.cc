// The second store beside a store, over the same devices: it keeps X for rows of the first's
// caches. It has a queue and files of its own, so that X is read while the first store attends.
#include <algorithm>

#include "store/registry.h"
#include "store/store.h"

namespace nspjax {
StoreStats& operator+=(StoreStats& stats, const StoreStats& more) {
  for (const StoreStatsField& each : store_stats_fields()) {
    stats.*each.field += more.*each.field;
  }
  return stats;
}

int64_t set_aside_bytes(const StoreOptions& options) {
  if (!(options.x_share >= 0.0 && options.x_share <= kMostXShare)) {
    fail(ErrorKind::kInvalidArgument, "x_share is ", options.x_share, ": it must be 0 to ",
         kMostXShare, " of host_memory");
  }
  return static_cast<int64_t>(options.x_share * static_cast<double>(options.host_memory_bytes));
}

std::shared_ptr<Store> Store::companion() const {
  std::lock_guard lock(companion_mutex_);
  return companion_;
}

// With what is set aside for it at open. Else it gets half of what is free, and not more than the
// eighth that pinned tiles leave to later caches: the other half is for held tiles.
Store& Store::open_companion() {
  if (const auto opened = companion()) return *opened;
  if (options_.file_name == kCompanionFile) {
    fail(ErrorKind::kInvalidArgument, "an X-cache has no X-cache of its own");
  }
  StoreOptions options = options_;
  const int64_t lent = std::min((free_tail_bytes() - held_bytes_) / 2, budget_.later_tails_bytes());
  options.host_memory_bytes = options_.x_share > 0 ? set_aside_bytes(options_) : lent;
  options.x_share = 0;
  // Its caches are made one by one as they are asked for: the first would pin more than the others.
  options.pinned_bytes = 0;
  options.file_name = kCompanionFile;
  // X goes to the host, not to a card.
  for (std::string& spec : options.devices) {
    if (const auto directory = directory_of(spec)) spec = "file:" + *directory;
  }
  options.hardware = hardware_;
  auto opened = open_store(options);
  opened->verify_reads(verifies_);
  opened->record_events(trace_.on());
  if (options_.x_share == 0) lent_bytes_ = lent;
  std::lock_guard lock(companion_mutex_);
  companion_ = std::move(opened);
  return *companion_;
}

// X only goes to the host, so how it is cut into tiles changes no answer: into what fits.
int64_t Store::fitting_tile_tokens(const CacheShape& shape) const {
  RoomReport report = room_for(1, shape);
  while (!report.needs.fits_host && report.needs.tile_tokens > kSmallestTileTokens) {
    report = room_for(1, shape, report.needs.tile_tokens / 2);
  }
  return report.needs.tile_tokens;
}

Handle Store::x_cache(int32_t cache, int64_t n_heads, int64_t head_dim) {
  std::unique_lock lock(mutex_);
  const CacheShape& of = find(cache).geometry.shape();
  const CacheShape shape{of.batch, of.capacity_tokens, n_heads, head_dim, of.dtype, of.dtype};
  auto known = x_caches_.find(cache);
  if (known == x_caches_.end()) {
    try {
      Store& store = open_companion();
      const int32_t made = store.create_caches(1, shape, store.fitting_tile_tokens(shape))[0];
      known = x_caches_.emplace(cache, XCache{made, shape}).first;
    } catch (const Error& error) {
      fail(error.kind(), "for the X of cache ", cache, " of store ", id_,
           ", with what x_share or later caches have of its host_memory: ", error.what());
    }
  }
  if (const CacheShape& made = known->second.shape; made != shape) {
    fail(ErrorKind::kInvalidArgument, "x_cache of ", n_heads, " heads x ", head_dim, ": cache ",
         cache, " has one of ", made.n_kv_heads, " x ", made.head_dim, " already");
  }
  const int32_t id = known->second.id;
  lock.unlock();  // not while the companion is at work
  const auto store = companion();
  return {store->id(), id, store->version(id)};
}

void Store::drop_x_cache(int32_t cache) {
  const auto known = x_caches_.find(cache);
  if (known == x_caches_.end()) return;
  companion()->drop_cache(known->second.id);
  x_caches_.erase(known);
}

std::vector<TraceEvent> Store::trace_events() const {
  std::vector<TraceEvent> events = trace_.events();
  const auto x_store = companion();
  if (!x_store) return events;
  const auto n_own = std::ssize(events);
  for (TraceEvent event : x_store->trace_.events()) {
    if (event.cache >= 0) event.cache += kFirstXCache;
    events.push_back(event);
  }
  std::ranges::inplace_merge(events, events.begin() + n_own, {}, &TraceEvent::begin_ns);
  return events;
}

}  // namespace nspjax
