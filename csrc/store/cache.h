// What a store keeps of a cache: its rows, and where their tiles are.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/align.h"
#include "device/device.h"
#include "format/region.h"
#include "store/row.h"

namespace nspjax {

// What a job holds of a cache, whatever becomes of the cache itself.
struct CacheView {
  int32_t id;
  std::shared_ptr<const std::vector<TileGeometry>> runs;  // K and V first
  std::shared_ptr<const MappedRegion> pinned;             // where regions have their first tiles

  const TileGeometry& geometry() const { return runs->front(); }
};

struct Cache {
  CacheView view;
  std::vector<Extent> extents = {};  // [device], of all runs one after another
  std::vector<Row> rows;
  // A row may write to one that no other does, from where on no row has tiles there.
  std::vector<std::shared_ptr<Region>> regions = {};
  std::vector<std::vector<Extent>> more_extents = {};  // of regions beyond one a row
  int32_t version = 0;
  int64_t tail_bytes = 0;      // when every row has one tile in its tail
  int64_t pinned_bytes = 0;    // when all are full
  int64_t sketch_bytes = 0;    // of all regions
  int32_t attended_next = -1;  // the cache that was attended over after this one
  int64_t fetched_tokens = 0;  // at a time, by the last fetch; 0: it was attended over

  int32_t id() const { return view.id; }
  const TileGeometry& geometry() const { return view.geometry(); }
  Row& row(int64_t i) { return rows[static_cast<size_t>(i)]; }
  const Row& row(int64_t i) const { return rows[static_cast<size_t>(i)]; }
};

}  // namespace nspjax
