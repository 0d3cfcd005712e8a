// A store: caches (the K and V of one layer for some rows) spread over devices.
//
// One mutex serialises what changes a cache. Devices are used by one thread at a time: by the
// executor's, for what was queued, or by that of a call which has the mutex and has waited until
// nothing is queued. Their work runs on the attention workers and, with several devices, on one
// driver thread for each.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "attention/kernel.h"
#include "base/process.h"
#include "base/trace.h"
#include "device/device.h"
#include "device/rate_limited.h"
#include "format/pack.h"
#include "format/plan.h"
#include "store/announced.h"
#include "store/attend_job.h"
#include "store/cache.h"
#include "store/executor.h"
#include "store/handle.h"
#include "store/tickets.h"
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
  std::string fault;   // for tests, see io/fault.h
  double x_share = 0;  // of host memory, for the companion; 0: half of what is free is lent to it
  // Of a companion, see Store::x_cache.
  std::string file_name = "nspjax.kv";
  SimulatedHardware hardware = {};
};

inline constexpr double kMostXShare = 0.9;
inline constexpr const char* kCompanionFile = "nspjax.x.kv";
// In the trace the companion's caches have numbers from here on.
inline constexpr int32_t kFirstXCache = 1 << 20;
// Of host memory for the companion, from the beginning. Throws InvalidArgument.
int64_t set_aside_bytes(const StoreOptions& options);

// K and V of batch row b's new tokens go to cache row rows[b] from position start[b] on.
struct AppendArgs {
  const std::byte* k;  // [B, T, n_kv_heads, head_dim] in the cache's dtype
  const std::byte* v;
  int64_t n_tokens;  // T
  std::span<const int32_t> rows;
  std::span<const int32_t> start;
  std::span<const int32_t> n_new;  // at most T; 0 leaves the row alone
  // Tiles that are full stay in host memory until writeback(), as far as there is room: up to
  // kMostHeldTokens of a row and a tile.
  bool hold = false;
};
inline constexpr int64_t kMostHeldTokens = 1024;

struct PrefetchArgs {
  std::span<const int32_t> rows;
  std::span<const int32_t> length;  // tokens that will be attended over; 0: none of this row
  int64_t most_bytes;               // 0: all that there is room for
};

// Tokens [begin, begin + n_tokens) of the rows, as far as they are before length[b]; 0 beyond.
struct FetchArgs {
  std::span<const int32_t> rows;
  std::span<const int32_t> length;  // 0 leaves the row alone
  int64_t begin;
  int64_t n_tokens;
  bool read_ahead;  // then of the cache that followed last time; else of what is announced
  std::byte* k;     // [B, n_tokens, n_kv_heads, head_dim] in the cache's dtype
  std::byte* v;
};

// Makes a call's arguments when its cache is found, under the call's lock, and may refuse: for a
// caller whose arrays must fit the cache's shape.
template <typename Args>
using ArgsFor = std::function<Args(const CacheShape&)>;
// Arguments that are there already.
template <typename Args>
ArgsFor<Args> made(const Args& args) {
  return [&args](const CacheShape&) { return args; };
}

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

struct StoreStats : DeviceStats {  // of all devices
  int64_t bytes_appended;
  int64_t padding_bytes;  // of what was written to devices: fills tiles to pages
  // What crosses the link between host and devices, where there is one: queries, results, what is
  // written and what is fetched; with kv_over_link what is read and written.
  int64_t link_bytes;
  int64_t attend_ns;
  int64_t append_ns;
  int64_t kv_bytes_stored;  // of the caches that there are
  int64_t weight_bytes_read, weight_bytes_read_ahead, weight_bytes_stored;  // see WeightStats
  int64_t host_bytes;                                                       // the four below
  int64_t staging_bytes, tail_bytes, pinned_bytes, weight_buffer_bytes;
};

// Every counter and its name.
struct StoreStatsField {
  const char* name;
  int64_t StoreStats::* field;
};
std::span<const StoreStatsField> store_stats_fields();

StoreStats& operator+=(StoreStats& stats, const StoreStats& more);

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
  // With the companion's.
  StoreStats stats() const;
  // The newest events, the companion's among them, in order of begin_ns.
  std::vector<TraceEvent> trace_events() const;
  // Whether checksums of what is read are compared; for measuring what that costs.
  void verify_reads(bool verify) {
    verifies_ = verify;
    weights_.verify_reads(verify);
    if (const auto x_store = companion()) x_store->verify_reads(verify);
  }
  // The same for events.
  void record_events(bool record) {
    trace_.record(record);
    if (const auto x_store = companion()) x_store->record_events(record);
  }
  std::vector<DeviceStats> device_stats() const;  // without the companion's

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
  // While jobs are queued, append queues its writes behind them if host memory has room for the
  // tiles.
  // What a queued write met since the last such call is thrown first, by append, writeback or
  // flush: its tiles are in host memory still, and are written by the next write of their row, or
  // flush.
  int32_t append(int32_t cache, int32_t version, const ArgsFor<AppendArgs>& args_for);
  int32_t append(int32_t cache, int32_t version, const AppendArgs& args) {
    return append(cache, version, made(args));
  }
  void attend(int32_t cache, int32_t version, const ArgsFor<AttendArgs>& args_for);
  void attend(int32_t cache, int32_t version, const AttendArgs& args) {
    attend(cache, version, made(args));
  }
  // The same in two calls: over the rows as they are now, whatever is appended meanwhile. args.out
  // and args.lse are not used.
  int32_t attend_start(int32_t cache, int32_t version, const ArgsFor<AttendArgs>& args_for);
  int32_t attend_start(int32_t cache, int32_t version, const AttendArgs& args) {
    return attend_start(cache, version, made(args));
  }
  // Once for each ticket. Throws what the attention met.
  AttendResult attend_wait(int32_t ticket);
  // Devices may begin to read what an attention over these rows will need, in the order of the
  // calls; it is passed to them by attentions without read_ahead. A hint: any version will do.
  void prefetch(int32_t cache, const PrefetchArgs& args);
  // Queues the write of every row that has interval_tokens or more which were not written: its full
  // tiles and, where an interval is less than a tile, what there is of the tile that is not full,
  // which is never read. exclusive: nothing queued later begins before all is on the medium.
  void writeback(int32_t cache, int32_t version, int64_t interval_tokens, bool exclusive);
  // Tokens [begin, end) of a row as [end - begin, n_kv_heads, head_dim].
  void read(int32_t cache, int64_t row, int64_t begin, int64_t end, std::byte* k, std::byte* v);
  // Tokens of several rows for the host to attend over. Those after them that `length`
  // tells are read meanwhile.
  void fetch(int32_t cache, int32_t version, const ArgsFor<FetchArgs>& args_for);
  void fetch(int32_t cache, int32_t version, const FetchArgs& args) {
    fetch(cache, version, made(args));
  }
  // The cache that keeps X for rows of this one, as long as it lives: half of X is its K, half its
  // V, n_heads x head_dim each, as appended. It is in the companion, a second store on the same
  // devices. Made on first use with this one's batch, capacity and dtype; by then of one shape.
  Handle x_cache(int32_t cache, int64_t n_heads, int64_t head_dim);
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
  // Waits for the operation in progress. Everything later throws StoreClosed. Does nothing in a
  // fork's child, where everything else throws StoreClosed.
  void close();
  bool closed() const;
  // Throws StoreClosed where nothing can be done with it, here.
  void check_usable() const;

 private:
  // All below need mutex_.
  void check_open() const;
  Cache& find(int32_t id);
  const Cache& find(int32_t id) const;
  Cache& find_current(int32_t id, int32_t version);
  int64_t free_tail_bytes() const;
  int64_t fitting_tile_tokens(const CacheShape& shape) const;
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
  static bool fills_tiles(const Cache& cache, const AppendArgs& args);
  bool has_room_to_hold(const Cache& cache, const AppendArgs& args) const;
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
  // After drain(): the tail's tiles before `end` become stored ones.
  void write_held(Cache& cache, int64_t row, int64_t end);
  // Counts what a row has in its tail.
  void count_tail(Cache& cache, int64_t row);
  static void copy_tail(const Cache& cache, int64_t row, int64_t begin, int64_t end,
                        const TokenRun<std::byte>& into);
  // Calls fn(tile, data) for the full tiles of a span on a device, from any worker.
  void visit_tiles(const Cache& cache, const TileSpan& span, int64_t device,
                   const std::function<void(int64_t, const std::byte*)>& fn);
  void read_into_tail(const Cache& cache, int64_t row, int64_t tile, std::byte* tail);
  std::shared_ptr<Region> free_region(Cache& cache, int64_t row);
  void drop_shared_tiles(Cache& cache, int64_t row, int64_t n_tiles);
  void set_length(Cache& cache, int64_t row, int64_t length);

  static void check_attend(const Cache& cache, const AttendArgs& args);
  std::shared_ptr<AttendJob> queue_attend(int32_t cache, int32_t version,
                                          const ArgsFor<AttendArgs>& args_for, bool outstanding);
  std::vector<std::vector<TileRange>> next_reads(Cache& cache, int32_t id, const AttendArgs& args);
  static void check_prefetch(const Cache& cache, const PrefetchArgs& args);

  // Until nothing is queued: then this thread may use the devices, as long as it has the mutex.
  void drain();
  void queue_writeback(Cache& cache, std::vector<Writeback::Tiles> tiles, bool exclusive);
  // Takes note of the queued writes that are done.
  void settle_writes();
  void settle(const Writeback& write);
  void throw_write_error();

  // Jobs, which have no mutex.
  void run_attend(AttendJob& job);
  void attend_now(AttendJob& job);
  void announce(const Announced& announced);
  void run_writeback(const TileGeometry& geometry, Writeback& write, bool exclusive);

  // Waits for a job; throws what it met.
  void finish(AttendJob& job);

  // Full tiles of several rows, and for each run of them the batch rows that want it.
  struct Chunk {
    std::vector<TileSpan> spans;
    std::vector<std::vector<size_t>> readers;  // [span]
  };
  static void check_fetch(const Cache& cache, const FetchArgs& args);
  static Chunk chunk_of(const Cache& cache, const FetchArgs& args, int64_t begin);
  std::vector<std::vector<TileRange>> next_fetch(Cache& cache, int32_t id, const FetchArgs& args);

  struct XCache {
    int32_t id;  // in the companion
    CacheShape shape;
  };
  std::shared_ptr<Store> companion() const;  // needs no lock
  Store& open_companion();
  void drop_x_cache(int32_t cache);

  // Runs fn(device number) for all devices at once.
  void on_all_devices(const std::function<void(int64_t)>& fn);

  const int32_t id_;
  const StoreOptions options_;
  Trace trace_;
  HostBudget budget_;
  bool checksums_;  // are made
  std::atomic<bool> verifies_;
  int64_t most_pinned_bytes_;
  KernelSet kernels_;
  std::vector<std::string> warnings_;

  mutable ProcessMutex mutex_;
  bool closed_ = false;
  int32_t next_cache_ = 0;
  std::map<int32_t, Cache> caches_;
  int64_t reserved_tail_bytes_ = 0;
  int64_t reserved_pinned_bytes_ = 0;
  int64_t reserved_weight_bytes_ = 0;
  int64_t lent_bytes_ = 0;  // of the budget, to the companion
  std::map<int32_t, XCache> x_caches_;
  int32_t last_attended_ = -1;
  int64_t held_bytes_ = 0;                         // of tails, beyond one tile a row
  std::deque<std::shared_ptr<Writeback>> writes_;  // queued, and not known to be done
  std::exception_ptr write_error_;

  std::atomic<int64_t> bytes_appended_ = 0;
  std::atomic<int64_t> attend_ns_ = 0;
  std::atomic<int64_t> append_ns_ = 0;
  std::atomic<int64_t> kv_bytes_stored_ = 0;
  std::atomic<int64_t> tail_bytes_ = 0;
  std::atomic<int64_t> pinned_bytes_ = 0;
  std::atomic<int64_t> padding_bytes_ = 0;
  std::atomic<int64_t> attend_link_bytes_ = 0;  // queries and results
  std::atomic<int64_t> fetched_bytes_ = 0;

  Weights weights_;
  mutable ProcessMutex companion_mutex_;
  std::shared_ptr<Store> companion_;

  SimulatedHardware hardware_;
  std::vector<std::unique_ptr<Device>> devices_;
  std::unique_ptr<ThreadPool> workers_;  // attention
  std::unique_ptr<ThreadPool> drivers_;  // one for each device but the first

  AnnouncedReads announced_;
  Tickets tickets_;
  Executor executor_;  // last: its jobs use the rest
};

}  // namespace nspjax
