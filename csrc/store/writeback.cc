// From tails to devices: at once, or as a job.
#include <algorithm>

#include "base/crc32c.h"
#include "format/pack.h"
#include "store/store.h"

namespace nspjax {

void Row::store_before(int64_t tile) {
  if (tile <= tail_begin) return;
  const auto n = static_cast<std::ptrdiff_t>(std::min(tile - tail_begin, std::ssize(tail)));
  tail.erase(tail.begin(), tail.begin() + n);
  tail_begin = tile;
  stored_tiles = std::max(stored_tiles, tile);
  due_tiles = std::max(due_tiles, tile);
}

Writeback::Tiles Row::full_tiles(int64_t row, int64_t tile_tokens) const {
  const int64_t n = length / tile_tokens - stored_tiles;
  const auto first = tail.begin() + (stored_tiles - tail_begin);
  return {row, own, stored_tiles, n, {first, first + n}};
}

int64_t tail_tile_bytes(const Cache& cache, int64_t row) {
  return round_up(cache.geometry.tail_bytes(row), kPageBytes);
}

TailTile new_tail_tile(const Cache& cache, int64_t row) {
  return std::make_shared<AlignedBuffer>(cache.geometry.tail_bytes(row));
}

void pack_tail_tile(const TileGeometry& geometry, int64_t row, int64_t device, int64_t tile,
                    const std::byte* tail, std::byte* to) {
  const int64_t begin = tile * geometry.tile_tokens();
  pack_tile(geometry, geometry.heads(row, device), tail + geometry.tail_offset(row, device),
            {nullptr, nullptr, begin + geometry.tile_tokens()}, begin,
            geometry.tile_bytes(row, device), to);
}

void Store::count_tail(Cache& cache, int64_t row) {
  Row& state = cache.rows[static_cast<size_t>(row)];
  const int64_t tile_bytes = tail_tile_bytes(cache, row);
  const int64_t tail_bytes = std::ssize(state.tail) * tile_bytes;
  tail_bytes_ += tail_bytes - std::exchange(state.tail_bytes, tail_bytes);
  const int64_t n_held = std::max<int64_t>(0, state.tail_end() - state.stored_tiles - 1);
  held_bytes_ += n_held * tile_bytes - std::exchange(state.held_bytes, n_held * tile_bytes);
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
      const int64_t most = std::max<int64_t>(1, budget_.slot_bytes / tile_bytes);
      for (int64_t first = pinned_end; first < run.end;) {
        const int64_t stop = std::min({first + geometry.segment_tiles(), first + most, run.end});
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

void Store::write_held(Cache& cache, int64_t row, int64_t end) {
  Row& state = cache.rows[static_cast<size_t>(row)];
  if (end <= state.stored_tiles) return;
  const TileGeometry& geometry = cache.geometry;
  const NewTiles run{*state.own, state.stored_tiles, end,
                     [&](int64_t device, int64_t tile, std::byte* to) {
                       pack_tail_tile(geometry, row, device, tile, state.tail_tile(tile), to);
                     }};
  store_tiles(geometry, {&run, 1});
  state.store_before(end);
  count_tail(cache, row);
}

void Store::writeback(int32_t cache, int32_t version, int64_t interval_tokens, bool exclusive) {
  const TraceScope scope(trace_, {.cache = cache, .kind = TraceKind::kWriteback});
  std::lock_guard lock(mutex_);
  Cache& found = find_current(cache, version);
  if (interval_tokens < 1) {
    fail(ErrorKind::kInvalidArgument, "writeback with an interval of ", interval_tokens,
         " tokens: give 1 or more");
  }
  settle_writes();
  throw_write_error();
  const int64_t tile_tokens = found.geometry.tile_tokens();
  std::vector<Writeback::Tiles> tiles;
  for (int64_t row = 0; row < std::ssize(found.rows); ++row) {
    Row& state = found.rows[static_cast<size_t>(row)];
    const int64_t written = std::max(state.stored_tiles * tile_tokens, state.written_tokens);
    if (state.length - written < interval_tokens) continue;
    tiles.push_back(state.full_tiles(row, tile_tokens));
    if (interval_tokens >= tile_tokens) continue;
    state.written_tokens = state.length;
    // the tile that is not full too, but what is pinned never leaves host memory
    const int64_t n_full = state.length / tile_tokens;
    if (n_full < state.tail_end() && n_full >= state.own->pinned_tiles) {
      tiles.back().data.push_back(state.tail.back());
    }
  }
  queue_writeback(found, std::move(tiles), exclusive);
}

void Store::queue_writeback(Cache& cache, std::vector<Writeback::Tiles> tiles, bool exclusive) {
  std::erase_if(tiles, [](const Writeback::Tiles& of_row) { return of_row.data.empty(); });
  if (tiles.empty()) return;
  const auto write = std::make_shared<Writeback>(Writeback{cache.id, std::move(tiles)});
  write->job = executor_.post(
      [this, &cache, write, exclusive] { run_writeback(cache.geometry, *write, exclusive); });
  writes_.push_back(write);
  for (const Writeback::Tiles& of_row : write->tiles) {
    Row& state = cache.rows[static_cast<size_t>(of_row.row)];
    state.stored_tiles = state.due_tiles = of_row.begin + of_row.n_full;
    if (std::ssize(of_row.data) > of_row.n_full) state.tail_job = write->job;
    count_tail(cache, of_row.row);
  }
}

void Store::run_writeback(const TileGeometry& geometry, Writeback& write, bool exclusive) {
  try {
    std::vector<NewTiles> runs;
    for (const Writeback::Tiles& tiles : write.tiles) {
      runs.push_back({*tiles.region, tiles.begin, tiles.begin + std::ssize(tiles.data),
                      [&](int64_t device, int64_t tile, std::byte* to) {
                        const TailTile& data = tiles.data[static_cast<size_t>(tile - tiles.begin)];
                        pack_tail_tile(geometry, tiles.row, device, tile, data->data(), to);
                      }});
    }
    store_tiles(geometry, runs);
    if (exclusive) {
      on_all_devices([&](int64_t d) { devices_[static_cast<size_t>(d)]->finish_writes(); });
    }
  } catch (...) {
    write.error = std::current_exception();
  }
}

void Store::settle_writes() {
  const int64_t n_done = executor_.n_done();
  for (; !writes_.empty() && writes_.front()->job <= n_done; writes_.pop_front()) {
    settle(*writes_.front());
  }
}

// A tile leaves the tail when it and all before it are stored. After an error it is as if the write
// had not been asked for, but that flush() does what was asked.
void Store::settle(const Writeback& write) {
  Cache& cache = caches_.at(write.cache);
  for (const Writeback::Tiles& tiles : write.tiles) {
    Row& row = cache.rows[static_cast<size_t>(tiles.row)];
    if (!write.error) {
      if (tiles.begin <= row.tail_begin) row.store_before(tiles.begin + tiles.n_full);
    } else {
      if (tiles.n_full > 0) row.stored_tiles = std::min(row.stored_tiles, tiles.begin);
      row.written_tokens = std::min(row.written_tokens, tiles.begin * cache.geometry.tile_tokens());
    }
    count_tail(cache, tiles.row);
  }
  if (write.error && !write_error_) write_error_ = write.error;
}

void Store::throw_write_error() {
  if (write_error_) std::rethrow_exception(std::exchange(write_error_, nullptr));
}

}  // namespace nspjax
