// What a device is asked to attend over.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "attention/choose.h"
#include "attention/kernel.h"
#include "device/device.h"
#include "format/region.h"
#include "format/tile.h"

namespace nspjax {

// Some query tokens of one batch row. What its passes find is added up in the order of tokens.
struct QueryUnit {
  int64_t batch_row;    // in queries and out
  int64_t row;          // of the cache
  int64_t query_begin;  // of the call's n_tokens
  int64_t query_end;
  std::vector<int32_t> first;  // [(query_end - query_begin) * group]: query i sees the tokens
  std::vector<int32_t> last;   //   first[i] <= j < last[i]
  int64_t token_begin;         // what any of them sees
  int64_t token_end;
};

// Units over a run of tiles that they all have: one unit, but for shared prefixes, which are read
// once for all.
struct AttendPass {
  struct Member {
    size_t unit;
    int64_t first_segment;  // how many segments of the unit are before this pass
  };
  std::vector<Member> members;
  TileSpan tiles;
  int64_t token_begin;  // what any member sees of them
  int64_t token_end;
  int64_t stored_tiles;                // tiles from here on are not stored:
  std::vector<const std::byte*> tail;  // these, the parts of all devices side by side
  std::vector<int32_t> first;          // [n_queries], all members'
  std::vector<int32_t> last;
  std::vector<float> queries;  // [n_kv_heads, n_queries, padded_dim], times a power of two

  int64_t n_queries() const { return std::ssize(first); }
};

// What attentions that read a part of V did, each KV head of a row by itself.
struct SparseTally {
  std::atomic<int64_t> n_heads = 0;
  std::atomic<int64_t> n_tokens = 0;           // that were scored
  std::atomic<int64_t> n_tokens_read = 0;      // of which V was
  std::atomic<int64_t> left_out_ppb = 0;       // of the softmax, in 10^-9, summed over the heads
  std::atomic<int64_t> most_left_out_ppb = 0;  // of any

  void add(int64_t tokens, int64_t tokens_read, double left_out);
};

// What is the same on every device. Devices hold different heads, so they write disjoint results.
struct AttendCall {
  const TileGeometry& geometry;
  KernelSet kernels;
  Trace& trace;
  bool verify;  // checksums of what was read
  int32_t cache;
  int64_t read_bytes;  // at most, in one read
  int64_t n_tokens;    // T
  int64_t group;       // query heads for each KV head
  int64_t padded_dim;
  float scale;  // what is left of it
  float softcap;
  Sparsity sparsity = {};
  SparseTally* tally = nullptr;  // where a part of V is read
  float* out;                    // [B, T, n_kv_heads * group, head_dim]: unnormalised sums
  float* max;                    // [B, T, n_kv_heads * group]
  float* sum;                    // the same
  std::vector<QueryUnit> units;
  std::vector<AttendPass> passes;
  // What the next call will probably read first, on each device.
  std::vector<std::vector<TileRange>> next_reads;
};

// What a call sends to device `index` and gets back over the link, in float32 as AttendCall has it.
struct AttendTraffic {
  int64_t query_bytes = 0;
  int64_t result_bytes = 0;  // out and lse
};

inline AttendTraffic traffic_of(const AttendCall& call, int64_t index) {
  const int64_t head_dim = call.geometry.shape().head_dim;
  int64_t n_vectors = 0;
  for (const QueryUnit& unit : call.units) {
    n_vectors += call.geometry.heads(unit.row, index).count * std::ssize(unit.first);
  }
  constexpr int64_t kFloat = sizeof(float);
  return {n_vectors * head_dim * kFloat, n_vectors * (head_dim + 1) * kFloat};
}

}  // namespace nspjax
