// Which places of a cache's regions rows have tiles in, or will write to.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>

#include "store/row.h"

namespace nspjax {

class TilesInUse {
 public:
  // The first n_tiles of a row, and the region that it writes to.
  void add(const RowTiles& row, int64_t n_tiles) {
    add_shared(row, n_tiles);
    add_own(*row.own);
  }
  void add_shared(const RowTiles& row, int64_t n_tiles) {
    for (const RowTiles::Shared& run : row.shared) add(*run.region, std::min(run.end, n_tiles));
  }
  void add(const Region& region, int64_t end) {
    int64_t& of_region = ends_[&region];
    of_region = std::max(of_region, end);
  }
  void add_own(const Region& region) { own_.insert(&region); }

  // Whether tiles from this one on are nobody's, but for a row that writes to the region.
  bool is_free_from(const Region& region, int64_t tile) const {
    const auto found = ends_.find(&region);
    return found == ends_.end() || found->second <= tile;
  }
  bool is_own(const Region& region) const { return own_.contains(&region); }

 private:
  std::map<const Region*, int64_t> ends_;  // of shared runs: the last tile + 1
  std::set<const Region*> own_;
};

}  // namespace nspjax
