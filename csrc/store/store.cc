// Which part does what.
#include "store/store.h"

#include <limits>
#include <random>

#include "store/first_error.h"

namespace nspjax {
namespace {

constexpr const char* kKvFile = "nspjax.kv";

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

const StoreOptions& checked(const StoreOptions& options) {
  if (options.devices.empty()) {
    fail(ErrorKind::kInvalidArgument, "a store needs a device: a directory, or memory:");
  }
  if (options.threads < 0) {
    fail(ErrorKind::kInvalidArgument, "threads is ", options.threads, ": 0 is one a core");
  }
  return options;
}

LaneOptions kv_lane(const StoreOptions& options) {
  return {.devices = options.devices,
          .file_name = kKvFile,
          .first_cache = 0,
          .host_memory_bytes = options.host_memory_bytes - set_aside_bytes(options),
          .pinned_bytes = options.pinned_bytes,
          .hardware = {}};
}

}  // namespace

Store::Store(const StoreOptions& options)
    : id_(new_store_id()),
      options_(checked(options)),
      trace_(options.trace_events),
      weights_(weight_options(id_, options), trace_),
      tickets_(id_),
      kv_(id_, options_, kv_lane(options), trace_, tickets_, warnings_),
      x_(id_, options_, kv_, trace_, tickets_) {}

CacheSet& Store::of(int32_t cache) const {
  CacheSet* x = cache >= kFirstXCache ? x_.opened() : nullptr;
  return x ? *x : kv_;  // which has no such cache, and says so
}

// ---- all of it
// -----------------------------------------------------------------------------------

StoreStats Store::stats() const {
  StoreStats total = kv_.lane().stats();
  if (const CacheSet* x = x_.opened()) total += x->lane().stats();
  const WeightStats& weights = weights_.stats();
  total.weight_bytes_read = weights.bytes_read;
  total.weight_bytes_read_ahead = weights.bytes_read_ahead;
  total.weight_bytes_stored = weights.bytes_stored;
  total.weight_buffer_bytes = weights.buffer_bytes;
  total.host_bytes += total.weight_buffer_bytes;
  return total;
}

std::vector<TraceEvent> Store::trace_events() const {
  kv_.lane().mutex.check_process();
  return trace_.events();
}

void Store::record_events(bool record) {
  kv_.lane().mutex.check_process();
  trace_.record(record);
}

void Store::verify_reads(bool verify) {
  kv_.verify_reads(verify);
  weights_.verify_reads(verify);
  if (CacheSet* x = x_.opened()) x->verify_reads(verify);
}

int32_t Store::put_weight(std::span<const std::byte> data) {
  kv_.give_buffers_to(weights_);
  return weights_.put(data);
}

void Store::flush() {
  kv_.flush();
  if (CacheSet* x = x_.opened()) x->flush();
}

void Store::close() {
  if (!kv_.lane().mutex.is_of_this_process()) return;
  tickets_.close();
  FirstError error;
  error.of([&] { kv_.close(); });
  error.of([&] { weights_.close(); });
  error.of([&] { x_.close(); });
  error.rethrow();
}

// ---- one cache, in its lane
// ----------------------------------------------------------------------

std::vector<int32_t> Store::create_caches(int64_t n_layers, const CacheShape& shape,
                                          int64_t tile_tokens) {
  return kv_.create_caches(n_layers, shape, tile_tokens);
}

RoomReport Store::room_for(int64_t n_layers, const CacheShape& shape, int64_t tile_tokens) const {
  return kv_.room_for(n_layers, shape, tile_tokens);
}

void Store::drop_cache(int32_t cache) {
  if (cache >= kFirstXCache) {
    fail(ErrorKind::kInvalidArgument, "cache ", cache,
         " keeps X for another one: drop that, and it goes too");
  }
  x_.drop_both(cache);
}

Handle Store::x_cache(int32_t cache, int64_t n_heads, int64_t head_dim) {
  const auto [x, version] = x_.cache_of(cache, n_heads, head_dim);
  return {id_, x, version};
}

AttendResult Store::attend_wait(int32_t ticket) {
  TraceScope scope(trace_, {.offset = ticket, .kind = TraceKind::kAttendWait});
  const auto job = tickets_.take(ticket);
  scope.event().cache = job->cache.id;
  of(job->cache.id).finish(*job);
  return std::move(job->owned.result);
}

CacheShape Store::shape(int32_t cache) const { return of(cache).shape(cache); }

int32_t Store::version(int32_t cache) const { return of(cache).version(cache); }

int64_t Store::tile_tokens(int32_t cache) const { return of(cache).tile_tokens(cache); }

std::vector<int64_t> Store::lengths(int32_t cache) const { return of(cache).lengths(cache); }

std::vector<int64_t> Store::begins(int32_t cache) const { return of(cache).begins(cache); }

bool Store::can_truncate(int32_t cache, std::span<const int32_t> lengths) const {
  return of(cache).can_truncate(cache, lengths);
}

int32_t Store::truncate(int32_t cache, int32_t version, std::span<const int32_t> rows,
                        std::span<const int32_t> lengths) {
  return of(cache).truncate(cache, version, rows, lengths);
}

int32_t Store::append(int32_t cache, int32_t version, const ArgsFor<AppendArgs>& args_for) {
  return of(cache).append(cache, version, args_for);
}

void Store::attend(int32_t cache, int32_t version, const ArgsFor<AttendArgs>& args_for) {
  of(cache).attend(cache, version, args_for);
}

int32_t Store::attend_start(int32_t cache, int32_t version, const ArgsFor<AttendArgs>& args_for) {
  return of(cache).attend_start(cache, version, args_for);
}

void Store::prefetch(int32_t cache, const PrefetchArgs& args) { of(cache).prefetch(cache, args); }

void Store::writeback(int32_t cache, int32_t version, int64_t interval_tokens, bool exclusive) {
  of(cache).writeback(cache, version, interval_tokens, exclusive);
}

void Store::read(int32_t cache, int64_t row, int64_t begin, int64_t end, std::byte* k,
                 std::byte* v) {
  of(cache).read(cache, row, begin, end, k, v);
}

void Store::read_keys_by_channel(int32_t cache, int64_t row, int64_t begin, int64_t end,
                                 std::byte* k) {
  of(cache).read_keys_by_channel(cache, row, begin, end, k);
}

void Store::fetch(int32_t cache, int32_t version, const ArgsFor<FetchArgs>& args_for) {
  of(cache).fetch(cache, version, args_for);
}

TileLayout Store::tile_layout(int32_t cache) const { return of(cache).tile_layout(cache); }

std::vector<uint8_t> Store::export_tiles(int32_t cache, int32_t version, int64_t row, int64_t begin,
                                         int64_t end) {
  return of(cache).export_tiles(cache, version, row, begin, end);
}

void Store::import_tiles(int32_t cache, int32_t version, int64_t row, int64_t begin,
                         std::span<const std::byte> tiles) {
  of(cache).import_tiles(cache, version, row, begin, tiles);
}

int32_t Store::share_prefix(int32_t cache, int32_t version, int64_t from,
                            std::span<const int32_t> rows, int64_t n_tokens) {
  return of(cache).share_prefix(cache, version, from, rows, n_tokens);
}

int32_t Store::take_rows(int32_t cache, int32_t version, const ArgsFor<TakeRowsArgs>& args_for) {
  return of(cache).take_rows(cache, version, args_for);
}

int32_t Store::fill_synthetic(int32_t cache, int64_t n_tokens) {
  return of(cache).fill_synthetic(cache, n_tokens);
}

}  // namespace nspjax
