// Reading tokens back.
#include <algorithm>
#include <cstring>

#include "format/pack.h"
#include "store/store.h"
#include "store/tile_scan.h"

namespace nspjax {

void Store::visit_tiles(const Cache& cache, const TileSpan& span, int64_t device,
                        const std::function<void(int64_t, const std::byte*)>& fn) {
  TileScan(cache.geometry, {&span, 1}, *devices_[static_cast<size_t>(device)], device,
           {.read_bytes = budget_.slot_bytes, .verify = checksums_}, *workers_,
           [&fn](size_t, int64_t tile, const std::byte* data) { fn(tile, data); })
      .run(announced_.reads()[static_cast<size_t>(device)]);
}

void Store::read_into_tail(const Cache& cache, int64_t row, int64_t tile, std::byte* tail) {
  const TileGeometry& geometry = cache.geometry;
  const auto spans = tile_spans(cache, cache.rows[static_cast<size_t>(row)],
                                tile * geometry.tile_tokens(), (tile + 1) * geometry.tile_tokens());
  on_all_devices([&](int64_t d) {
    visit_tiles(cache, spans.front(), d, [&](int64_t, const std::byte* data) {
      tile_to_tail(geometry, geometry.heads(row, d), data, tail + geometry.tail_offset(row, d));
    });
  });
}

void Store::read(int32_t cache, int64_t row, int64_t begin, int64_t end, std::byte* k,
                 std::byte* v) {
  std::lock_guard lock(mutex_);
  const Cache& found = find(cache);
  const TileGeometry& geometry = found.geometry;
  check_row("read of", found, row);
  const Row& state = found.rows[static_cast<size_t>(row)];
  if (begin < 0 || begin > end || end > state.length) {
    fail(ErrorKind::kInvalidArgument, "read of tokens ", begin, " to ", end, " of row ", row,
         ", which has ", state.length);
  }
  drain();
  const TokenRun<std::byte> into{k, v, begin};
  const int64_t tile_tokens = geometry.tile_tokens();
  const auto spans =
      tile_spans(found, state, begin, std::min(end, state.stored_tiles * tile_tokens));
  on_all_devices([&](int64_t d) {
    const HeadSet heads = geometry.heads(row, d);
    for (const TileSpan& span : spans) {
      visit_tiles(found, span, d, [&](int64_t index, const std::byte* tile) {
        const int64_t from = index * tile_tokens;
        unpack_tile(geometry, heads, tile, std::max(begin, from), std::min(end, from + tile_tokens),
                    into);
      });
    }
  });
  copy_tail(found, row, begin, end, into);
}

// Those of the tokens [begin, end) that no device has.
void Store::copy_tail(const Cache& cache, int64_t row, int64_t begin, int64_t end,
                      const TokenRun<std::byte>& into) {
  const TileGeometry& geometry = cache.geometry;
  const int64_t tile_tokens = geometry.tile_tokens();
  const Row& state = cache.rows[static_cast<size_t>(row)];
  for (int64_t from = std::max(begin, state.stored_tiles * tile_tokens); from < end;) {
    const int64_t tile = from / tile_tokens;
    const int64_t to = std::min((tile + 1) * tile_tokens, end);
    for (int64_t d = 0; d < geometry.n_devices(); ++d) {
      unpack_tail(geometry, geometry.heads(row, d),
                  state.tail_tile(tile) + geometry.tail_offset(row, d), from, to, into);
    }
    from = to;
  }
}

}  // namespace nspjax
