// Full tiles out of a row and into another as they are stored, for prefixes that are kept in files:
// what was rounded to fewer bits once is not rounded again.
#include <algorithm>
#include <cstring>

#include "base/scoped_timer.h"
#include "format/fingerprint.h"
#include "format/pack.h"
#include "store/cache_set.h"
#include "store/window.h"

namespace nspjax {
namespace {

// Where a head's tile lies among those that are exported or imported, from tile `first` on.
int64_t offset_of(const TileGeometry& geometry, int64_t first, int64_t tile, int64_t head) {
  return ((tile - first) * geometry.shape().n_kv_heads + head) * geometry.stored().bytes();
}

}  // namespace

TileLayout CacheSet::tile_layout(int32_t cache) const {
  const Lock lock(lane_.mutex);
  const TileGeometry& geometry = find(cache).geometry();
  return {geometry.shape(), geometry.tile_tokens(), geometry.stored().bytes(),
          layout_fingerprint(geometry)};
}

std::vector<uint8_t> CacheSet::export_tiles(int32_t cache, int32_t version, int64_t row,
                                            int64_t begin, int64_t end) {
  const Lock lock(lane_.mutex);
  Cache& found = find_current(cache, version);
  const TileGeometry& geometry = found.geometry();
  check_row("export of tiles of", found, row);
  const Row& state = found.row(row);
  const int64_t tile_tokens = geometry.tile_tokens();
  if (begin < 0 || begin > end || end > state.length / tile_tokens) {
    fail(ErrorKind::kInvalidArgument, "export of tiles ", begin, " to ", end, " of row ", row,
         ", which has ", state.length / tile_tokens, " full ones");
  }
  if (begin < end) check_kept("export of tiles of", found, row, begin * tile_tokens);
  drain();
  write_held(found, row, end);
  std::vector<uint8_t> tiles(static_cast<size_t>(offset_of(geometry, begin, end, 0)));
  const auto head_bytes = static_cast<size_t>(geometry.stored().bytes());
  const auto spans =
      state.spans(found.geometry().tile_tokens(), begin * tile_tokens, end * tile_tokens);
  const auto copy = [&](int64_t d, size_t, int64_t index, const std::byte* tile) {
    const HeadSet heads = geometry.heads(row, d);
    for (int64_t i = 0; i < heads.count; ++i, tile += head_bytes) {
      std::memcpy(tiles.data() + offset_of(geometry, begin, index, heads.head(i)), tile,
                  head_bytes);
    }
  };
  if (!spans.empty()) {
    lane_.read_tiles(geometry, {.spans = spans,
                                .next = lane_.announced().reads(),
                                .verify = lane_.has_checksums(),
                                .visit = copy});
  }
  return tiles;
}

void CacheSet::import_tiles(int32_t cache, int32_t version, int64_t row, int64_t begin,
                            std::span<const std::byte> tiles) {
  const Lock lock(lane_.mutex);
  const ScopedTimer timer(lane_.counters().append_ns);
  const TraceScope scope(lane_.trace(), {.cache = cache, .kind = TraceKind::kAppend});
  Cache& found = find_current(cache, version);
  const TileGeometry& geometry = found.geometry();
  const CacheShape& shape = geometry.shape();
  check_row("import of tiles into", found, row);
  const int64_t tile_bytes = offset_of(geometry, 0, 1, 0), tile_tokens = geometry.tile_tokens();
  if (std::ssize(tiles) % tile_bytes != 0) {
    fail(ErrorKind::kInvalidArgument, "import of ", tiles.size(), " bytes: a tile has ",
         tile_bytes);
  }
  const int64_t end = begin + std::ssize(tiles) / tile_bytes;
  const int64_t length = found.row(row).length;
  if (begin < 0 || (begin > 0 && begin * tile_tokens != length) ||
      end * tile_tokens > shape.capacity_tokens) {
    fail(ErrorKind::kInvalidArgument, "import of tiles ", begin, " to ", end, ", of ", tile_tokens,
         " tokens each, into row ", row, ", which has ", length, " tokens and a capacity of ",
         shape.capacity_tokens, ": give tiles that begin where it ends, or at 0");
  }
  if (begin == 0) cut_back(found, {{row, 0}});
  drain();
  write_held(found, row, begin);
  const int64_t head_bytes = geometry.stored().bytes();
  const auto pack = [&](int64_t device, int64_t tile, std::byte* to) {
    const HeadSet heads = geometry.heads(row, device);
    for (int64_t i = 0; i < heads.count; ++i) {
      std::memcpy(to + i * head_bytes,
                  tiles.data() + offset_of(geometry, begin, tile, heads.head(i)),
                  static_cast<size_t>(head_bytes));
    }
    std::fill(to + heads.count * head_bytes, to + geometry.tile_bytes(row, device), std::byte{0});
  };
  Row& state = found.row(row);
  make_room(found, row, end);
  const NewTiles run{*state.own, begin, end, pack};
  lane_.store_tiles(*found.view.runs, {&run, 1});
  state.store_before(end);
  count_tail(found, row);
  set_length(found, row, end * tile_tokens);
  lane_.counters().bytes_appended += (end - begin) * tile_tokens * shape.token_bytes();
}

}  // namespace nspjax
