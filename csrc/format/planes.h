// What a cache keeps of its tokens: planes, in page runs.
//
// A *plane* has some elements of every token and head: keys, values, a latent, keys once more in
// another order. A *page run* is one plane, or a few side by side, with pages and checksums of its
// own: it is read as a whole, and reading it costs nothing of the other runs. K and V are two
// planes of one run, since attention reads both. A cache is a list of page runs.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "format/dtype.h"

namespace nspjax {

// How a tile's elements of one head follow each other (head_tile.h), and what shares a scale.
enum class Order : uint8_t {
  kByToken,    // a token's channels side by side, a scale a token: what sums weighted tokens reads
  kByBlock,    // 64 tokens side by side, channel after channel, a scale a channel: what scores read
  kByChannel,  // all of a tile's tokens side by side, a scale a channel: what reads a few channels
};

struct Plane {
  std::string_view name;
  int64_t heads;  // the plane's units of placement, of a row
  int64_t width;  // elements of a token and head
  DType stored;   // of full tiles
  Order order;

  bool operator==(const Plane&) const = default;
};

inline constexpr size_t kMostPlanesOfARun = 2;

// Planes of the same heads, width and stored type.
struct PageRun {
  std::array<Plane, kMostPlanesOfARun> plane;
  size_t n_planes;
  // Its tokens are another run's in another order: it has no tail of its own.
  bool derived = false;
  // In a tile, a power of two; 0: as many as the cache's first run has.
  int64_t tile_tokens = 0;

  std::span<const Plane> planes() const { return {plane.data(), n_planes}; }
  constexpr int64_t heads() const { return plane[0].heads; }
  constexpr int64_t width() const { return plane[0].width; }
  constexpr DType stored() const { return plane[0].stored; }
  // Elements of one token, all planes and heads.
  constexpr int64_t token_elements() const {
    return static_cast<int64_t>(n_planes) * heads() * width();
  }
  // Throws InvalidArgument: planes that cannot be side by side.
  void check() const;
  bool operator==(const PageRun&) const = default;
};

constexpr PageRun keys_and_values(int64_t n_kv_heads, int64_t head_dim, DType stored) {
  return {.plane = {{{"k", n_kv_heads, head_dim, stored, Order::kByBlock},
                     {"v", n_kv_heads, head_dim, stored, Order::kByToken}}},
          .n_planes = 2};
}

// One vector a token, of which all heads' keys and values are made (MLA: 512 channels and the 64 of
// the rotary part).
constexpr PageRun latent(int64_t width, DType stored) {
  return {.plane = {{{"latent", 1, width, stored, Order::kByToken}}}, .n_planes = 1};
}

// K for reading a few channels of many tokens (SparF, arXiv:2409.04992): with 1024 tokens of 16
// bits a page has 2 channels, with 256 it has 8.
constexpr PageRun keys_by_channel(int64_t n_kv_heads, int64_t head_dim, DType stored,
                                  int64_t tile_tokens) {
  return {.plane = {{{"k_by_channel", n_kv_heads, head_dim, stored, Order::kByChannel}}},
          .n_planes = 1,
          .derived = true,
          .tile_tokens = tile_tokens};
}

struct CacheFormat {
  int64_t batch;  // rows
  int64_t capacity_tokens;
  DType dtype;                // appended, and of the tails
  std::vector<PageRun> runs;  // the first is what appends fill, tile by tile
  // Of a row at least so many of the newest are kept; 0: all.
  int64_t window_tokens = 0;
  // Host memory keeps a sketch of each stored tile of the first run (sketch.h).
  bool sketch = false;
};

// A cache of keys and values.
struct CacheShape {
  int64_t batch;  // rows
  int64_t capacity_tokens;
  int64_t n_kv_heads;
  int64_t head_dim;
  DType dtype;   // appended, and of the tail
  DType stored;  // of full tiles
  // Of a row at least so many of the newest are kept, and no attention sees more; 0: all.
  int64_t window_tokens = 0;
  // K is kept once more, by channel, in a run of its own.
  bool k_by_channel = false;
  // Host memory keeps a sketch of what is stored, so that attention may read a part of V.
  bool sketch = false;

  PageRun run() const { return keys_and_values(n_kv_heads, head_dim, stored); }
  CacheFormat format() const {
    CacheFormat format{batch, capacity_tokens, dtype, {run()}, window_tokens, sketch};
    if (k_by_channel) format.runs.push_back(keys_by_channel(n_kv_heads, head_dim, stored, 0));
    return format;
  }
  int64_t vector_bytes() const { return head_dim * size_bytes(dtype); }
  // All of one token, as appended.
  int64_t token_bytes() const { return run().token_elements() * size_bytes(dtype); }
  bool operator==(const CacheShape&) const = default;
};

}  // namespace nspjax
