// Opening, closing, counting. Caches are made in caches.cc, filled in append.cc and prefix.cc, and
// attended over in attend.cc.
#include "store/store.h"

#include <algorithm>
#include <array>
#include <limits>
#include <random>
#include <thread>

#include "device/profile.h"

namespace nspjax {
namespace {

// From this budget on a device's buffers can be as large as its drive likes best.
constexpr int64_t kWorthAProbe = 256 << 20;

// How large reads the drives like, where there is memory to do as they like.
int64_t block_bytes_for(const StoreOptions& options) {
  int64_t bytes = 0;
  for (const std::string& spec : options.devices) {
    const auto directory = directory_of(spec);
    const bool look = directory && options.host_memory_bytes >= kWorthAProbe;
    const DeviceProfile profile = look ? profile_of(*directory, options.io) : DeviceProfile{};
    bytes = std::max(bytes, profile.block_bytes);
  }
  return bytes;
}

WeightOptions weight_options(int32_t id, const StoreOptions& options) {
  WeightOptions weights{.store = id,
                        .directories = {},
                        .io = options.io,
                        .fault = options.fault,
                        .checksums = options.checksums};
  for (const std::string& spec : options.devices) {
    if (const auto directory = directory_of(spec)) weights.directories.push_back(*directory);
  }
  return weights;
}

// At random, so that a handle that came from another process is of no store of this one.
int32_t new_store_id() {
  return static_cast<int32_t>(std::random_device()() & std::numeric_limits<int32_t>::max());
}

}  // namespace

Store::Store(const StoreOptions& options)
    : id_(new_store_id()),
      options_(options),
      trace_(options.trace_events),
      checksums_(options.checksums),
      verifies_(options.checksums),
      most_pinned_bytes_(options.pinned_bytes),
      weights_(weight_options(id_, options), trace_),
      tickets_(id_) {
  if (options.devices.empty()) {
    fail(ErrorKind::kInvalidArgument, "a store needs a device: a directory, or memory:");
  }
  if (options.threads < 0) {
    fail(ErrorKind::kInvalidArgument, "threads is ", options.threads, ": 0 is one a core");
  }
  kernels_ = find_kernel(options.kernel);
  const auto n_devices = std::ssize(options.devices);
  budget_ = split_host_memory(options.host_memory_bytes - set_aside_bytes(options), n_devices,
                              block_bytes_for(options));
  devices_ = open_devices(options.devices, options.file_name, budget_, options.io, options.fault,
                          warnings_);
  hardware_ = limit_rates(devices_, options.rate_limit, budget_.slots * budget_.slot_bytes,
                          options.hardware);
  announced_ = AnnouncedReads(devices_.size(), budget_.slots);
  for (size_t d = 0; d < devices_.size(); ++d) {
    devices_[d]->record_in(trace_, static_cast<int32_t>(d));
  }
  const auto cores = std::max(1u, std::thread::hardware_concurrency());
  workers_ =
      std::make_unique<ThreadPool>(options.threads ? options.threads : static_cast<int>(cores));
  drivers_ = std::make_unique<ThreadPool>(static_cast<int>(n_devices) - 1);
}

Store::~Store() = default;

// ---- what it is and has
// --------------------------------------------------------------------------

std::vector<DeviceInfo> Store::devices() const {
  std::lock_guard lock(mutex_);
  check_open();
  std::vector<DeviceInfo> infos;
  for (const auto& device : devices_) infos.push_back(device->info());
  return infos;
}

std::vector<DeviceStats> Store::device_stats() const {
  std::vector<DeviceStats> stats;
  for (const auto& device : devices_) stats.push_back(device->stats());
  return stats;
}

std::span<const StoreStatsField> store_stats_fields() {
  static constexpr auto kOwn = std::to_array<StoreStatsField>({
      {"bytes_appended", &StoreStats::bytes_appended},
      {"padding_bytes", &StoreStats::padding_bytes},
      {"link_bytes", &StoreStats::link_bytes},
      {"attend_ns", &StoreStats::attend_ns},
      {"append_ns", &StoreStats::append_ns},
      {"kv_bytes_stored", &StoreStats::kv_bytes_stored},
      {"host_bytes", &StoreStats::host_bytes},
      {"staging_bytes", &StoreStats::staging_bytes},
      {"tail_bytes", &StoreStats::tail_bytes},
      {"pinned_bytes", &StoreStats::pinned_bytes},
      {"weight_bytes_read", &StoreStats::weight_bytes_read},
      {"weight_bytes_read_ahead", &StoreStats::weight_bytes_read_ahead},
      {"weight_bytes_stored", &StoreStats::weight_bytes_stored},
      {"weight_buffer_bytes", &StoreStats::weight_buffer_bytes},
  });
  static constexpr auto kOfDevices = device_counters();
  static_assert(sizeof(StoreStats) == (kOfDevices.size() + kOwn.size()) * sizeof(int64_t),
                "all of them");
  static const std::vector<StoreStatsField> fields = [] {
    std::vector<StoreStatsField> all;
    for (const auto& [name, field] : kOfDevices) all.push_back({name, field});
    all.insert(all.end(), kOwn.begin(), kOwn.end());
    return all;
  }();
  return fields;
}

StoreStats Store::stats() const {
  StoreStats total{};
  const WeightStats& weights = weights_.stats();
  total.weight_bytes_read = weights.bytes_read;
  total.weight_bytes_read_ahead = weights.bytes_read_ahead;
  total.weight_bytes_stored = weights.bytes_stored;
  total.weight_buffer_bytes = weights.buffer_bytes;
  for (const DeviceStats& device : device_stats()) {
    for (const auto& [name, field] : device_counters()) total.*field += device.*field;
  }
  total.bytes_appended = bytes_appended_;
  total.attend_ns = attend_ns_;
  total.append_ns = append_ns_;
  total.kv_bytes_stored = kv_bytes_stored_;
  total.padding_bytes = padding_bytes_;
  total.link_bytes =
      total.bytes_written +
      (options_.rate_limit.kv_over_link ? total.bytes_read : attend_link_bytes_ + fetched_bytes_);
  total.staging_bytes = budget_.staging_bytes;
  total.tail_bytes = tail_bytes_;
  total.pinned_bytes = pinned_bytes_;
  total.host_bytes =
      total.staging_bytes + total.tail_bytes + total.pinned_bytes + total.weight_buffer_bytes;
  if (const auto x_store = companion()) total += x_store->stats();
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

// ---- the end
// -------------------------------------------------------------------------------------

void Store::flush() {
  std::lock_guard lock(mutex_);
  check_open();
  drain();
  throw_write_error();
  for (auto& [id, cache] : caches_) {
    for (size_t row = 0; row < cache.rows.size(); ++row) {
      write_held(cache, static_cast<int64_t>(row), cache.rows[row].due_tiles);
    }
  }
  on_all_devices([&](int64_t d) { devices_[static_cast<size_t>(d)]->flush(); });
  if (const auto x_store = companion()) x_store->flush();
}

void Store::close() {
  if (!mutex_.is_of_this_process()) return;
  std::lock_guard lock(mutex_);
  if (closed_) return;
  closed_ = true;
  tickets_.close();
  executor_.stop();
  writes_.clear();
  caches_.clear();
  kv_bytes_stored_ = 0;
  tail_bytes_ = 0;
  pinned_bytes_ = 0;
  std::exception_ptr error;
  const auto try_to = [&](const auto& fn) {
    try {
      fn();
    } catch (...) {
      if (!error) error = std::current_exception();
    }
  };
  for (const auto& device : devices_) try_to([&] { device->close(); });
  try_to([&] { weights_.close(); });
  if (const auto x_store = companion()) try_to([&] { x_store->close(); });
  workers_.reset();
  drivers_.reset();
  if (error) std::rethrow_exception(error);
}

bool Store::closed() const {
  if (!mutex_.is_of_this_process()) return true;
  std::lock_guard lock(mutex_);
  return closed_;
}

void Store::check_usable() const {
  std::lock_guard lock(mutex_);
  check_open();
}

// ---- helpers
// -------------------------------------------------------------------------------------

void Store::check_open() const {
  if (closed_) fail(ErrorKind::kStoreClosed, "store ", id_, " is closed: open another");
}

const Cache& Store::find(int32_t id) const {
  check_open();
  const auto found = caches_.find(id);
  if (found == caches_.end()) {
    fail(ErrorKind::kStoreClosed, "store ", id_, " has no cache ", id,
         ": it was dropped, or the handle is of another store");
  }
  return found->second;
}

Cache& Store::find(int32_t id) { return const_cast<Cache&>(std::as_const(*this).find(id)); }

void Store::check_row(const char* what, const Cache& cache, int64_t row) {
  const int64_t batch = cache.geometry.shape().batch;
  if (row >= 0 && row < batch) return;
  fail(ErrorKind::kInvalidArgument, what, " row ", row, ": the cache has rows 0 to ", batch - 1);
}

Cache& Store::find_current(int32_t id, int32_t version) {
  Cache& cache = find(id);
  if (cache.version != version) {
    fail(ErrorKind::kStaleHandle, "this KV cache handle was used twice: cache ", id,
         " is at version ", cache.version, ", the handle is from version ", version,
         "; use the cache returned by the last call, and with_lengths to undo what it appended");
  }
  return cache;
}

void Store::drain() {
  executor_.drain();
  settle_writes();
}

void Store::on_all_devices(const std::function<void(int64_t)>& fn) {
  TaskGroup others(*drivers_);
  for (int64_t d = 1; d < std::ssize(devices_); ++d) others.run([&fn, d] { fn(d); });
  fn(0);
  others.wait();
}

}  // namespace nspjax
