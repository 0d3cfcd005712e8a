#include "store/lane.h"

#include <algorithm>
#include <thread>

#include "device/profile.h"
#include "store/first_error.h"

namespace nspjax {
namespace {

// From this budget on a device's buffers can be as large as its drive likes best.
constexpr int64_t kWorthAProbe = 256 << 20;

// How large reads the drives like, where there is memory to do as they like.
int64_t block_bytes_for(const StoreOptions& store, std::span<const std::string> devices) {
  int64_t bytes = 0;
  for (const std::string& spec : devices) {
    const auto directory = directory_of(spec);
    const bool look = directory && store.host_memory_bytes >= kWorthAProbe;
    const DeviceProfile profile = look ? profile_of(*directory, store.io) : DeviceProfile{};
    bytes = std::max(bytes, profile.block_bytes);
  }
  return bytes;
}

}  // namespace

Lane::Lane(const StoreOptions& store, const LaneOptions& options, Trace& trace,
           std::vector<std::string>& warnings)
    : trace_(trace),
      kernels_(find_kernel(store.kernel)),
      checksums_(store.checksums),
      kv_over_link_(store.rate_limit.kv_over_link),
      verifies_(store.checksums),
      memory_(split_host_memory(options.host_memory_bytes, std::ssize(options.devices),
                                block_bytes_for(store, options.devices))),
      devices_(open_devices(options.devices, options.file_name, memory_, store.io, store.fault,
                            warnings)),
      hardware_(limit_rates(devices_, store.rate_limit, memory_.slots * memory_.slot_bytes,
                            options.hardware)),
      announced_(devices_.size(), memory_.slots) {
  for (int64_t d = 0; d < n_devices(); ++d) {
    devices_[static_cast<size_t>(d)]->record_in(trace_, static_cast<int32_t>(d));
  }
  const auto cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  workers_ = std::make_unique<ThreadPool>(store.threads ? store.threads : cores);
  drivers_ = std::make_unique<ThreadPool>(static_cast<int>(n_devices()) - 1);
}

std::vector<DeviceStats> Lane::device_stats() const {
  std::vector<DeviceStats> stats;
  for (const auto& device : devices_) stats.push_back(device->stats());
  return stats;
}

StoreStats Lane::stats() const {
  StoreStats total{};
  for (const DeviceStats& device : device_stats()) {
    for (const auto& [name, field] : device_counters()) total.*field += device.*field;
  }
  total.bytes_appended = counters_.bytes_appended;
  total.bytes_copied = counters_.copied_bytes;
  total.attend_ns = counters_.attend_ns;
  total.append_ns = counters_.append_ns;
  total.kv_bytes_stored = counters_.kv_bytes_stored;
  total.padding_bytes = counters_.padding_bytes;
  total.link_bytes =
      total.bytes_written +
      (kv_over_link_ ? total.bytes_read : counters_.query_bytes + counters_.fetched_bytes);
  total.staging_bytes = memory_.staging_bytes;
  total.tail_bytes = counters_.tail_bytes;
  total.pinned_bytes = counters_.pinned_bytes;
  total.sketch_bytes = counters_.sketch_bytes;
  total.host_bytes =
      total.staging_bytes + total.tail_bytes + total.sketch_bytes + total.pinned_bytes;
  total.sparse_heads = sparse_tally_.n_heads;
  total.sparse_tokens = sparse_tally_.n_tokens;
  total.sparse_tokens_read = sparse_tally_.n_tokens_read;
  total.left_out_ppb = sparse_tally_.left_out_ppb;
  total.most_left_out_ppb = sparse_tally_.most_left_out_ppb;
  return total;
}

Extent Lane::reserve(int64_t d, int64_t bytes) {
  return bytes > 0 ? devices_[static_cast<size_t>(d)]->reserve(bytes) : Extent{0, 0};
}

void Lane::release(int64_t d, const Extent& extent) {
  if (extent.bytes > 0) devices_[static_cast<size_t>(d)]->release(extent);
}

void Lane::on_all_devices(const std::function<void(Device&, int64_t)>& fn) {
  TaskGroup others(*drivers_);
  for (int64_t d = 1; d < n_devices(); ++d) {
    others.run([this, &fn, d] { fn(*devices_[static_cast<size_t>(d)], d); });
  }
  fn(*devices_.front(), 0);
  others.wait();
}

void Lane::close() {
  FirstError error;
  for (const auto& device : devices_) error.of([&] { device->close(); });
  counters_.kv_bytes_stored = 0;
  counters_.tail_bytes = 0;
  counters_.pinned_bytes = 0;
  counters_.sketch_bytes = 0;
  workers_.reset();
  drivers_.reset();
  error.rethrow();
}

}  // namespace nspjax
