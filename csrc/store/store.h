// A store: caches (the K and V of one layer for some rows) spread over devices.
//
// One mutex serialises all operations; what one operation does runs on the attention workers and,
// with several devices, on one driver thread for each.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "attention/kernel.h"
#include "device/device.h"
#include "layout/plan.h"

namespace nspjax {

struct StoreOptions {
  std::vector<std::string> devices;
  int64_t host_memory_bytes = 0;
  int threads = 0;  // 0: one a core
  std::string io = "auto";
  std::string kernel = "auto";
  std::string fault;  // for tests, see io/fault.h
};

struct Handle {
  int32_t store;
  int32_t cache;
  int32_t version;
};

// K and V of batch row b's new tokens go to cache row rows[b] from position start[b] on.
struct AppendArgs {
  const std::byte* k;  // [B, T, n_kv_heads, head_dim] in the cache's dtype
  const std::byte* v;
  int64_t n_tokens;  // T
  std::span<const int32_t> rows;
  std::span<const int32_t> start;
  std::span<const int32_t> n_new;  // at most T; 0 leaves the row alone
};

// Query t of batch row b stands at position[b] + t and sees stored token j iff j < length[b],
// j <= position[b] + t and, with a window, j > position[b] + t - window.
struct AttendArgs {
  const void* q;  // [B, T, n_q_heads, head_dim]
  DType q_dtype;
  int64_t n_tokens;
  int64_t n_q_heads;
  std::span<const int32_t> rows;
  std::span<const int32_t> position;
  std::span<const int32_t> length;
  float scale;
  int64_t window;  // 0: none
  float softcap;   // 0: none
  float* out;      // [B, T, n_q_heads, head_dim]; 0 for a query that sees nothing
  float* lse;      // [B, T, n_q_heads]; -inf for such a query
};

struct RoomReport {
  CacheNeeds needs;
  std::vector<int64_t> available_bytes;  // [device]
  int64_t rows_that_fit;
};

struct StoreStats {
  int64_t bytes_read, bytes_written, n_reads, n_writes, read_ns, write_ns;  // all devices
  int64_t bytes_appended;
  int64_t attend_ns;
  int64_t append_ns;
  int64_t kv_bytes_stored;  // of the caches that there are
  int64_t host_bytes;       // staging buffers and tails
};

class Store {
 public:
  // Throws StorePath, StoreBusy, StoreDamaged, InvalidArgument.
  explicit Store(const StoreOptions& options);
  ~Store();
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  int32_t id() const { return id_; }
  const std::vector<std::string>& warnings() const { return warnings_; }
  std::vector<DeviceInfo> devices() const;
  StoreStats stats() const;
  std::vector<const DeviceStats*> device_stats() const;

  // All or nothing. tile_tokens: 0 chooses.
  std::vector<int32_t> create_caches(int64_t n_layers, const CacheShape& shape,
                                     int64_t tile_tokens = 0);
  RoomReport room_for(int64_t n_layers, const CacheShape& shape, int64_t tile_tokens = 0) const;
  void drop_cache(int32_t cache);
  CacheShape shape(int32_t cache) const;
  int32_t version(int32_t cache) const;
  int64_t tile_tokens(int32_t cache) const;
  std::vector<int64_t> lengths(int32_t cache) const;

  // Each checks everything before it changes anything. If writing then fails, the cache keeps its
  // version; rows that were to be cut back (start < length) are cut back, the others unchanged.
  int32_t append(int32_t cache, int32_t version, const AppendArgs& args);
  void attend(int32_t cache, int32_t version, const AttendArgs& args);
  // Tokens [begin, end) of a row as [end - begin, n_kv_heads, head_dim].
  void read(int32_t cache, int64_t row, int64_t begin, int64_t end, std::byte* k, std::byte* v);
  // Sets every row to n_tokens pseudo-random tokens.
  int32_t fill_synthetic(int32_t cache, int64_t n_tokens);

  void flush();
  // Waits for the operation in progress. Everything later throws StoreClosed.
  void close();
  bool closed() const;

 private:
  struct Row {
    int64_t length = 0;
    // Tiles of all devices side by side: the tokens that do not fill a tile. Kept once allocated.
    AlignedBuffer tail;
  };
  struct Cache {
    TileGeometry geometry;
    std::vector<Extent> extents;  // [device]
    std::vector<Row> rows;
    int32_t version = 0;
    int64_t tail_bytes = 0;  // when every row has one
  };

  // All below need mutex_.
  void check_open() const;
  Cache& find(int32_t id);
  const Cache& find(int32_t id) const;
  Cache& find_current(int32_t id, int32_t version);
  CacheNeeds plan(int64_t n_layers, const CacheShape& shape, int64_t tile_tokens) const;
  RoomReport room(int64_t n_layers, const CacheShape& shape, int64_t tile_tokens) const;
  void release(Cache& cache);

  static void check_append(const Cache& cache, const AppendArgs& args);
  void append_unlocked(Cache& cache, const AppendArgs& args);
  void cut_back(Cache& cache, int64_t row, int64_t length);
  void write_full_tiles(const Cache& cache, const AppendArgs& args);
  void allocate_tail(Cache& cache, int64_t row);
  void read_tile(const Cache& cache, int64_t row, int64_t tile, std::byte* into);
  void set_length(Cache& cache, int64_t row, int64_t length);

  static void check_attend(const Cache& cache, const AttendArgs& args);

  // Runs fn(device number) for all devices at once.
  void on_all_devices(const std::function<void(int64_t)>& fn);

  const int32_t id_;
  HostBudget budget_;
  KernelSet kernels_;
  std::vector<std::string> warnings_;

  mutable std::mutex mutex_;
  bool closed_ = false;
  int32_t next_cache_ = 0;
  std::map<int32_t, Cache> caches_;
  int64_t reserved_tail_bytes_ = 0;

  std::atomic<int64_t> bytes_appended_ = 0;
  std::atomic<int64_t> attend_ns_ = 0;
  std::atomic<int64_t> append_ns_ = 0;
  std::atomic<int64_t> kv_bytes_stored_ = 0;
  std::atomic<int64_t> tail_bytes_ = 0;

  std::vector<std::unique_ptr<Device>> devices_;
  std::unique_ptr<ThreadPool> workers_;  // attention
  std::unique_ptr<ThreadPool> drivers_;  // one for each device but the first
};

}  // namespace nspjax
