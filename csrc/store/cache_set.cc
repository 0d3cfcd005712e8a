// Opening, closing, and finding caches. They are made in caches.cc, filled in append.cc and
// prefix.cc, and attended over in attend.cc.
#include "store/cache_set.h"

#include "store/first_error.h"

namespace nspjax {

CacheSet::CacheSet(int32_t store, const StoreOptions& options, const LaneOptions& of_lane,
                   Trace& trace, Tickets& tickets, std::vector<std::string>& warnings)
    : store_(store),
      lane_(options, of_lane, trace, warnings),
      tickets_(tickets),
      next_cache_(of_lane.first_cache),
      budget_(lane_.memory(), of_lane.pinned_bytes) {}

std::vector<DeviceInfo> CacheSet::devices() const {
  const Lock lock(lane_.mutex);
  check_open();
  std::vector<DeviceInfo> infos;
  for (int64_t d = 0; d < lane_.n_devices(); ++d) infos.push_back(lane_.device(d).info());
  return infos;
}

CacheShape CacheSet::shape(int32_t cache) const {
  const Lock lock(lane_.mutex);
  return find(cache).geometry().shape();
}

int32_t CacheSet::version(int32_t cache) const {
  const Lock lock(lane_.mutex);
  return find(cache).version;
}

int64_t CacheSet::tile_tokens(int32_t cache) const {
  const Lock lock(lane_.mutex);
  return find(cache).geometry().tile_tokens();
}

std::vector<int64_t> CacheSet::lengths(int32_t cache) const {
  const Lock lock(lane_.mutex);
  std::vector<int64_t> lengths;
  for (const Row& row : find(cache).rows) lengths.push_back(row.length);
  return lengths;
}

void CacheSet::give_buffers_to(Weights& weights) {
  const Lock lock(lane_.mutex);
  check_open();
  if (!weights.needs_buffers()) return;
  const int64_t n_buffers = budget_.weight_buffers();
  weights.open(n_buffers, lane_.memory().slot_bytes);
  budget_.promise_weights(n_buffers);
}

int64_t CacheSet::lend() {
  const Lock lock(lane_.mutex);
  return budget_.lend();
}

void CacheSet::take_back_lent() {
  const Lock lock(lane_.mutex);
  budget_.take_back_lent();
}

void CacheSet::flush() {
  const Lock lock(lane_.mutex);
  check_open();
  drain();
  writes_.throw_error();
  for (auto& [id, cache] : caches_) {
    for (int64_t row = 0; row < std::ssize(cache.rows); ++row) {
      write_held(cache, row, cache.row(row).due_tiles);
    }
  }
  lane_.on_all_devices([](Device& device, int64_t) { device.flush(); });
}

void CacheSet::close() {
  const Lock lock(lane_.mutex);
  if (closed_) return;
  closed_ = true;
  lane_.stop();
  writes_.clear();
  caches_.clear();
  lane_.close();
}

bool CacheSet::closed() const {
  if (!lane_.mutex.is_of_this_process()) return true;
  const Lock lock(lane_.mutex);
  return closed_;
}

void CacheSet::check_usable() const {
  const Lock lock(lane_.mutex);
  check_open();
}

void CacheSet::check_open() const {
  if (closed_) fail(ErrorKind::kStoreClosed, "store ", store_, " is closed: open another");
}

const Cache& CacheSet::find(int32_t id) const {
  check_open();
  const auto found = caches_.find(id);
  if (found == caches_.end()) {
    fail(ErrorKind::kStoreClosed, "store ", store_, " has no cache ", id,
         ": it was dropped, or the handle is of another store");
  }
  return found->second;
}

Cache& CacheSet::find(int32_t id) {
  const CacheSet* self = this;
  return const_cast<Cache&>(self->find(id));
}

Cache& CacheSet::find_current(int32_t id, int32_t version) {
  Cache& cache = find(id);
  if (cache.version != version) {
    fail(ErrorKind::kStaleHandle, "this KV cache handle was used twice: cache ", id,
         " is at version ", cache.version, ", the handle is from version ", version,
         "; use the cache returned by the last call, and with_lengths to undo what it appended");
  }
  return cache;
}

void CacheSet::drain() {
  lane_.drain();
  settle_writes();
}

void check_row(const char* what, const Cache& cache, int64_t row) {
  const int64_t batch = cache.geometry().shape().batch;
  if (row >= 0 && row < batch) return;
  fail(ErrorKind::kInvalidArgument, what, " row ", row, ": the cache has rows 0 to ", batch - 1);
}

void check_same_places(const char* what, const TileGeometry& geometry, int64_t from, const char* as,
                       int64_t row) {
  if (geometry.same_places(from, row)) return;
  fail(ErrorKind::kInvalidArgument, what, " of row ", from, " ", as, " row ", row, ": with ",
       geometry.shape().n_kv_heads, " KV heads on ", geometry.n_devices(),
       " devices their heads lie on different devices; use rows that differ by a multiple of ",
       geometry.n_devices());
}

}  // namespace nspjax
