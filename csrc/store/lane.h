// What runs: a lane's devices, in one file each, the threads that work for them, and the queue of
// what is to be done. A store has a lane for K and V and one for X, which run beside each other.
//
// One thread at a time has access to the devices: the executor's, for the job that it runs, or that
// of a call which has the lane's mutex and has drained the queue. clang checks both.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "attention/kernel.h"
#include "base/process.h"
#include "base/thread_safety.h"
#include "base/trace.h"
#include "device/attend_call.h"
#include "device/device.h"
#include "device/rate_limited.h"
#include "format/region.h"
#include "store/announced.h"
#include "store/executor.h"
#include "store/options.h"
#include "store/stats.h"

namespace nspjax {

// Stands for the right to use the devices; there is nothing to lock.
class CAPABILITY("role") DeviceAccess {};

// Tiles [begin, end) that a region gets: of more than it has room for, the last.
struct NewTiles {
  Region& region;
  int64_t begin;
  int64_t end;
  // Makes a device's part of a tile; called once each, by any thread.
  std::function<void(int64_t device, int64_t tile, std::byte* to)> pack;
  // Tiles from here on, of which there may be one, are not full: nobody reads them.
  int64_t full_end = end;
};

// Full tiles that are read by the host.
struct TilesToRead {
  std::span<const TileSpan> spans;
  const DeviceReads& next;    // what devices may read after them
  bool verify;                // compare checksums, where there are any
  bool crosses_link = false;  // counts as fetched
  // Tile `tile` of spans[span]; called by any worker, for each device and tile once.
  std::function<void(int64_t device, size_t span, int64_t tile, const std::byte* data)> visit;
};

struct LaneCounters {
  std::atomic<int64_t> bytes_appended = 0;
  std::atomic<int64_t> copied_bytes = 0;  // of tails, into other rows'
  std::atomic<int64_t> padding_bytes = 0;
  std::atomic<int64_t> query_bytes = 0;  // over the link: queries and results
  std::atomic<int64_t> fetched_bytes = 0;
  std::atomic<int64_t> attend_ns = 0;
  std::atomic<int64_t> append_ns = 0;
  std::atomic<int64_t> kv_bytes_stored = 0;
  std::atomic<int64_t> tail_bytes = 0;
  std::atomic<int64_t> pinned_bytes = 0;
  std::atomic<int64_t> sketch_bytes = 0;  // promised
};

class Lane {
 public:
  // Throws StorePath, StoreBusy, StoreDamaged, InvalidArgument.
  Lane(const StoreOptions& store, const LaneOptions& options, Trace& trace,
       std::vector<std::string>& warnings);
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // Serialises the calls that use or change the lane's caches.
  mutable ProcessMutex mutex;
  DeviceAccess device_access;

  Trace& trace() const { return trace_; }
  LaneCounters& counters() { return counters_; }
  SparseTally& sparse_tally() { return sparse_tally_; }
  StoreStats stats() const;
  std::vector<DeviceStats> device_stats() const;
  const HostBudget& memory() const { return memory_; }
  const KernelSet& kernels() const { return kernels_; }
  const SimulatedHardware& hardware() const { return hardware_; }
  ThreadPool& workers() { return *workers_; }
  bool verifies() const { return checksums_ && verifies_; }
  void verify_reads(bool verify) { verifies_ = verify; }
  bool has_checksums() const { return checksums_; }

  // ---- the queue; see Executor
  int64_t post(std::function<void()> job) { return executor_.post(std::move(job)); }
  void wait_for(int64_t job) { executor_.wait_for(job); }
  int64_t n_done() const { return executor_.n_done(); }
  bool idle() const { return executor_.idle(); }
  // Until nothing is queued.
  void drain() REQUIRES(mutex) ASSERT_CAPABILITY(device_access) { executor_.drain(); }
  // Said by a job, which is the only one that runs.
  void has_device_access() const ASSERT_CAPABILITY(device_access) {}
  // Waits for the job that is running and drops those that come after it.
  void stop() { executor_.stop(); }

  // ---- devices
  int64_t n_devices() const { return std::ssize(devices_); }
  const Device& device(int64_t d) const { return *devices_[static_cast<size_t>(d)]; }
  Extent reserve(int64_t d, int64_t bytes) REQUIRES(device_access);
  void release(int64_t d, const Extent& extent) REQUIRES(device_access);
  AnnouncedReads& announced() REQUIRES(device_access) { return announced_; }
  // Runs fn(device, its number) for all devices at once.
  void on_all_devices(const std::function<void(Device&, int64_t)>& fn) REQUIRES(device_access);
  // Of a cache's page runs: tiles of K and V, and what the other runs derive from them. The first
  // tiles of a region go to host memory, the others to the devices.
  void store_tiles(std::span<const TileGeometry> runs, std::span<const NewTiles> tiles)
      REQUIRES(device_access);
  void read_tiles(const TileGeometry& geometry, const TilesToRead& tiles) REQUIRES(device_access);
  // After stop(). Throws what a device met, once all are closed.
  void close();

 private:
  void store_run(const TileGeometry& geometry, std::span<const NewTiles> tiles)
      REQUIRES(device_access);

  Trace& trace_;
  const KernelSet kernels_;
  const bool checksums_;  // are made
  const bool kv_over_link_;
  std::atomic<bool> verifies_;
  HostBudget memory_;
  LaneCounters counters_;
  SparseTally sparse_tally_;
  std::vector<std::unique_ptr<Device>> devices_;
  SimulatedHardware hardware_;
  std::unique_ptr<ThreadPool> workers_;  // attention
  std::unique_ptr<ThreadPool> drivers_;  // one for each device but the first
  AnnouncedReads announced_ GUARDED_BY(device_access);
  Executor executor_;  // last: its jobs use the rest
};

}  // namespace nspjax
