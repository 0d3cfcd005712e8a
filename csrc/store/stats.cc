#include "store/stats.h"

#include <array>
#include <vector>

namespace nspjax {

std::span<const StoreStatsField> store_stats_fields() {
  static constexpr auto kOwn = std::to_array<StoreStatsField>({
      {"bytes_appended", &StoreStats::bytes_appended},
      {"bytes_copied", &StoreStats::bytes_copied},
      {"padding_bytes", &StoreStats::padding_bytes},
      {"link_bytes", &StoreStats::link_bytes},
      {"attend_ns", &StoreStats::attend_ns},
      {"append_ns", &StoreStats::append_ns},
      {"kv_bytes_stored", &StoreStats::kv_bytes_stored},
      {"host_bytes", &StoreStats::host_bytes},
      {"staging_bytes", &StoreStats::staging_bytes},
      {"tail_bytes", &StoreStats::tail_bytes},
      {"sketch_bytes", &StoreStats::sketch_bytes},
      {"pinned_bytes", &StoreStats::pinned_bytes},
      {"weight_bytes_read", &StoreStats::weight_bytes_read},
      {"weight_bytes_read_ahead", &StoreStats::weight_bytes_read_ahead},
      {"weight_bytes_stored", &StoreStats::weight_bytes_stored},
      {"weight_buffer_bytes", &StoreStats::weight_buffer_bytes},
      {"sparse_heads", &StoreStats::sparse_heads},
      {"sparse_tokens", &StoreStats::sparse_tokens},
      {"sparse_tokens_read", &StoreStats::sparse_tokens_read},
      {"left_out_ppb", &StoreStats::left_out_ppb},
      {"most_left_out_ppb", &StoreStats::most_left_out_ppb},
  });
  static constexpr auto kOfDevices = device_counters();
  static_assert(sizeof(StoreStats) == (kOfDevices.size() + kOwn.size()) * sizeof(int64_t),
                "all of them");
  static const std::vector<StoreStatsField> fields = [] {
    std::vector<StoreStatsField> all;
    for (const auto& [name, field] : kOfDevices) all.push_back({name, field});
    all.insert(all.end(), kOwn.begin(), kOwn.end());
    return all;
  }();
  return fields;
}

StoreStats& operator+=(StoreStats& stats, const StoreStats& more) {
  for (const StoreStatsField& each : store_stats_fields()) {
    stats.*each.field += more.*each.field;
  }
  return stats;
}

}  // namespace nspjax
