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
#include "base/trace.h"
#include "device/device.h"
#include "device/rate_limited.h"
#include "layout/plan.h"
#include "layout/region.h"
#include "weights/weights.h"

namespace nspjax {

struct StoreOptions {
  std::vector<std::string> devices;
  int64_t host_memory_bytes = 0;
  int threads = 0;  // 0: one a core
  std::string io = "auto";
  std::string kernel = "auto";
  bool checksums = true;           // verify what is read from devices
  int64_t pinned_bytes = -1;       // of host memory at most, for pinned tiles; -1: what is left
  int64_t trace_events = 1 << 16;  // the newest kept; 0: none
  StoreRateLimit rate_limit = {};
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

// How the full tiles of a cache look outside of it: [tile, KV head, head_bytes], however many
// devices it is on.
struct TileLayout {
  CacheShape shape;
  int64_t tile_tokens;
  int64_t head_bytes;    // K and V of one head in one tile
  uint32_t fingerprint;  // of the order inside: the checksum of a tile of known tokens
};

struct StoreStats {
  int64_t bytes_read, bytes_written, n_reads, n_writes, read_ns, write_ns;  // all devices
  int64_t bytes_read_ahead, bytes_read_in_vain, n_write_retries;            // see DeviceStats
  int64_t bytes_appended;
  int64_t padding_bytes;  // of what was written to devices: fills tiles to pages
  int64_t attend_ns;
  int64_t append_ns;
  int64_t kv_bytes_stored;  // of the caches that there are
  int64_t weight_bytes_read, weight_bytes_read_ahead, weight_bytes_stored;  // see WeightStats
  int64_t host_bytes;                                                       // the four below
  int64_t staging_bytes, tail_bytes, pinned_bytes, weight_buffer_bytes;
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
  const Trace& trace() const { return trace_; }
  // Whether checksums of what is read are compared; for measuring what that costs.
  void verify_reads(bool verify) {
    verifies_ = verify;
    weights_.verify_reads(verify);
  }
  // The same for events.
  void record_events(bool record) { trace_.record(record); }
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
  TileLayout tile_layout(int32_t cache) const;
  // Full tiles [begin, end) of a row as TileLayout has them, their checksums verified.
  std::vector<uint8_t> export_tiles(int32_t cache, int32_t version, int64_t row, int64_t begin,
                                    int64_t end);
  // Such tiles become the row's from tile `begin` on, where it must end; 0 empties it first, also
  // of its tail. The version stays, so that what fails half-way leaves the other rows' handle good:
  // the append of the rest makes the next one.
  void import_tiles(int32_t cache, int32_t version, int64_t row, int64_t begin,
                    std::span<const std::byte> tiles);
  // The first n_tokens of `from` become the first tokens of `rows`, whatever those had. Full tiles
  // are shared, not copied, and one scan serves all rows that share them.
  int32_t share_prefix(int32_t cache, int32_t version, int64_t from, std::span<const int32_t> rows,
                       int64_t n_tokens);
  // Sets every row to n_tokens pseudo-random tokens.
  int32_t fill_synthetic(int32_t cache, int64_t n_tokens);

  // A weight beside the caches. The first one takes buffers out of the host-memory budget.
  // Throws StoreFull.
  int32_t put_weight(std::span<const std::byte> data);
  Weights& weights() { return weights_; }

  void flush();
  // Waits for the operation in progress. Everything later throws StoreClosed.
  void close();
  bool closed() const;

 private:
  struct Row {
    int64_t length = 0;
    // Full tiles that other rows may have too: in token order, before those of `own`.
    struct Shared {
      std::shared_ptr<const Region> region;
      int64_t end;  // its last tile + 1
    };
    std::vector<Shared> shared;
    std::shared_ptr<Region> own;
    // Tiles of all devices side by side: the tokens that do not fill a tile. Kept once allocated.
    AlignedBuffer tail;

    int64_t own_begin() const { return shared.empty() ? 0 : shared.back().end; }
    // Makes the first n_tiles end a run of shared tiles.
    void share_tiles(int64_t n_tiles);
  };
  struct Cache {
    TileGeometry geometry;
    std::vector<Extent> extents;  // [device]
    std::vector<Row> rows;
    std::vector<std::shared_ptr<Region>> regions;   // one that is only here is free
    std::vector<std::vector<Extent>> more_extents;  // of regions beyond one a row
    MappedRegion pinned;
    int32_t version = 0;
    int64_t tail_bytes = 0;      // when every row has one
    int64_t pinned_bytes = 0;    // when all are full
    int32_t attended_next = -1;  // the cache that was attended over after this one
  };

  // All below need mutex_.
  void check_open() const;
  Cache& find(int32_t id);
  const Cache& find(int32_t id) const;
  Cache& find_current(int32_t id, int32_t version);
  int64_t free_tail_bytes() const;
  CacheNeeds plan(int64_t n_layers, const CacheShape& shape, int64_t tile_tokens) const;
  RoomReport room(int64_t n_layers, const CacheShape& shape, int64_t tile_tokens) const;
  void make_regions(Cache& cache, int64_t pinned_tiles);
  int64_t pinned_tiles_for(const TileGeometry& geometry, int64_t n_layers,
                           int64_t tail_bytes) const;
  void release(Cache& cache);

  // what: "read of", for the error.
  static void check_row(const char* what, const Cache& cache, int64_t row);
  static void check_append(const Cache& cache, const AppendArgs& args);
  void append_unlocked(Cache& cache, const AppendArgs& args);
  void cut_back(Cache& cache, int64_t row, int64_t length);
  // Tiles [begin, end) that a region gets.
  struct NewTiles {
    Region& region;
    int64_t begin;
    int64_t end;
    // Makes a device's part of a tile; called once each, by any thread.
    std::function<void(int64_t device, int64_t tile, std::byte* to)> pack;
  };
  void store_tiles(const TileGeometry& geometry, std::span<const NewTiles> tiles);
  void write_full_tiles(Cache& cache, const AppendArgs& args);
  void allocate_tail(Cache& cache, int64_t row);
  // Calls fn(tile, data) for the full tiles of a span on a device.
  void visit_tiles(const Cache& cache, const TileSpan& span, int64_t device,
                   const std::function<void(int64_t, const std::byte*)>& fn);
  void read_into_tail(const Cache& cache, int64_t row, int64_t tile, std::byte* tail);
  std::shared_ptr<Region> free_region(Cache& cache, int64_t row);
  void drop_shared_tiles(Cache& cache, int64_t row, int64_t n_tiles);
  void set_length(Cache& cache, int64_t row, int64_t length);

  static void check_attend(const Cache& cache, const AttendArgs& args);
  static std::vector<TileSpan> tile_spans(const Cache& cache, const Row& row, int64_t token_begin,
                                          int64_t token_end);
  std::vector<std::vector<TileRange>> next_reads(Cache& cache, int32_t id, const AttendArgs& args);

  // Runs fn(device number) for all devices at once.
  void on_all_devices(const std::function<void(int64_t)>& fn);

  const int32_t id_;
  Trace trace_;
  HostBudget budget_;
  bool checksums_;  // are made
  std::atomic<bool> verifies_;
  int64_t most_pinned_bytes_;
  KernelSet kernels_;
  std::vector<std::string> warnings_;

  mutable std::mutex mutex_;
  bool closed_ = false;
  int32_t next_cache_ = 0;
  std::map<int32_t, Cache> caches_;
  int64_t reserved_tail_bytes_ = 0;
  int64_t reserved_pinned_bytes_ = 0;
  int64_t reserved_weight_bytes_ = 0;
  int32_t last_attended_ = -1;

  std::atomic<int64_t> bytes_appended_ = 0;
  std::atomic<int64_t> attend_ns_ = 0;
  std::atomic<int64_t> append_ns_ = 0;
  std::atomic<int64_t> kv_bytes_stored_ = 0;
  std::atomic<int64_t> tail_bytes_ = 0;
  std::atomic<int64_t> pinned_bytes_ = 0;
  std::atomic<int64_t> padding_bytes_ = 0;

  Weights weights_;
  std::vector<std::unique_ptr<Device>> devices_;
  std::unique_ptr<ThreadPool> workers_;  // attention
  std::unique_ptr<ThreadPool> drivers_;  // one for each device but the first
};

}  // namespace nspjax
