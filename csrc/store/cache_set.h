// The caches in one lane, and what is done to them and with them: most of a store.
//
// The lane's mutex serialises what changes a cache. A job takes none: it holds views of what it
// works on, and what came of a write is noted by the next call.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "store/arguments.h"
#include "store/attend_job.h"
#include "store/budget.h"
#include "store/cache.h"
#include "store/lane.h"
#include "store/tickets.h"
#include "store/tiles_in_use.h"
#include "store/write_queue.h"
#include "weights/weights.h"

namespace nspjax {

class CacheSet {
 public:
  // store: its number, for errors. Throws StorePath, StoreBusy, StoreDamaged, InvalidArgument.
  CacheSet(int32_t store, const StoreOptions& options, const LaneOptions& of_lane, Trace& trace,
           Tickets& tickets, std::vector<std::string>& warnings);
  ~CacheSet() { lane_.stop(); }
  CacheSet(const CacheSet&) = delete;
  CacheSet& operator=(const CacheSet&) = delete;

  // What it runs on, of which no lock is needed.
  const Lane& lane() const { return lane_; }
  void verify_reads(bool verify) { lane_.verify_reads(verify); }

  // Each is the store's method of that name (store.h), which has the rest to say.
  std::vector<DeviceInfo> devices() const;
  std::vector<int32_t> create_caches(int64_t n_layers, const CacheShape& shape,
                                     int64_t tile_tokens);
  RoomReport room_for(int64_t n_layers, const CacheShape& shape, int64_t tile_tokens) const;
  void drop_cache(int32_t cache);
  CacheShape shape(int32_t cache) const;
  int32_t version(int32_t cache) const;
  int64_t tile_tokens(int32_t cache) const;
  std::vector<int64_t> lengths(int32_t cache) const;
  std::vector<int64_t> begins(int32_t cache) const;
  bool can_truncate(int32_t cache, std::span<const int32_t> lengths) const;
  int32_t truncate(int32_t cache, int32_t version, std::span<const int32_t> rows,
                   std::span<const int32_t> lengths);
  int32_t append(int32_t cache, int32_t version, const ArgsFor<AppendArgs>& args_for);
  void attend(int32_t cache, int32_t version, const ArgsFor<AttendArgs>& args_for);
  int32_t attend_start(int32_t cache, int32_t version, const ArgsFor<AttendArgs>& args_for);
  // Waits for a job of this lane; throws what it met.
  void finish(AttendJob& job);
  void prefetch(int32_t cache, const PrefetchArgs& args);
  void writeback(int32_t cache, int32_t version, int64_t interval_tokens, bool exclusive);
  void read(int32_t cache, int64_t row, int64_t begin, int64_t end, std::byte* k, std::byte* v);
  void read_keys_by_channel(int32_t cache, int64_t row, int64_t begin, int64_t end, std::byte* k);
  void fetch(int32_t cache, int32_t version, const ArgsFor<FetchArgs>& args_for);
  TileLayout tile_layout(int32_t cache) const;
  std::vector<uint8_t> export_tiles(int32_t cache, int32_t version, int64_t row, int64_t begin,
                                    int64_t end);
  void import_tiles(int32_t cache, int32_t version, int64_t row, int64_t begin,
                    std::span<const std::byte> tiles);
  int32_t share_prefix(int32_t cache, int32_t version, int64_t from, std::span<const int32_t> rows,
                       int64_t n_tokens);
  int32_t take_rows(int32_t cache, int32_t version, const ArgsFor<TakeRowsArgs>& args_for);
  int32_t fill_synthetic(int32_t cache, int64_t n_tokens);
  // Opens them before the first weight, with buffers out of this lane's memory. Throws StoreFull.
  void give_buffers_to(Weights& weights);
  // Host memory for another lane, see Budget.
  int64_t lend();
  void take_back_lent();
  void flush();
  void close();
  bool closed() const;
  void check_usable() const;

 private:
  void check_open() const REQUIRES(lane_.mutex);
  Cache& find(int32_t id) REQUIRES(lane_.mutex);
  const Cache& find(int32_t id) const REQUIRES(lane_.mutex);
  Cache& find_current(int32_t id, int32_t version) REQUIRES(lane_.mutex);
  // Until nothing is queued: then this thread may use the devices, as long as it has the mutex.
  void drain() REQUIRES(lane_.mutex) ASSERT_CAPABILITY(lane_.device_access);

  // ---- caches.cc
  CacheNeeds plan(int64_t n_layers, const CacheShape& shape, int64_t tile_tokens) const
      REQUIRES(lane_.mutex);
  RoomReport room(int64_t n_layers, const CacheShape& shape, int64_t tile_tokens) const
      REQUIRES(lane_.mutex);
  int64_t pinned_tiles_for(const TileGeometry& geometry, int64_t n_layers,
                           int64_t before_bytes) const REQUIRES(lane_.mutex);
  void make_regions(Cache& cache, int64_t pinned_tiles) REQUIRES(lane_.mutex, lane_.device_access);
  // Memory for those of one region, where the cache has any.
  std::shared_ptr<const MappedRegion> new_sketches(Cache& cache) REQUIRES(lane_.mutex);
  // For a row to write its tiles from `tile` on: one that no row writes to, or more room.
  std::shared_ptr<Region> free_region(Cache& cache, int64_t row, int64_t tile,
                                      const TilesInUse& in_use)
      REQUIRES(lane_.mutex, lane_.device_access);
  // Before rows are replaced, or go.
  void uncount_rows(Cache& cache) REQUIRES(lane_.mutex);
  void release(Cache& cache) REQUIRES(lane_.mutex, lane_.device_access);

  // ---- rows: take_rows.cc, truncate.cc, append.cc, writeback.cc
  // takers: how many rows go on from each. What several go on from is stored as far as it is full.
  std::vector<Row> taken_rows(Cache& cache, const TakeRowsArgs& args,
                              const std::vector<int64_t>& takers)
      REQUIRES(lane_.mutex, lane_.device_access);
  // A row that is to be shorter; and what it needs for that, which can fail.
  struct Cut {
    int64_t row;
    int64_t length;
    TailTile tail = {};                   // its last tile, if that was stored
    std::shared_ptr<Region> region = {};  // to write to from now on, if not the one that it has
  };
  // All of them, or none.
  void cut_back(Cache& cache, std::vector<Cut> cuts) REQUIRES(lane_.mutex);
  void prepare_cuts(Cache& cache, std::vector<Cut>& cuts)
      REQUIRES(lane_.mutex, lane_.device_access);
  void set_length(Cache& cache, int64_t row, int64_t length) REQUIRES(lane_.mutex);
  void set_extent(Cache& cache, int64_t row, int64_t begin, int64_t length) REQUIRES(lane_.mutex);
  // Tiles before `end` are about to be written: those that had their places are dropped.
  void make_room(Cache& cache, int64_t row, int64_t end) REQUIRES(lane_.mutex);
  // Tokens after the last of each row, where args.start is.
  void extend(Cache& cache, const AppendArgs& args) REQUIRES(lane_.mutex);
  bool has_room_to_hold(const Cache& cache, const AppendArgs& args) const REQUIRES(lane_.mutex);
  void write_full_tiles(Cache& cache, const AppendArgs& args)
      REQUIRES(lane_.mutex, lane_.device_access);
  // The tail's tiles before `end` become stored ones.
  void write_held(Cache& cache, int64_t row, int64_t end)
      REQUIRES(lane_.mutex, lane_.device_access);
  // Counts what a row has in its tail.
  void count_tail(Cache& cache, int64_t row) REQUIRES(lane_.mutex);
  void queue_writeback(Cache& cache, std::vector<TilesToWrite> tiles, bool exclusive)
      REQUIRES(lane_.mutex);
  // Takes note of the queued writes that are done.
  void settle_writes() REQUIRES(lane_.mutex);
  void settle(const Writeback& write) REQUIRES(lane_.mutex);

  // ---- attend.cc, prefetch.cc, fetch.cc, read.cc
  std::shared_ptr<AttendJob> queue_attend(int32_t cache, int32_t version,
                                          const ArgsFor<AttendArgs>& args_for, bool outstanding)
      REQUIRES(lane_.mutex);
  DeviceReads next_reads(Cache& cache, const AttendArgs& args) REQUIRES(lane_.mutex);
  DeviceReads next_fetch(Cache& cache, const FetchArgs& args)
      REQUIRES(lane_.mutex, lane_.device_access);
  // It follows the one before, this time.
  void note_attended(const Cache& cache) REQUIRES(lane_.mutex);
  struct TokenSpan {
    int64_t begin;
    int64_t end;
  };
  // What a page run has of tokens, and the tail of those that it has not.
  void read_run(const Cache& cache, size_t run, int64_t row, TokenSpan tokens,
                const TokenRun<std::byte>& into) REQUIRES(lane_.mutex);
  // A tile of the tail for another row, whose heads lie as this one's.
  TailTile copy_of_tail(const Cache& cache, int64_t row, const AlignedBuffer& tail)
      REQUIRES(lane_.mutex);
  void read_into_tail(const Cache& cache, int64_t row, int64_t tile, std::byte* tail)
      REQUIRES(lane_.device_access);

  const int32_t store_;
  Lane lane_;
  Tickets& tickets_;
  bool closed_ GUARDED_BY(lane_.mutex) = false;
  int32_t next_cache_ GUARDED_BY(lane_.mutex);
  int32_t last_attended_ GUARDED_BY(lane_.mutex) = -1;
  Budget budget_ GUARDED_BY(lane_.mutex);
  std::map<int32_t, Cache> caches_ GUARDED_BY(lane_.mutex);
  WriteQueue writes_ GUARDED_BY(lane_.mutex);
};

// Throws InvalidArgument where a cache has no such row. what: "read of", for the error.
void check_row(const char* what, const Cache& cache, int64_t row);
// Throws InvalidArgument where a row's heads are not on the devices of another's. what:
// "take_rows", as: "with", for the error.
void check_same_places(const char* what, const TileGeometry& geometry, int64_t from, const char* as,
                       int64_t row);

}  // namespace nspjax
