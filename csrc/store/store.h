// A store: caches (the K and V of one layer for some rows, and perhaps its X) spread over devices,
// and weights beside them. What it does is its parts' to do: each cache is in one of two lanes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/trace.h"
#include "store/arguments.h"
#include "store/cache_set.h"
#include "store/handle.h"
#include "store/options.h"
#include "store/stats.h"
#include "store/tickets.h"
#include "store/x_lane.h"
#include "weights/weights.h"

namespace nspjax {

class Store {
 public:
  // Throws StorePath, StoreBusy, StoreDamaged, InvalidArgument.
  explicit Store(const StoreOptions& options);
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  int32_t id() const { return id_; }
  const std::vector<std::string>& warnings() const { return warnings_; }
  // Those of K and V; X has files beside theirs.
  std::vector<DeviceInfo> devices() const { return kv_.devices(); }
  std::vector<DeviceStats> device_stats() const { return kv_.lane().device_stats(); }
  StoreStats stats() const;
  // The newest events, in order of begin_ns.
  std::vector<TraceEvent> trace_events() const;
  // Whether checksums of what is read are compared; for measuring what that costs.
  void verify_reads(bool verify);
  // The same for events.
  void record_events(bool record);

  // All or nothing. tile_tokens: 0 chooses.
  std::vector<int32_t> create_caches(int64_t n_layers, const CacheShape& shape,
                                     int64_t tile_tokens = 0);
  RoomReport room_for(int64_t n_layers, const CacheShape& shape, int64_t tile_tokens = 0) const;
  void drop_cache(int32_t cache);
  CacheShape shape(int32_t cache) const;
  int32_t version(int32_t cache) const;
  int64_t tile_tokens(int32_t cache) const;
  std::vector<int64_t> lengths(int32_t cache) const;
  // The first token that each row still has: 0, but where it keeps a window.
  std::vector<int64_t> begins(int32_t cache) const;

  // Whether each row, cut back to so many tokens, has what attentions see: one with a window may
  // have dropped some.
  bool can_truncate(int32_t cache, std::span<const int32_t> lengths) const;
  // Cuts rows back to so many tokens; each at most what the row has. Returns the next version.
  int32_t truncate(int32_t cache, int32_t version, std::span<const int32_t> rows,
                   std::span<const int32_t> lengths);
  // Rows that have more than start[b] tokens are truncated first. Checks everything before it
  // changes anything. If writing then fails, the cache keeps its version; rows that were to be
  // truncated are, the others unchanged. While jobs are queued, append queues its writes after them
  // if host memory has room for the tiles. What a queued write met since the last such call is
  // thrown first, by append, writeback or flush: its tiles are in host memory still, and are
  // written by the next write of their row, or flush.
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
  // The keys alone, out of the run that a cache with k_by_channel keeps of them.
  void read_keys_by_channel(int32_t cache, int64_t row, int64_t begin, int64_t end, std::byte* k);
  // Tokens of several rows for the host to attend over. Those after them that `length`
  // tells are read meanwhile.
  void fetch(int32_t cache, int32_t version, const ArgsFor<FetchArgs>& args_for);
  void fetch(int32_t cache, int32_t version, const FetchArgs& args) {
    fetch(cache, version, made(args));
  }
  // The cache that keeps X for rows of this one, as long as it lives: half of X is its K, half its
  // V, n_heads x head_dim each, as appended. It is in a lane of its own, so that it is read while
  // this one is attended over. Made on first use with this one's batch, capacity and dtype; by then
  // of one shape.
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
  // Row i goes on as row order[i] was. Full tiles that several rows then have are shared; of tails,
  // each row has its own. Waits for what is queued.
  int32_t take_rows(int32_t cache, int32_t version, const ArgsFor<TakeRowsArgs>& args_for);
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
  bool closed() const { return kv_.closed(); }
  // Throws StoreClosed where nothing can be done with it, here.
  void check_usable() const { kv_.check_usable(); }

 private:
  // The lane that a cache is in.
  CacheSet& of(int32_t cache) const;

  const int32_t id_;
  const StoreOptions options_;
  std::vector<std::string> warnings_;
  Trace trace_;
  Weights weights_;
  Tickets tickets_;
  mutable CacheSet kv_;
  XLane x_;
};

}  // namespace nspjax
