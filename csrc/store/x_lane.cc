#include "store/x_lane.h"

namespace nspjax {
namespace {

// X only goes to the host, so how it is cut into tiles changes no answer: into what fits.
int64_t fitting_tile_tokens(const CacheSet& caches, const CacheShape& shape) {
  RoomReport report = caches.room_for(1, shape, 0);
  while (!report.needs.fits_host && report.needs.tile_tokens > kSmallestTileTokens) {
    report = caches.room_for(1, shape, report.needs.tile_tokens / 2);
  }
  return report.needs.tile_tokens;
}

}  // namespace

XLane::XLane(int32_t store, const StoreOptions& options, CacheSet& kv, Trace& trace,
             Tickets& tickets)
    : store_(store), options_(options), kv_(kv), trace_(trace), tickets_(tickets) {}

CacheSet* XLane::opened() const {
  const Lock lock(mutex_);
  return opened_.get();
}

// With what is set aside for it when the store is opened, else with what the other lane lends.
CacheSet& XLane::open() {
  if (CacheSet* caches = opened()) return *caches;
  LaneOptions lane{.devices = options_.devices,
                   .file_name = kXFile,
                   .first_cache = kFirstXCache,
                   .host_memory_bytes = set_aside_bytes(options_),
                   // caches are made one by one as they are asked for: the first would pin more
                   .pinned_bytes = 0,
                   .hardware = kv_.lane().hardware()};
  // X goes to the host, not to a card
  for (std::string& spec : lane.devices) {
    if (const auto directory = directory_of(spec)) spec = "file:" + *directory;
  }
  const bool lends = options_.x_share == 0;
  if (lends) lane.host_memory_bytes = kv_.lend();
  try {
    std::vector<std::string> warnings;  // the other lane's are the same
    auto made = std::make_unique<CacheSet>(store_, options_, lane, trace_, tickets_, warnings);
    made->verify_reads(kv_.lane().verifies());
    const Lock lock(mutex_);
    opened_ = std::move(made);
    return *opened_;
  } catch (...) {
    if (lends) kv_.take_back_lent();
    throw;
  }
}

const XLane::Known& XLane::find_or_make(int32_t cache, int64_t n_heads, int64_t head_dim) {
  if (cache >= kFirstXCache) {
    fail(ErrorKind::kInvalidArgument, "an X-cache has no X-cache of its own");
  }
  const CacheShape of = kv_.shape(cache);
  if (of.window_tokens > 0) {
    fail(ErrorKind::kInvalidArgument, "x_cache: cache ", cache, " keeps the newest ",
         of.window_tokens, " tokens of a row, and X is kept of all; make it without window_tokens");
  }
  const CacheShape shape{of.batch, of.capacity_tokens, n_heads, head_dim, of.dtype, of.dtype};
  auto known = known_.find(cache);
  if (known == known_.end()) {
    try {
      CacheSet& caches = open();
      const int32_t made = caches.create_caches(1, shape, fitting_tile_tokens(caches, shape))[0];
      known = known_.emplace(cache, Known{made, shape}).first;
    } catch (const Error& error) {
      fail(error.kind(), "for the X of cache ", cache, " of store ", store_,
           ", with what x_share or later caches have of its host_memory: ", error.what());
    }
  }
  if (const CacheShape& made = known->second.shape; made != shape) {
    fail(ErrorKind::kInvalidArgument, "x_cache of ", n_heads, " heads x ", head_dim, ": cache ",
         cache, " has one of ", made.n_kv_heads, " x ", made.head_dim, " already");
  }
  return known->second;
}

std::pair<int32_t, int32_t> XLane::cache_of(int32_t cache, int64_t n_heads, int64_t head_dim) {
  const int32_t id = [&] {
    const Lock lock(making_);
    return find_or_make(cache, n_heads, head_dim).id;
  }();
  // not while others wait to make one: X may be at work
  return {id, opened()->version(id)};
}

void XLane::drop_both(int32_t cache) {
  const Lock lock(making_);
  kv_.version(cache);  // it is there
  if (const auto known = known_.find(cache); known != known_.end()) {
    opened()->drop_cache(known->second.id);
    known_.erase(known);
  }
  kv_.drop_cache(cache);
}

void XLane::close() {
  const Lock lock(making_);
  if (CacheSet* caches = opened()) caches->close();
}

}  // namespace nspjax
