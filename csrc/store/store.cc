// Opening, room, caches. Appending is in append.cc, attention in attend.cc.
#include "store/store.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <thread>

namespace nspjax {
namespace {

int32_t next_store_id() {
  static std::atomic<int32_t> next = 1;
  return next++;
}

void check_shape(int64_t n_layers, const CacheShape& shape, int64_t tile_tokens) {
  const auto check = [](const char* name, int64_t value, int64_t most) {
    if (value < 1 || value > most) {
      fail(ErrorKind::kInvalidArgument, name, " is ", value, ": it must be 1 to ", most);
    }
  };
  check("n_layers", n_layers, 1 << 16);
  check("batch", shape.batch, 1 << 20);
  check("capacity_tokens", shape.capacity_tokens, 1 << 30);
  check("n_kv_heads", shape.n_kv_heads, 1 << 12);
  check("head_dim", shape.head_dim, 1 << 12);
  const double bytes = static_cast<double>(n_layers * shape.batch) *
                       static_cast<double>(shape.capacity_tokens * shape.token_bytes());
  if (bytes > 0x1p60) {
    fail(ErrorKind::kInvalidArgument, "KV caches of ", bytes, " bytes cannot be addressed");
  }
  if (tile_tokens < 0 || tile_tokens > kLargestTileTokens ||
      (tile_tokens > 0 && !std::has_single_bit(static_cast<uint64_t>(tile_tokens)))) {
    fail(ErrorKind::kInvalidArgument, "tile_tokens is ", tile_tokens,
         ": it must be a power of two up to ", kLargestTileTokens, ", or 0 to choose");
  }
}

}  // namespace

Store::Store(const StoreOptions& options) : id_(next_store_id()) {
  if (options.devices.empty()) {
    fail(ErrorKind::kInvalidArgument, "a store needs a device: a directory, or memory:");
  }
  if (options.threads < 0) {
    fail(ErrorKind::kInvalidArgument, "threads is ", options.threads, ": 0 is one a core");
  }
  kernels_ = find_kernel(options.kernel);
  const auto n_devices = std::ssize(options.devices);
  budget_ = split_host_memory(options.host_memory_bytes, n_devices);
  for (const std::string& spec : options.devices) {
    devices_.push_back(open_device(spec, budget_, options.io, options.fault, warnings_));
  }
  const auto cores = std::max(1u, std::thread::hardware_concurrency());
  workers_ =
      std::make_unique<ThreadPool>(options.threads ? options.threads : static_cast<int>(cores));
  drivers_ = std::make_unique<ThreadPool>(static_cast<int>(n_devices) - 1);
}

Store::~Store() = default;

// ---- what it is and has
// ---------------------------------------------------------------------------

std::vector<DeviceInfo> Store::devices() const {
  std::lock_guard lock(mutex_);
  check_open();
  std::vector<DeviceInfo> infos;
  for (const auto& device : devices_) infos.push_back(device->info());
  return infos;
}

std::vector<const DeviceStats*> Store::device_stats() const {
  std::vector<const DeviceStats*> stats;
  for (const auto& device : devices_) stats.push_back(&device->stats());
  return stats;
}

StoreStats Store::stats() const {
  StoreStats total{};
  for (const DeviceStats* device : device_stats()) {
    total.bytes_read += device->bytes_read;
    total.bytes_written += device->bytes_written;
    total.n_reads += device->n_reads;
    total.n_writes += device->n_writes;
    total.read_ns += device->read_ns;
    total.write_ns += device->write_ns;
  }
  total.bytes_appended = bytes_appended_;
  total.attend_ns = attend_ns_;
  total.append_ns = append_ns_;
  total.kv_bytes_stored = kv_bytes_stored_;
  total.host_bytes = budget_.staging_bytes + tail_bytes_;
  return total;
}

CacheShape Store::shape(int32_t cache) const {
  std::lock_guard lock(mutex_);
  return find(cache).geometry.shape();
}

int32_t Store::version(int32_t cache) const {
  std::lock_guard lock(mutex_);
  return find(cache).version;
}

int64_t Store::tile_tokens(int32_t cache) const {
  std::lock_guard lock(mutex_);
  return find(cache).geometry.tile_tokens();
}

std::vector<int64_t> Store::lengths(int32_t cache) const {
  std::lock_guard lock(mutex_);
  std::vector<int64_t> lengths;
  for (const Row& row : find(cache).rows) lengths.push_back(row.length);
  return lengths;
}

// ---- room
// -----------------------------------------------------------------------------------------

CacheNeeds Store::plan(int64_t n_layers, const CacheShape& shape, int64_t tile_tokens) const {
  return plan_caches(shape, n_layers, std::ssize(devices_), budget_,
                     budget_.tail_bytes - reserved_tail_bytes_, tile_tokens);
}

RoomReport Store::room(int64_t n_layers, const CacheShape& shape, int64_t tile_tokens) const {
  RoomReport report{plan(n_layers, shape, tile_tokens), {}, 0};
  for (const auto& device : devices_) report.available_bytes.push_back(device->available_bytes());
  const auto fits = [&](const CacheNeeds& needs) {
    return needs.fits_host &&
           std::ranges::equal(needs.device_bytes, report.available_bytes, std::less_equal());
  };
  if (fits(report.needs)) {
    report.rows_that_fit = shape.batch;
    return report;
  }
  int64_t fit = 0, too_many = shape.batch;
  while (too_many - fit > 1) {
    CacheShape fewer = shape;
    fewer.batch = (fit + too_many) / 2;
    (fits(plan(n_layers, fewer, tile_tokens)) ? fit : too_many) = fewer.batch;
  }
  report.rows_that_fit = fit;
  return report;
}

RoomReport Store::room_for(int64_t n_layers, const CacheShape& shape, int64_t tile_tokens) const {
  check_shape(n_layers, shape, tile_tokens);
  std::lock_guard lock(mutex_);
  check_open();
  return room(n_layers, shape, tile_tokens);
}

std::vector<int32_t> Store::create_caches(int64_t n_layers, const CacheShape& shape,
                                          int64_t tile_tokens) {
  check_shape(n_layers, shape, tile_tokens);
  std::lock_guard lock(mutex_);
  check_open();
  const RoomReport report = room(n_layers, shape, tile_tokens);
  const auto what = concat("KV caches of ", n_layers, " layers x ", shape.batch, " rows x ",
                           shape.capacity_tokens, " tokens");
  const auto fitting = concat("; ", report.rows_that_fit, " of the ", shape.batch, " rows fit");
  if (!report.needs.fits_host) {
    fail(ErrorKind::kStoreFull, what, " need ", bytes_text(report.needs.tail_bytes),
         " of host memory for their newest tokens and staging buffers of a whole tile: give ",
         "host_memory of at least ", report.needs.smallest_host_memory_bytes, " bytes (",
         bytes_text(report.needs.smallest_host_memory_bytes), "), or fewer rows", fitting);
  }
  for (size_t d = 0; d < devices_.size(); ++d) {
    if (report.needs.device_bytes[d] <= report.available_bytes[d]) continue;
    fail(ErrorKind::kStoreFull, what, " need ", report.needs.device_bytes[d], " bytes (",
         bytes_text(report.needs.device_bytes[d]), ") on ", devices_[d]->info().spec,
         ", which has ", report.available_bytes[d], " (", bytes_text(report.available_bytes[d]),
         ") free", fitting);
  }

  std::vector<int32_t> ids;
  try {
    for (int64_t layer = 0; layer < n_layers; ++layer) {
      TileGeometry geometry(shape, std::ssize(devices_), report.needs.tile_tokens,
                            budget_.slot_bytes);
      const auto n_rows = static_cast<size_t>(shape.batch);
      const int32_t id = next_cache_++;
      Cache& cache = caches_.emplace(id, Cache{std::move(geometry), {}, std::vector<Row>(n_rows)})
                         .first->second;
      ids.push_back(id);
      cache.tail_bytes = report.needs.tail_bytes / n_layers;
      reserved_tail_bytes_ += cache.tail_bytes;
      for (size_t d = 0; d < devices_.size(); ++d) {
        const int64_t bytes = cache.geometry.device_bytes(static_cast<int64_t>(d));
        cache.extents.push_back(bytes > 0 ? devices_[d]->reserve(bytes) : Extent{0, 0});
      }
    }
  } catch (...) {
    for (int32_t id : ids) {
      release(caches_.at(id));
      caches_.erase(id);
    }
    throw;
  }
  return ids;
}

void Store::release(Cache& cache) {
  reserved_tail_bytes_ -= cache.tail_bytes;
  for (Row& row : cache.rows) {
    tail_bytes_ -= row.tail.size_bytes();
    kv_bytes_stored_ -= row.length * cache.geometry.shape().token_bytes();
  }
  for (size_t d = 0; d < cache.extents.size(); ++d) {
    if (cache.extents[d].bytes > 0) devices_[d]->release(cache.extents[d]);
  }
}

void Store::drop_cache(int32_t cache) {
  std::lock_guard lock(mutex_);
  release(find(cache));
  caches_.erase(cache);
}

// ---- the end
// --------------------------------------------------------------------------------------

void Store::flush() {
  std::lock_guard lock(mutex_);
  check_open();
  on_all_devices([&](int64_t d) { devices_[static_cast<size_t>(d)]->flush(); });
}

void Store::close() {
  std::lock_guard lock(mutex_);
  if (closed_) return;
  closed_ = true;
  caches_.clear();
  kv_bytes_stored_ = 0;
  tail_bytes_ = 0;
  std::exception_ptr error;
  for (const auto& device : devices_) {
    try {
      device->close();
    } catch (...) {
      if (!error) error = std::current_exception();
    }
  }
  workers_.reset();
  drivers_.reset();
  if (error) std::rethrow_exception(error);
}

bool Store::closed() const {
  std::lock_guard lock(mutex_);
  return closed_;
}

// ---- helpers
// --------------------------------------------------------------------------------------

void Store::check_open() const {
  if (closed_) fail(ErrorKind::kStoreClosed, "store ", id_, " is closed: open another");
}

const Store::Cache& Store::find(int32_t id) const {
  check_open();
  const auto found = caches_.find(id);
  if (found == caches_.end()) {
    fail(ErrorKind::kStoreClosed, "store ", id_, " has no cache ", id,
         ": it was dropped, or the handle is of another store");
  }
  return found->second;
}

Store::Cache& Store::find(int32_t id) { return const_cast<Cache&>(std::as_const(*this).find(id)); }

Store::Cache& Store::find_current(int32_t id, int32_t version) {
  Cache& cache = find(id);
  if (cache.version != version) {
    fail(ErrorKind::kStaleHandle, "this KV cache handle was used twice: cache ", id,
         " is at version ", cache.version, ", the handle is from version ", version,
         "; use the cache returned by the last call");
  }
  return cache;
}

void Store::on_all_devices(const std::function<void(int64_t)>& fn) {
  TaskGroup others(*drivers_);
  for (int64_t d = 1; d < std::ssize(devices_); ++d) others.run([&fn, d] { fn(d); });
  fn(0);
  others.wait();
}

}  // namespace nspjax
