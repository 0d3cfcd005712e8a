// The pure parts: checksum, number formats, extents, tile addresses, plans.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <random>
#include <set>
#include <string_view>
#include <vector>

#include "base/crc32c.h"
#include "check.h"
#include "device/extents.h"
#include "device/read_plan.h"
#include "format/numbers.h"
#include "format/plan.h"
#include "store/announced.h"
#include "store/budget.h"
#include "store/read_ahead.h"
#include "store/row.h"

namespace nspjax::testing {
namespace {

void test_crc32c() {  // RFC 3720, B.4, and the usual check value
  check(crc32c(std::as_bytes(std::span(std::string_view("123456789")))) == 0xe3069283u, "digits");
  std::array<std::byte, 32> data{};
  check(crc32c(data) == 0x8a9136aau, "zeros");
  data.fill(std::byte{0xff});
  check(crc32c(data) == 0x62a8ab43u, "ones");
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i);
  check(crc32c(data) == 0x46dd794eu, "counting up");
  std::reverse(data.begin(), data.end());
  check(crc32c(data) == 0x113fdb5cu, "counting down");
  check(crc32c({}) == 0, "nothing");
}

// The checksum is the table's, for any length and alignment, whole or in two parts.
[[maybe_unused]] void test_crc32c_like_table(Crc32c& crc32c) {
  std::mt19937_64 random(1);
  std::vector<std::byte> data(64 << 10);
  for (std::byte& b : data) b = static_cast<std::byte>(random());
  const auto below = [&](size_t limit) { return static_cast<size_t>(random() % limit); };
  for (int i = 0; i < 2000; ++i) {
    const size_t begin = below(64), size = below(i % 2 == 0 ? 2000 : data.size() - 64);
    const std::span<const std::byte> part = std::span(data).subspan(begin, size);
    const uint32_t expected = crc32c_table(0, part);
    check(crc32c(0, part) == expected, "whole");
    const size_t cut = below(size + 1);
    check(crc32c(crc32c(0, part.first(cut)), part.subspan(cut)) == expected, "parts");
    check(crc32c_table(crc32c(0, part.first(cut)), part.subspan(cut)) == expected, "mixed");
  }
}

void test_crc32c_in_hardware() {
#ifdef NSPJAX_X86
  if (cpu_has_crc32()) test_crc32c_like_table(crc32c_sse42);
  if (cpu_has_wide_products()) test_crc32c_like_table(crc32c_avx512);
#endif
}

void test_f16() {
  check(f16_to_f32(0x3c00) == 1.0f && f16_to_f32(0xc000) == -2.0f, "one, minus two");
  check(f16_to_f32(0x7bff) == 65504.0f && f16_to_f32(0x0400) == 0x1p-14f, "normal limits");
  check(f16_to_f32(0x0001) == 0x1p-24f && f16_to_f32(0x83ff) == -1023 * 0x1p-24f, "subnormal");
  check(std::isinf(f16_to_f32(0xfc00)) && std::isnan(f16_to_f32(0x7e00)), "not finite");
  check(std::signbit(f16_to_f32(0x8000)), "minus zero");
}

void test_extents() {
  Extents extents(4096);
  const Extent a = extents.reserve(100), b = extents.reserve(200), c = extents.reserve(300);
  check(a.offset == 4096 && b.offset == 4196 && c.offset == 4396, "one after another");
  extents.release(b);
  check(extents.reserved_bytes() == 400 && extents.end() == 4696, "released");
  check(extents.reserve(201).offset == 4696, "does not fit the gap");
  check(extents.reserve(150).offset == 4196, "fits the gap");
  check(extents.reserve(50).offset == 4346, "fits what is left of it");
}

// Every head of every tile has a place of its own, inside the row's region, for awkward shapes.
void test_tiles_do_not_overlap() {
  for (const int64_t n_devices : {1, 2, 3, 5}) {
    for (const int64_t n_heads : {1, 3, 4}) {
      const CacheShape shape{3, 37, n_heads, 24, DType::kBF16, DType::kBF16};
      const TileGeometry geometry(shape, n_devices, 16, 1 << 20);
      for (int64_t device = 0; device < n_devices; ++device) {
        int64_t end = 0;  // of what came before
        for (int64_t row = 0; row < shape.batch; ++row) {
          const HeadSet heads = geometry.heads(row, device);
          check(geometry.row_offset(row, device) == end, "rows follow each other");
          for (int64_t i = 0; i < heads.count; ++i) {
            check((row * n_heads + heads.head(i)) % n_devices == device, "placement");
          }
          const int64_t tile_bytes = geometry.tile_bytes(row, device);
          check(tile_bytes % kPageBytes == 0, "page-aligned");
          check(heads.count * geometry.stored().bytes() <= tile_bytes, "all heads in the tile");
          end += geometry.capacity_tiles() * tile_bytes;
        }
        check(geometry.device_bytes(device) == end, "in the extent");
      }
    }
  }
}

// A window's tiles take turns in the slots, and what is read at once follows each other there.
void test_rings() {
  for (const int64_t window : {1, 16, 17, 80, 1000}) {
    const CacheShape shape{2, 300, 3, 24, DType::kF32, DType::kF32, window};
    const TileGeometry geometry(shape, 2, 16, 30 << 10);
    const int64_t room = std::min<int64_t>((window + 15) / 16 + 1, 19);
    check(geometry.room_tiles() == room, "the window's tiles and one more");
    check(
        geometry.device_bytes(0) == room * (geometry.tile_bytes(0, 0) + geometry.tile_bytes(1, 0)),
        "no room for others");
    Region region;
    region.row = 1;
    region.offsets = {4096, 8192};
    for (int64_t begin = 0; begin + room <= 19; ++begin) {
      for (const int64_t read_bytes : {1, 20'000, 1 << 20}) {
        int64_t next = begin;
        for (const TileRead& read :
             plan_reads(geometry, {&region, begin, begin + room}, 19, 1, read_bytes)) {
          check(read.begin == next && read.end > read.begin, "in token order");
          check(read.range.bytes == (read.end - read.begin) * geometry.tile_bytes(1, 1), "whole");
          for (int64_t tile = read.begin; tile < read.end; ++tile) {
            const int64_t offset =
                read.range.offset + (tile - read.begin) * geometry.tile_bytes(1, 1);
            check(offset == 8192 + tile % room * geometry.tile_bytes(1, 1), "its slot");
          }
          next = read.end;
        }
        check(next == begin + room, "all of them");
      }
    }
  }
}

void test_every_head_is_on_one_device() {
  const CacheShape shape{11, 64, 5, 16, DType::kF32, DType::kF32};
  const TileGeometry geometry(shape, 3, 16, 1 << 20);
  for (int64_t row = 0; row < shape.batch; ++row) {
    std::multiset<int64_t> seen;
    for (int64_t device = 0; device < 3; ++device) {
      const HeadSet heads = geometry.heads(row, device);
      for (int64_t i = 0; i < heads.count; ++i) seen.insert(heads.head(i));
    }
    check(seen == std::multiset<int64_t>{0, 1, 2, 3, 4}, "each head once");
  }
}

void test_plans_keep_to_the_budget() {
  for (const int64_t memory : {1 << 20, 16 << 20, 1 << 30}) {
    for (const int64_t n_devices : {1, 2, 8}) {
      const HostBudget budget = split_host_memory(memory, n_devices, 2 << 20);
      check(budget.staging_bytes <= memory / 4 && budget.slots >= 8, "staging");
      check(budget.slot_bytes % kPageBytes == 0 && budget.slot_bytes <= 2 << 20, "slots");
      const CacheShape shape{16, 1 << 15, 8, 128, DType::kBF16, DType::kBF16};
      const CacheNeeds needs = plan_caches(shape, 32, n_devices, budget, budget.cache_bytes, 0);
      if (needs.fits_host) {
        check(needs.tail_bytes <= budget.cache_bytes, "tails");
        check(largest_tile_bytes(shape.run(), n_devices, needs.tile_tokens) <= budget.slot_bytes,
              "tile");
      } else {
        const HostBudget enough =
            split_host_memory(needs.smallest_host_memory_bytes, n_devices, 2 << 20);
        check(plan_caches(shape, 32, n_devices, enough, enough.cache_bytes, 0).fits_host, "enough");
      }
    }
  }
}

void test_budget() {
  const HostBudget split{
      .slot_bytes = 4096, .slots = 8, .staging_bytes = 1 << 15, .cache_bytes = 80'000};
  Budget budget(split, 50'000);
  check(budget.free_bytes() == 80'000, "nobody has any");
  check(budget.pinned_that_fit(1'000, 10'000) == 50, "as many as may be pinned");
  check(budget.pinned_that_fit(1'000, 40'000) == 30, "beside tails, and an eighth for later ones");
  budget.promise({.tail_bytes = 10'000, .pinned_bytes = 20'000});
  check(budget.pinned_that_fit(1'000, 0) == 30, "of which 20 are");
  budget.hold(20'000);
  check(budget.free_bytes() == 50'000 && budget.unused_bytes() == 30'000, "held, not promised");
  check(budget.may_hold(50'000) && !budget.may_hold(50'001), "what is free");
  check(!budget.is_overdrawn(60'000) && budget.is_overdrawn(60'001), "all but what is pinned");
  check(budget.lend() == 10'000, "an eighth");
  check(budget.free_bytes() == 40'000, "lent");
  check(budget.weight_buffers() == 2, "a quarter of what is unused");
  budget.promise_weights(2);
  check(budget.free_bytes() == 40'000 - 2 * 4096, "promised");
  budget.hold(20'000);
  check(budget.may_hold(40'000) && !budget.may_hold(40'001), "what is held already may stay");
  check_throws(ErrorKind::kStoreFull, [&] { (void)budget.weight_buffers(); });
  budget.take_back({.tail_bytes = 10'000, .pinned_bytes = 20'000});
  budget.take_back_lent();
  check(budget.free_bytes() == 80'000 - 2 * 4096, "given back");
}

void test_rows() {
  const TileGeometry geometry({1, 64, 1, 64, DType::kF32, DType::kF32}, 1, 16, 1 << 20);
  Row row{};
  row.own = std::make_shared<Region>();
  for (int i = 0; i < 3; ++i) row.tail.push_back(new_tail_tile(geometry, 0));
  row.length = 40;
  const RowTiles view = row.tiles();
  check(row.full_tiles(0, 16).n_full == 2, "two are full");
  row.store_before(2);
  check(row.tail_begin == 2 && row.stored_tiles == 2 && row.tail_end() == 3, "they are stored");
  check(view.stored_tiles == 0 && view.has_in_tail(0), "what was taken before is as it was");
  row.share_tiles(2);
  row.share_tiles(1);
  const auto spans = row.spans(16, 10, 40);
  check(spans.size() == 3 && spans[0].end == 1 && spans[1].end == 2 && spans[2].end == 3, "runs");
  row.cut_shared(1);
  check(row.own_begin() == 1, "cut");
}

// More than a device has buffers for is not handed to it.
void test_announced_reads() {
  AnnouncedReads announced(2, 3);
  const TileRange a{0, 1}, b{1, 1}, c{2, 1}, d{3, 1};
  announced.add({.cache = 0, .rows = {0}, .ranges = {{a, b}, {a}}});
  announced.add({.cache = 1, .rows = {0}, .ranges = {{c, d}, {b, c}}});
  check(announced.reads() == DeviceReads{{a, b, c}, {a, b, c}},
        "in order, as far as there is room");
  const std::vector<int32_t> others{1, 2}, rows{2, 0};
  announced.take(0, others);
  announced.take(0, rows);
  check(announced.reads() == DeviceReads{{c, d}, {b, c}}, "what is attended over is left out");
  announced.drop(1);
  check(announced.reads() == DeviceReads{{}, {}}, "so is what there is no more");
}

void test_read_list() {
  Trace trace(0);
  std::vector<std::string> warnings;
  StoreOptions store;
  store.devices = {"memory:", "memory:"};
  store.host_memory_bytes = 1 << 20;
  const Lane lane(store,
                  {.devices = store.devices,
                   .file_name = "",
                   .host_memory_bytes = store.host_memory_bytes,
                   .pinned_bytes = 0},
                  trace, warnings);
  // rows take turns between the devices
  const TileGeometry geometry({4, 128, 1, 64, DType::kF32, DType::kF32}, 2, 32,
                              lane.memory().slot_bytes);
  const int64_t tile_bytes = geometry.tile_bytes(0, 0);
  check(tile_bytes == lane.memory().slot_bytes, "a tile is a read");
  Region even, odd;
  even.row = 0;
  odd.row = 1;
  even.offsets = odd.offsets = {0, 0};

  ReadList few(lane, 3);
  few.add(geometry, {&even, 0, 2}, 4);
  check(!few.full() && few.bytes() == 2 * tile_bytes, "two");
  few.add(geometry, {&even, 2, 4}, 4);
  few.add(geometry, {&even, 0, 4}, 4);
  check(!few.full() && few.bytes() == 3 * tile_bytes, "one device has its three");
  few.add(geometry, {&odd, 0, 4}, 2);
  check(!few.full() && few.bytes() == 5 * tile_bytes, "two are stored");
  few.add(geometry, {&odd, 2, 4}, 4);
  check(few.full() && few.bytes() == 6 * tile_bytes, "both have");
  const DeviceReads reads = few.take();
  check(reads[0].size() == 3 && reads[1].size() == 3, "each three");
  check(reads[0][2] == TileRange{2 * tile_bytes, tile_bytes}, "the first ones");

  ReadList small(lane, ReadList::kNoLimit, 2 * tile_bytes + 1);
  small.add(geometry, {&even, 0, 4}, 4);
  check(small.bytes() == 2 * tile_bytes && !small.full(), "what fits");
  small.add(geometry, {&odd, 0, 4}, 4);
  check(small.bytes() == 4 * tile_bytes && small.full(), "on each device");
}

}  // namespace
}  // namespace nspjax::testing

int main() {
  using namespace nspjax::testing;
  test_crc32c();
  test_crc32c_in_hardware();
  test_f16();
  test_extents();
  test_tiles_do_not_overlap();
  test_rings();
  test_every_head_is_on_one_device();
  test_plans_keep_to_the_budget();
  test_budget();
  test_rows();
  test_announced_reads();
  test_read_list();
}
