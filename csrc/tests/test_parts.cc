// The pure parts: checksum, number formats, extents, tile addresses, plans.
#include <cmath>
#include <cstring>
#include <set>
#include <string_view>

#include "base/crc32c.h"
#include "check.h"
#include "device/extents.h"
#include "layout/plan.h"

namespace nspjax::testing {
namespace {

void test_crc32c() {  // RFC 3720, B.4, and the usual check value
  check(crc32c(std::as_bytes(std::span(std::string_view("123456789")))) == 0xe3069283u, "digits");
  const std::array<std::byte, 32> zeros{};
  check(crc32c(zeros) == 0x8a9136aau, "zeros");
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

// Every head of every tile of every row has a place of its own, inside the row's region, for
// awkward shapes.
void test_tiles_do_not_overlap() {
  for (const int64_t n_devices : {1, 2, 3, 5}) {
    for (const int64_t n_heads : {1, 3, 4}) {
      const CacheShape shape{3, 37, n_heads, 24, DType::kBF16};
      const TileGeometry geometry(shape, n_devices, 16, 1 << 20);
      for (int64_t device = 0; device < n_devices; ++device) {
        std::set<int64_t> taken;
        for (int64_t row = 0; row < shape.batch; ++row) {
          const HeadSet heads = geometry.heads(row, device);
          for (int64_t i = 0; i < heads.count; ++i) {
            check((row * n_heads + heads.head(i)) % n_devices == device, "placement");
            for (int64_t index = 0; index < geometry.capacity_tiles(); ++index) {
              const int64_t tile = geometry.tile_offset(row, device, index);
              check(tile % kPageBytes == 0, "page-aligned");
              const int64_t head_bytes = geometry.head_tile().bytes();
              check(geometry.head_offset(i) + head_bytes <= geometry.tile_bytes(row, device),
                    "in tile");
              const int64_t at = tile + geometry.head_offset(i);
              check(at >= geometry.row_offset(row, device) &&
                        at + head_bytes <= geometry.row_offset(row + 1, device),
                    "in region");
              for (int64_t byte = at; byte < at + head_bytes; byte += 64) {
                check(taken.insert(byte).second, "taken twice");
              }
            }
          }
        }
      }
    }
  }
}

void test_every_head_is_on_one_device() {
  const CacheShape shape{11, 64, 5, 16, DType::kF32};
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
      const HostBudget budget = split_host_memory(memory, n_devices);
      check(budget.staging_bytes <= memory / 2 && budget.slots >= 8, "staging");
      check(budget.slot_bytes % kPageBytes == 0 && budget.slot_bytes <= 2 << 20, "slots");
      const CacheShape shape{16, 1 << 15, 8, 128, DType::kBF16};
      const CacheNeeds needs = plan_caches(shape, 32, n_devices, budget, budget.tail_bytes, 0);
      if (needs.fits_host) {
        check(needs.tail_bytes <= budget.tail_bytes, "tails");
        check(largest_tile_bytes(shape, n_devices, needs.tile_tokens) <= budget.slot_bytes, "tile");
      } else {
        const HostBudget enough = split_host_memory(needs.smallest_host_memory_bytes, n_devices);
        check(plan_caches(shape, 32, n_devices, enough, enough.tail_bytes, 0).fits_host, "enough");
      }
    }
  }
}

}  // namespace
}  // namespace nspjax::testing

int main() {
  using namespace nspjax::testing;
  test_crc32c();
  test_f16();
  test_extents();
  test_tiles_do_not_overlap();
  test_every_head_is_on_one_device();
  test_plans_keep_to_the_budget();
}
