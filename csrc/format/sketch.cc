#include "format/sketch.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include "base/align.h"

namespace nspjax {
namespace {

constexpr int64_t kSectionBytes = 64;
constexpr uint32_t kNanScale = 0x7fc07fc0u;  // scale and offset, in bf16

PageRun keys_alone(int64_t head_dim, DType type) {
  return {.plane = {{{"k", 1, head_dim, type, Order::kByBlock}}}, .n_planes = 1};
}

// Good until the thread's next call.
std::byte* converted(const HeadTile& from, const std::byte* tile, const HeadTile& to) {
  thread_local AlignedBuffer scratch;
  if (scratch.size_bytes() < to.bytes()) scratch = AlignedBuffer(to.bytes());
  convert_head(from, tile, to, scratch.data());
  return scratch.data();
}

// [tile_tokens, head_dim] of V, and whether K has anything that is not finite.
struct Numbers {
  std::span<const float> v;
  bool keys_are_finite;
};

Numbers numbers_of(const HeadTile& stored, const std::byte* tile) {
  const HeadTile numbers(DType::kF32, stored.head_dim(), stored.tile_tokens());
  const std::byte* data = converted(stored, tile, numbers);
  const auto size = static_cast<size_t>(stored.tile_tokens() * stored.head_dim());
  const std::span k(reinterpret_cast<const float*>(data), size);
  const std::span v(reinterpret_cast<const float*>(data + numbers.v_offset()), size);
  return {v, std::ranges::all_of(k, [](float x) { return std::isfinite(x); })};
}

}  // namespace

SketchTile::SketchTile(const HeadTile& stored)
    : keys_(
          keys_alone(stored.head_dim(), is_quantised(stored.type()) ? stored.type() : DType::kInt4),
          is_quantised(stored.type()) ? stored.type() : DType::kInt4, stored.tile_tokens()),
      v_sum_offset_(v_scales_offset() + stored.planes()[1].scales_bytes()),
      bytes_(round_up(v_sum_offset_ + stored.head_dim() * int64_t{sizeof(float)}, kSectionBytes)) {}

void make_sketch(const HeadTile& stored, const std::byte* tile, const SketchTile& sketch,
                 std::byte* into) {
  const auto [v, keys_are_finite] = numbers_of(stored, tile);
  std::span sum(reinterpret_cast<float*>(into + sketch.v_sum_offset()),
                static_cast<size_t>(stored.head_dim()));
  std::ranges::fill(sum, 0.0f);
  for (size_t i = 0; i < v.size(); ++i) sum[i % sum.size()] += v[i];

  const HeadTile& keys = sketch.keys();
  const HeadTile codes(keys.type(), stored.head_dim(), stored.tile_tokens());
  const std::byte* from = is_quantised(stored.type()) ? tile : converted(stored, tile, codes);
  const PlaneTile &k = keys.planes()[0], &k_from = codes.planes()[0], &v_from = codes.planes()[1];
  std::memcpy(into + k.offset, from + k_from.offset, static_cast<size_t>(k.bytes()));
  std::memcpy(into + k.scales_offset, from + k_from.scales_offset,
              static_cast<size_t>(k.scales_bytes()));
  if (!keys_are_finite) std::memcpy(into + k.scales_offset, &kNanScale, sizeof(kNanScale));
  if (!is_quantised(stored.type())) return;
  std::memcpy(into + sketch.v_scales_offset(), tile + v_from.scales_offset,
              static_cast<size_t>(v_from.scales_bytes()));
}

}  // namespace nspjax
