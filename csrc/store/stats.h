// What a store counts, each counter with its name.
#pragma once

#include <cstdint>
#include <span>

#include "device/device.h"

namespace nspjax {

struct StoreStats : DeviceStats {  // of all devices
  int64_t bytes_appended;
  int64_t bytes_copied;   // of tails, from row to row
  int64_t padding_bytes;  // of what was written to devices: fills tiles to pages
  // What crosses the link between host and devices, where there is one: queries, results, what is
  // written and what is fetched; with kv_over_link what is read and written.
  int64_t link_bytes;
  int64_t attend_ns;
  int64_t append_ns;
  int64_t kv_bytes_stored;  // of the caches that there are
  int64_t weight_bytes_read, weight_bytes_read_ahead, weight_bytes_stored;  // see WeightStats
  int64_t host_bytes;                                                       // the five below
  int64_t staging_bytes, tail_bytes, sketch_bytes, pinned_bytes, weight_buffer_bytes;
  // Of attentions that read a part of V, each KV head of a row by itself: see SparseTally.
  int64_t sparse_heads, sparse_tokens, sparse_tokens_read, left_out_ppb, most_left_out_ppb;
};

struct StoreStatsField {
  const char* name;
  int64_t StoreStats::* field;
};
std::span<const StoreStatsField> store_stats_fields();

StoreStats& operator+=(StoreStats& stats, const StoreStats& more);

}  // namespace nspjax
