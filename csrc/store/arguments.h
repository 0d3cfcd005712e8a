// What a store's calls take and give.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "attention/choose.h"
#include "format/dtype.h"
#include "format/plan.h"

namespace nspjax {

// K and V of batch row b's new tokens go to cache row rows[b] from position start[b] on.
struct AppendArgs {
  const std::byte* k;  // [B, T, n_kv_heads, head_dim] in the cache's dtype
  const std::byte* v;
  int64_t n_tokens;  // T
  std::span<const int32_t> rows;
  std::span<const int32_t> start;
  std::span<const int32_t> n_new;  // at most T; 0 leaves the row alone
  // Tiles that are full stay in host memory until writeback(), as far as there is room: up to
  // kMostHeldTokens of a row and a tile.
  bool hold = false;
};
inline constexpr int64_t kMostHeldTokens = 1024;

// Query t of batch row b stands at position[b] + t and sees stored token j iff j < length[b],
// j <= position[b] + t and, with a window, j > position[b] + t - window.
struct AttendArgs {
  const void* q;  // [B, T, n_q_heads, head_dim]
  DType q_dtype;
  int64_t n_tokens;
  int64_t n_q_heads;
  std::span<const int32_t> rows;
  std::span<const int32_t> position;
  std::span<const int32_t> length;
  float scale;
  int64_t window;  // 0: none
  float softcap;   // 0: none
  float* out;      // [B, T, n_q_heads, head_dim]; 0 for a query that sees nothing
  float* lse;      // [B, T, n_q_heads]; -inf for such a query
  // What the device reads next: what will probably be attended over then, or else what prefetch()
  // has announced.
  bool read_ahead = true;
  // Of one query token over a cache with sketches; then nothing is read ahead.
  Sparsity sparsity = {};
};

struct AttendResult {
  std::array<int64_t, 4> sizes;  // of out: B, T, n_q_heads, head_dim
  std::vector<float> out;
  std::vector<float> lse;
};

struct PrefetchArgs {
  std::span<const int32_t> rows;
  std::span<const int32_t> length;  // tokens that will be attended over; 0: none of this row
  int64_t most_bytes;               // 0: all that there is room for
};

// Tokens [begin, begin + n_tokens) of the rows, as far as they are before length[b] and, with a
// window, not more than that before it; 0 elsewhere.
struct FetchArgs {
  std::span<const int32_t> rows;
  std::span<const int32_t> length;  // 0 leaves the row alone
  int64_t begin;
  int64_t n_tokens;
  int64_t window = 0;  // none
  bool read_ahead;     // then of the cache that followed last time; else of what is announced
  std::byte* k;        // [B, n_tokens, n_kv_heads, head_dim] in the cache's dtype
  std::byte* v;
};

struct TakeRowsArgs {
  std::span<const int32_t> order;   // [batch], the row that each goes on from
  std::span<const int32_t> length;  // [batch], tokens of each row before; what it has beyond, ends
};

// Makes a call's arguments when its cache is found, under the call's lock, and may refuse: for a
// caller whose arrays must fit the cache's shape.
template <typename Args>
using ArgsFor = std::function<Args(const CacheShape&)>;
// Arguments that are there already.
template <typename Args>
ArgsFor<Args> made(const Args& args) {
  return [&args](const CacheShape&) { return args; };
}

struct RoomReport {
  CacheNeeds needs;
  std::vector<int64_t> available_bytes;  // [device]
  int64_t rows_that_fit;
};

// How the full tiles of a cache look outside of it: [tile, KV head, head_bytes], however many
// devices it is on.
struct TileLayout {
  CacheShape shape;
  int64_t tile_tokens;
  int64_t head_bytes;    // K and V of one head in one tile
  uint32_t fingerprint;  // of the order inside: the checksum of a tile of known tokens
};

}  // namespace nspjax
