// Making room for caches, and giving it back.
#include <algorithm>
#include <bit>

#include "store/cache_set.h"

namespace nspjax {
namespace {

void check_shape(int64_t n_layers, const CacheShape& shape, int64_t tile_tokens) {
  const auto check = [](const char* name, int64_t value, int64_t most) {
    if (value < 1 || value > most) {
      fail(ErrorKind::kInvalidArgument, name, " is ", value, ": it must be 1 to ", most);
    }
  };
  check("n_layers", n_layers, 1 << 16);
  check("batch", shape.batch, 1 << 20);
  check("capacity_tokens", shape.capacity_tokens, 1 << 30);
  check("n_kv_heads", shape.n_kv_heads, 1 << 12);
  check("head_dim", shape.head_dim, 1 << 12);
  if (shape.window_tokens < 0) {
    fail(ErrorKind::kInvalidArgument, "window_tokens is ", shape.window_tokens,
         ": it must be 1 or more, or 0 for none");
  }
  const double bytes = static_cast<double>(n_layers * shape.batch) *
                       static_cast<double>(shape.capacity_tokens * shape.token_bytes());
  if (bytes > 0x1p60) {
    fail(ErrorKind::kInvalidArgument, "KV caches of ", bytes, " bytes cannot be addressed");
  }
  if (tile_tokens < 0 || tile_tokens > kMostTileTokens ||
      (tile_tokens > 0 && !std::has_single_bit(static_cast<uint64_t>(tile_tokens)))) {
    fail(ErrorKind::kInvalidArgument, "tile_tokens is ", tile_tokens,
         ": it must be a power of two up to ", kMostTileTokens, ", or 0 to choose");
  }
}

using Runs = std::span<const TileGeometry>;

int64_t device_bytes(Runs runs, int64_t device) {
  int64_t bytes = 0;
  for (const TileGeometry& geometry : runs) bytes += geometry.device_bytes(device);
  return bytes;
}

int64_t row_bytes(Runs runs, int64_t row, int64_t device) {
  int64_t bytes = 0;
  for (const TileGeometry& geometry : runs) bytes += geometry.row_bytes(row, device);
  return bytes;
}

// offset_of(run, device): of a run's part for the row.
template <class OffsetOf>
std::shared_ptr<Region> new_region(Runs runs, int64_t row, const OffsetOf& offset_of) {
  const auto region = std::make_shared<Region>();
  region->more.resize(runs.size() - 1);
  for (size_t run = 0; run < runs.size(); ++run) {
    Region& of_run = region->of_run(run);
    of_run.row = row;
    of_run.checksums.resize(static_cast<size_t>(runs[run].n_devices()));
    for (int64_t d = 0; d < runs[run].n_devices(); ++d) {
      of_run.offsets.push_back(offset_of(run, d));
    }
  }
  return region;
}

}  // namespace

CacheNeeds CacheSet::plan(int64_t n_layers, const CacheShape& shape, int64_t tile_tokens) const {
  return plan_caches(shape, n_layers, lane_.n_devices(), lane_.memory(), budget_.free_bytes(),
                     tile_tokens);
}

RoomReport CacheSet::room(int64_t n_layers, const CacheShape& shape, int64_t tile_tokens) const {
  RoomReport report{plan(n_layers, shape, tile_tokens), {}, 0};
  for (int64_t d = 0; d < lane_.n_devices(); ++d) {
    report.available_bytes.push_back(lane_.device(d).available_bytes());
  }
  const auto fits = [&](const CacheNeeds& needs) {
    return needs.fits_host &&
           std::ranges::equal(needs.device_bytes, report.available_bytes, std::less_equal());
  };
  if (fits(report.needs)) {
    report.rows_that_fit = shape.batch;
    return report;
  }
  int64_t fit = 0, too_many = shape.batch;
  while (too_many - fit > 1) {
    CacheShape fewer = shape;
    fewer.batch = (fit + too_many) / 2;
    (fits(plan(n_layers, fewer, tile_tokens)) ? fit : too_many) = fewer.batch;
  }
  report.rows_that_fit = fit;
  return report;
}

RoomReport CacheSet::room_for(int64_t n_layers, const CacheShape& shape,
                              int64_t tile_tokens) const {
  check_shape(n_layers, shape, tile_tokens);
  const Lock lock(lane_.mutex);
  check_open();
  return room(n_layers, shape, tile_tokens);
}

std::vector<int32_t> CacheSet::create_caches(int64_t n_layers, const CacheShape& shape,
                                             int64_t tile_tokens) {
  check_shape(n_layers, shape, tile_tokens);
  const Lock lock(lane_.mutex);
  check_open();
  drain();
  const RoomReport report = room(n_layers, shape, tile_tokens);
  const auto window = shape.window_tokens > 0
                          ? concat(" of which ", shape.window_tokens, " are kept")
                          : std::string();
  const auto what = concat("KV caches of ", n_layers, " layers x ", shape.batch, " rows x ",
                           shape.capacity_tokens, " tokens", window);
  const auto fitting = concat("; ", report.rows_that_fit, " of the ", shape.batch, " rows fit");
  if (!report.needs.fits_host) {
    const bool sketch = report.needs.sketch_bytes > 0;
    const auto sketches = sketch ? concat(", ", bytes_text(report.needs.sketch_bytes),
                                          " for the sketches of what is stored,")
                                 : std::string();
    // smaller tiles have smaller tails and larger sketches
    const auto smaller =
        sketch ? std::string()
               : concat(", or interval_tokens of less than ", report.needs.tile_tokens);
    fail(ErrorKind::kStoreFull, what, " need ", bytes_text(report.needs.tail_bytes),
         " of host memory for their newest tokens", sketches,
         " and staging buffers of a whole tile: give ", "host_memory of at least ",
         report.needs.smallest_host_memory_bytes, " bytes (",
         bytes_text(report.needs.smallest_host_memory_bytes), "), or fewer rows", smaller, fitting);
  }
  for (size_t d = 0; d < report.available_bytes.size(); ++d) {
    if (report.needs.device_bytes[d] <= report.available_bytes[d]) continue;
    fail(ErrorKind::kStoreFull, what, " need ", report.needs.device_bytes[d], " bytes (",
         bytes_text(report.needs.device_bytes[d]), ") on ",
         lane_.device(static_cast<int64_t>(d)).info().spec, ", which has ",
         report.available_bytes[d], " (", bytes_text(report.available_bytes[d]), ") free", fitting);
  }

  const auto runs = std::make_shared<const std::vector<TileGeometry>>(
      geometries_of(shape.format(), lane_.n_devices(), report.needs.tile_tokens, kSegmentBytes));
  for (int64_t d = 0; d < lane_.n_devices(); ++d) lane_.device(d).check_cache(runs->front());
  const int64_t pinned_tiles = pinned_tiles_for(
      runs->front(), n_layers, report.needs.tail_bytes + report.needs.sketch_bytes);

  std::vector<int32_t> ids;
  try {
    for (int64_t layer = 0; layer < n_layers; ++layer) {
      const int32_t id = next_cache_++;
      Cache& cache =
          caches_
              .emplace(id, Cache{.view = {id, runs, nullptr},
                                 .rows = std::vector<Row>(static_cast<size_t>(shape.batch))})
              .first->second;
      ids.push_back(id);
      cache.tail_bytes = report.needs.tail_bytes / n_layers;
      budget_.promise({.tail_bytes = cache.tail_bytes});
      for (int64_t d = 0; d < lane_.n_devices(); ++d) {
        cache.extents.push_back(lane_.reserve(d, device_bytes(*runs, d)));
      }
      make_regions(cache, pinned_tiles);
    }
  } catch (...) {
    for (int32_t id : ids) {
      release(caches_.at(id));
      caches_.erase(id);
    }
    throw;
  }
  return ids;
}

// How many of a row's first tiles stay in host memory: the same share of every row and layer, so
// that no part of a step waits longer for a device than another. Of a ring of slots all or none,
// since its first slots are no row's first tiles. Tails and sketches, of `before_bytes`, come
// first.
int64_t CacheSet::pinned_tiles_for(const TileGeometry& geometry, int64_t n_layers,
                                   int64_t before_bytes) const {
  bool all_in_memory = true;
  for (int64_t d = 0; d < lane_.n_devices(); ++d) all_in_memory &= lane_.device(d).in_memory();
  if (all_in_memory) return 0;
  int64_t bytes = 0;  // of one tile of every row and layer
  for (int64_t row = 0; row < geometry.shape().batch; ++row) {
    bytes += n_layers * geometry.pinned_tile_bytes(row);
  }
  const int64_t fit = std::min(budget_.pinned_that_fit(bytes, before_bytes), geometry.room_tiles());
  const bool is_ring = geometry.room_tiles() < geometry.capacity_tiles();
  return is_ring && fit < geometry.room_tiles() ? 0 : fit;
}

void CacheSet::make_regions(Cache& cache, int64_t pinned_tiles) {
  const TileGeometry& geometry = cache.geometry();
  const auto tile_bytes = [&](size_t row) {
    return geometry.pinned_tile_bytes(static_cast<int64_t>(row));
  };
  for (size_t row = 0; row < cache.rows.size(); ++row) {
    cache.pinned_bytes += pinned_tiles * tile_bytes(row);
  }
  budget_.promise({.pinned_bytes = cache.pinned_bytes});
  std::byte* pinned = nullptr;
  if (cache.pinned_bytes > 0) {
    const auto mapped = std::make_shared<const MappedRegion>(cache.pinned_bytes);
    pinned = mapped->data();
    cache.view.pinned = mapped;
  }
  const Runs runs = *cache.view.runs;
  for (size_t row = 0; row < cache.rows.size(); ++row) {
    const auto number = static_cast<int64_t>(row);
    const auto region = new_region(runs, number, [&](size_t run, int64_t d) {
      return cache.extents[static_cast<size_t>(d)].offset + device_bytes(runs.first(run), d) +
             runs[run].row_offset(number, d);
    });
    region->pinned_tiles =
        pinned_tiles == geometry.room_tiles() ? geometry.capacity_tiles() : pinned_tiles;
    region->pinned = pinned;
    if (pinned) pinned += pinned_tiles * tile_bytes(row);
    region->sketches = new_sketches(cache);
    cache.regions.push_back(region);
    cache.rows[row].own = region;
  }
}

std::shared_ptr<const MappedRegion> CacheSet::new_sketches(Cache& cache) {
  const int64_t bytes = cache.geometry().row_sketch_bytes();
  if (bytes == 0) return nullptr;
  auto sketches = std::make_shared<const MappedRegion>(bytes);
  budget_.promise({.sketch_bytes = bytes});
  lane_.counters().sketch_bytes += bytes;
  cache.sketch_bytes += bytes;
  return sketches;
}

std::shared_ptr<Region> CacheSet::free_region(Cache& cache, int64_t row, int64_t tile,
                                              const TilesInUse& in_use) {
  const TileGeometry& geometry = cache.geometry();
  for (const auto& region : cache.regions) {
    if (geometry.same_places(region->row, row) && !in_use.is_own(*region) &&
        in_use.is_free_from(*region, tile)) {
      return region;
    }
  }
  // All devices are asked before any gives room: a call that is refused again and again takes none.
  const Runs runs = *cache.view.runs;
  for (int64_t d = 0; d < lane_.n_devices(); ++d) {
    const int64_t bytes = row_bytes(runs, row, d);
    const int64_t available = lane_.device(d).available_bytes();
    if (bytes > available) {
      fail(ErrorKind::kStoreFull, "row ", row, " needs ", bytes_text(bytes), " on ",
           lane_.device(d).info().spec,
           " beside the tiles that other rows share with it; there are ", bytes_text(available),
           ": drop caches, or share fewer prefixes");
    }
  }
  if (const int64_t bytes = geometry.row_sketch_bytes(); bytes > budget_.unused_bytes()) {
    fail(ErrorKind::kStoreFull, "row ", row, " needs ", bytes_text(bytes),
         " of host memory for a sketch beside the tiles that other rows share with it; there are ",
         bytes_text(budget_.unused_bytes()), ": give the store more host_memory, or share fewer ",
         "prefixes");
  }
  auto sketches = new_sketches(cache);
  std::vector<Extent>& extents = cache.more_extents.emplace_back();
  for (int64_t d = 0; d < lane_.n_devices(); ++d) {
    extents.push_back(lane_.reserve(d, row_bytes(runs, row, d)));
  }
  const auto region = new_region(runs, row, [&](size_t run, int64_t d) {
    return extents[static_cast<size_t>(d)].offset + row_bytes(runs.first(run), row, d);
  });
  region->sketches = std::move(sketches);
  cache.regions.push_back(region);
  return region;
}

void CacheSet::uncount_rows(Cache& cache) {
  for (size_t row = 0; row < cache.rows.size(); ++row) {
    lane_.counters().tail_bytes -= cache.rows[row].tail_bytes;
    budget_.hold(-cache.rows[row].held_bytes);
    set_length(cache, static_cast<int64_t>(row), 0);
  }
}

void CacheSet::release(Cache& cache) {
  budget_.take_back({.tail_bytes = cache.tail_bytes,
                     .sketch_bytes = cache.sketch_bytes,
                     .pinned_bytes = cache.pinned_bytes});
  lane_.counters().sketch_bytes -= cache.sketch_bytes;
  uncount_rows(cache);
  for (const auto& region : cache.regions) {
    lane_.counters().pinned_bytes -=
        region->n_pinned * cache.geometry().pinned_tile_bytes(region->row);
  }
  cache.more_extents.push_back(cache.extents);
  for (const std::vector<Extent>& extents : cache.more_extents) {
    for (size_t d = 0; d < extents.size(); ++d) lane_.release(static_cast<int64_t>(d), extents[d]);
  }
}

void CacheSet::drop_cache(int32_t cache) {
  const Lock lock(lane_.mutex);
  find(cache);
  drain();
  tickets_.drop(cache);
  lane_.announced().drop(cache);
  release(find(cache));
  caches_.erase(cache);
}

}  // namespace nspjax
