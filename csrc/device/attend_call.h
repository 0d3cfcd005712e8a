// What a device is asked to attend over.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "attention/kernel.h"
#include "layout/tile.h"

namespace nspjax {

// Some query tokens of one batch row over the tokens that they see.
struct AttendPass {
  int64_t batch_row;    // in queries and out
  int64_t row;          // of the cache
  int64_t query_begin;  // of the call's n_tokens
  int64_t query_end;
  std::vector<int32_t> first;  // [(query_end - query_begin) * group]: query i sees the tokens
  std::vector<int32_t> last;   //   first[i] <= j < last[i]
  int64_t token_begin;         // what any of them sees
  int64_t token_end;
  int64_t stored_tiles;   // tiles from here on are not on the devices: there is one at most,
  const std::byte* tail;  // and this is it, for all devices side by side
};

// What is the same on every device. Devices hold different heads, so they write disjoint results.
struct AttendCall {
  const TileGeometry& geometry;
  TileKernel kernel;
  int64_t n_tokens;  // T
  int64_t group;     // query heads for each KV head
  int64_t padded_dim;
  float scale;
  float softcap;
  const float* queries;  // [B, n_kv_heads, T, group, padded_dim], not scaled
  float* out;            // [B, T, n_kv_heads * group, head_dim]: unnormalised sums
  float* max;            // [B, T, n_kv_heads * group]
  float* sum;            // the same
  std::vector<AttendPass> passes;

  int64_t queries_of(const AttendPass& pass) const {
    return (pass.query_end - pass.query_begin) * group;
  }
};

}  // namespace nspjax
