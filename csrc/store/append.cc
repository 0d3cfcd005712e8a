// Appending tokens to rows.
#include <algorithm>
#include <set>

#include "base/crc32c.h"
#include "base/scoped_timer.h"
#include "layout/pack.h"
#include "store/store.h"

namespace nspjax {
namespace {

// Batch row b's new tokens, and where they go.
struct NewTokens {
  int64_t row;
  int64_t begin;
  int64_t end;
  TokenRun<const std::byte> tokens;
};

NewTokens new_tokens(const AppendArgs& args, size_t b, const CacheShape& shape) {
  const int64_t before = static_cast<int64_t>(b) * args.n_tokens * shape.token_bytes() / 2;
  const int64_t begin = args.start[b];
  return {args.rows[b], begin, begin + args.n_new[b], {args.k + before, args.v + before, begin}};
}

}  // namespace

int32_t Store::append(int32_t cache, int32_t version, const AppendArgs& args) {
  std::lock_guard lock(mutex_);
  const ScopedTimer timer(append_ns_);
  const TraceScope scope(trace_, {.cache = cache, .kind = TraceKind::kAppend});
  Cache& found = find_current(cache, version);
  check_append(found, args);
  append_unlocked(found, args);
  return ++found.version;
}

void Store::check_append(const Cache& cache, const AppendArgs& args) {
  const CacheShape& shape = cache.geometry.shape();
  std::set<int32_t> seen;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    const int64_t row = args.rows[b], start = args.start[b], n_new = args.n_new[b];
    const auto where = [&] { return concat("append to row ", row, " (batch row ", b, "): "); };
    if (n_new < 0 || n_new > args.n_tokens) {
      fail(ErrorKind::kInvalidArgument, where(), "n_new is ", n_new, ", with ", args.n_tokens,
           " tokens given");
    }
    if (n_new == 0) continue;
    if (row < 0 || row >= shape.batch) {
      fail(ErrorKind::kInvalidArgument, where(), "the cache has rows 0 to ", shape.batch - 1);
    }
    if (!seen.insert(args.rows[b]).second) {
      fail(ErrorKind::kInvalidArgument, where(), "the row is given twice in one call");
    }
    const int64_t length = cache.rows[static_cast<size_t>(row)].length;
    if (start < 0 || start > length) {
      fail(ErrorKind::kInvalidArgument, where(), "start is ", start, ", but the row has ", length,
           " tokens");
    }
    if (start + n_new > shape.capacity_tokens) {
      fail(ErrorKind::kInvalidArgument, where(), start, " + ", n_new,
           " tokens do not fit its capacity of ", shape.capacity_tokens);
    }
  }
}

void Store::append_unlocked(Cache& cache, const AppendArgs& args) {
  const TileGeometry& geometry = cache.geometry;
  const int64_t tile_tokens = geometry.tile_tokens();
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    cut_back(cache, args.rows[b], args.start[b]);
    if ((args.start[b] + args.n_new[b]) % tile_tokens != 0) allocate_tail(cache, args.rows[b]);
  }
  write_full_tiles(cache, args);

  // from here on nothing fails
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    const auto [row, begin, end, tokens] = new_tokens(args, b, geometry.shape());
    const int64_t tail_begin = std::max(begin, round_down(end, tile_tokens));
    if (tail_begin < end) {
      std::byte* tail = cache.rows[static_cast<size_t>(row)].tail.data();
      for (int64_t d = 0; d < geometry.n_devices(); ++d) {
        pack_tail(geometry, geometry.heads(row, d), tokens, tail_begin, end,
                  tail + geometry.tail_offset(row, d));
      }
    }
    set_length(cache, row, end);
    bytes_appended_ += (end - begin) * geometry.shape().token_bytes();
  }
}

// Stores the tiles that the call fills. Tails are only read: until all is stored, the rows are as
// they were.
void Store::write_full_tiles(Cache& cache, const AppendArgs& args) {
  const TileGeometry& geometry = cache.geometry;
  const int64_t tile_tokens = geometry.tile_tokens();
  std::vector<NewTiles> filled;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.n_new[b] == 0) continue;
    const auto [row, begin, end, tokens] = new_tokens(args, b, geometry.shape());
    const Row& state = cache.rows[static_cast<size_t>(row)];
    const auto pack = [&geometry, &state, row = row, tokens = tokens, tile_tokens](
                          int64_t device, int64_t tile, std::byte* to) {
      const std::byte* tail =
          state.tail ? state.tail.data() + geometry.tail_offset(row, device) : nullptr;
      pack_tile(geometry, geometry.heads(row, device), tail, tokens, tile * tile_tokens,
                geometry.tile_bytes(row, device), to);
    };
    filled.push_back({*state.own, begin / tile_tokens, end / tile_tokens, pack});
  }
  store_tiles(geometry, filled);
}

// The first tiles of a region go to host memory, the others in runs to the devices.
void Store::store_tiles(const TileGeometry& geometry, std::span<const NewTiles> tiles) {
  std::vector<std::vector<TileWrite>> writes(devices_.size());
  TaskGroup pinning(*workers_);
  int64_t padding_bytes = 0;
  for (const NewTiles& run : tiles) {
    Region& region = run.region;
    const int64_t pinned_end = std::clamp(region.pinned_tiles, run.begin, run.end);
    if (const int64_t more = pinned_end - std::max(run.begin, region.n_pinned); more > 0) {
      region.n_pinned += more;
      pinned_bytes_ += more * geometry.pinned_tile_bytes(region.row);
    }
    for (int64_t d = 0; d < geometry.n_devices(); ++d) {
      const int64_t n_heads = geometry.heads(region.row, d).count;
      if (n_heads == 0) continue;
      for (int64_t tile = run.begin; tile < pinned_end; ++tile) {
        pinning.run([&run, d, tile, to = pinned_tile(geometry, region, d, tile)] {
          run.pack(d, tile, to);
        });
      }
      const int64_t tile_bytes = geometry.tile_bytes(region.row, d);
      std::vector<uint32_t>& checksums = region.checksums[static_cast<size_t>(d)];
      if (std::ssize(checksums) < run.end) checksums.resize(static_cast<size_t>(run.end));
      const bool sums = checksums_ && !devices_[static_cast<size_t>(d)]->in_memory();
      for (int64_t first = pinned_end; first < run.end;) {
        const int64_t stop = std::min(first + geometry.segment_tiles(), run.end);
        const auto pack = [=, &run, &checksums](std::byte* to) {
          for (int64_t tile = first; tile < stop; ++tile, to += tile_bytes) {
            run.pack(d, tile, to);
            if (!sums) continue;
            checksums[static_cast<size_t>(tile)] = crc32c({to, static_cast<size_t>(tile_bytes)});
          }
        };
        writes[static_cast<size_t>(d)].push_back(
            {{tile_offset(geometry, region, d, first), (stop - first) * tile_bytes}, pack});
        padding_bytes += (stop - first) * (tile_bytes - n_heads * geometry.stored().bytes());
        first = stop;
      }
    }
  }
  on_all_devices([&](int64_t d) {
    const auto device = static_cast<size_t>(d);
    if (!writes[device].empty()) devices_[device]->write(writes[device], *workers_);
  });
  pinning.wait();
  padding_bytes_ += padding_bytes;
}

// Shortens a row; the tile that is then its last, if it was full, goes back into the tail.
void Store::cut_back(Cache& cache, int64_t row, int64_t length) {
  const int64_t tile_tokens = cache.geometry.tile_tokens();
  Row& state = cache.rows[static_cast<size_t>(row)];
  const int64_t tile = length / tile_tokens;
  if (tile < state.length / tile_tokens) {
    AlignedBuffer tail;
    if (length % tile_tokens != 0) {
      tail = AlignedBuffer(cache.geometry.tail_bytes(row));
      read_into_tail(cache, row, tile, tail.data());
    }
    drop_shared_tiles(cache, row, tile);  // throws where there is no room
    if (tail) {  // the row's old tail goes last: until now it may be needed still
      tail_bytes_ += tail.size_bytes() - state.tail.size_bytes();
      state.tail = std::move(tail);
    }
  }
  set_length(cache, row, length);
}

void Store::allocate_tail(Cache& cache, int64_t row) {
  Row& state = cache.rows[static_cast<size_t>(row)];
  if (state.tail) return;
  state.tail = AlignedBuffer(cache.geometry.tail_bytes(row));
  tail_bytes_ += state.tail.size_bytes();
}

void Store::set_length(Cache& cache, int64_t row, int64_t length) {
  int64_t& current = cache.rows[static_cast<size_t>(row)].length;
  kv_bytes_stored_ += (length - current) * cache.geometry.shape().token_bytes();
  current = length;
}

}  // namespace nspjax
