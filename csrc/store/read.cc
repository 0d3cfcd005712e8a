// Reading tokens back.
#include <algorithm>
#include <cstring>

#include "layout/pack.h"
#include "store/store.h"

namespace nspjax {
namespace {

// Calls fn(index, data) for each range.
class Visit final : public ScanVisitor {
 public:
  explicit Visit(std::function<void(size_t, const std::byte*)> fn) : fn_(std::move(fn)) {}
  void ready(size_t index, std::shared_ptr<const std::byte> data) override {
    fn_(index, data.get());
  }

 private:
  std::function<void(size_t, const std::byte*)> fn_;
};

}  // namespace

void Store::read_tile(const Cache& cache, int64_t row, int64_t tile, std::byte* into) {
  const TileGeometry& geometry = cache.geometry;
  on_all_devices([&](int64_t d) {
    const auto device = static_cast<size_t>(d);
    const TileRange range{cache.extents[device].offset + geometry.tile_offset(row, d, tile),
                          geometry.tile_bytes(row, d)};
    if (range.bytes == 0) return;
    std::byte* to = into + geometry.tail_offset(row, d);
    Visit copy([&](size_t, const std::byte* data) {
      std::memcpy(to, data, static_cast<size_t>(range.bytes));
    });
    devices_[device]->scan({&range, 1}, copy);
  });
}

void Store::read(int32_t cache, int64_t row, int64_t begin, int64_t end, std::byte* k,
                 std::byte* v) {
  std::lock_guard lock(mutex_);
  const Cache& found = find(cache);
  const TileGeometry& geometry = found.geometry;
  if (row < 0 || row >= geometry.shape().batch) {
    fail(ErrorKind::kInvalidArgument, "read of row ", row, ": the cache has rows 0 to ",
         geometry.shape().batch - 1);
  }
  const Row& state = found.rows[static_cast<size_t>(row)];
  if (begin < 0 || begin > end || end > state.length) {
    fail(ErrorKind::kInvalidArgument, "read of tokens ", begin, " to ", end, " of row ", row,
         ", which has ", state.length);
  }
  const TokenRun<std::byte> into{k, v, begin};
  const int64_t tile_tokens = geometry.tile_tokens();
  const int64_t tail_begin = round_down(state.length, tile_tokens);
  const int64_t first_tile = begin / tile_tokens;
  on_all_devices([&](int64_t d) {
    const HeadSet heads = geometry.heads(row, d);
    if (heads.count == 0) return;
    const auto device = static_cast<size_t>(d);
    const int64_t region = found.extents[device].offset;
    std::vector<TileRange> ranges;
    for (int64_t tile = first_tile; tile * tile_tokens < std::min(end, tail_begin); ++tile) {
      ranges.push_back({region + geometry.tile_offset(row, d, tile), geometry.tile_bytes(row, d)});
    }
    Visit visit([&](size_t i, const std::byte* tile) {
      const int64_t from = (first_tile + static_cast<int64_t>(i)) * tile_tokens;
      unpack_tokens(geometry, heads, tile, std::max(begin, from), std::min(end, from + tile_tokens),
                    into);
    });
    devices_[device]->scan(ranges, visit);
    if (tail_begin < end) {
      unpack_tokens(geometry, heads, state.tail.data() + geometry.tail_offset(row, d),
                    std::max(begin, tail_begin), end, into);
    }
  });
}

}  // namespace nspjax
