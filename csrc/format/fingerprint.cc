#include "format/fingerprint.h"

#include <array>
#include <cstring>
#include <vector>

#include "base/crc32c.h"
#include "format/numbers.h"
#include "format/pack.h"

namespace nspjax {
namespace {

// The bits of 0, 1 and -1, which every type and every scale has exactly.
std::array<uint32_t, 3> plain_numbers(DType dtype) {
  return with_dtype(dtype, []<DType kDType>() {
    using E = Element<kDType>;
    return std::array{E::encode(0.0f), E::encode(1.0f), E::encode(-1.0f)};
  });
}

}  // namespace

uint32_t layout_fingerprint(const TileGeometry& geometry) {
  const PageRun& run = geometry.run();
  const auto numbers = plain_numbers(geometry.shape().dtype);
  const auto element_bytes = static_cast<size_t>(size_bytes(geometry.shape().dtype));
  const auto plane_bytes =
      static_cast<size_t>(geometry.tile_tokens() * run.heads() * run.width()) * element_bytes;
  std::vector<std::byte> tokens(run.n_planes * plane_bytes);  // one plane after another
  uint32_t random = 1;
  for (size_t i = 0; i < tokens.size(); i += element_bytes) {
    random = random * 1664525 + 1013904223;  // Numerical Recipes' generator
    std::memcpy(&tokens[i], &numbers[(random >> 16) % 3], element_bytes);
  }
  TokenRun<const std::byte> from{.plane = {}, .first = 0};
  for (size_t i = 0; i < run.n_planes; ++i) from.plane[i] = tokens.data() + i * plane_bytes;
  AlignedBuffer tile(geometry.stored().bytes());
  pack_tile(geometry, {.first = 0, .step = 1, .count = 1}, nullptr, from, 0,
            geometry.stored().bytes(), tile.data());
  return crc32c({tile.data(), static_cast<size_t>(geometry.stored().bytes())});
}

}  // namespace nspjax
