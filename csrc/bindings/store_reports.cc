#include "bindings/store_reports.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "bindings/gil.h"
#include "bindings/paths.h"

namespace nspjax {

namespace nb = nanobind;

nb::dict cache_needs(const Store& store, int64_t n_layers, const CacheShape& shape,
                     int64_t tile_tokens) {
  const RoomReport report =
      without_gil([&] { return store.room_for(n_layers, shape, tile_tokens); });
  nb::dict result;
  result["device_bytes"] = nb::cast(report.needs.device_bytes);
  result["available_bytes"] = nb::cast(report.available_bytes);
  result["rows_that_fit"] = report.rows_that_fit;
  result["host_bytes"] = report.needs.tail_bytes + report.needs.sketch_bytes;
  result["smallest_host_memory_bytes"] = report.needs.smallest_host_memory_bytes;
  result["tile_tokens"] = report.needs.tile_tokens;
  return result;
}

nb::list devices(const Store& store) {
  nb::list result;
  for (const DeviceInfo& info : without_gil([&] { return store.devices(); })) {
    nb::dict device;
    device["spec"] = path_text(info.spec);
    device["kind"] = info.kind;
    device["path"] = path_text(info.path);
    device["direct"] = info.direct;
    device["io"] = info.io;
    device["registered_buffers"] = info.registered_buffers;
    device["reserved_bytes"] = info.reserved_bytes;
    device["free_bytes"] = info.free_bytes;
    result.append(device);
  }
  return result;
}

nb::dict stats(const Store& store) {
  const StoreStats total = store.stats();
  nb::dict result;
  for (const StoreStatsField& each : store_stats_fields()) result[each.name] = total.*each.field;
  nb::list each;
  for (const DeviceStats& device : store.device_stats()) {
    nb::dict counters;
    for (const auto& [name, field] : device_counters()) counters[name] = device.*field;
    each.append(counters);
  }
  result["devices"] = each;
  return result;
}

}  // namespace nspjax
