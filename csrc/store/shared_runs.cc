#include "store/shared_runs.h"

#include <map>

namespace nspjax {
namespace {

// Stored tiles of a row, all in one region.
struct Run {
  std::shared_ptr<const Region> region;
  int64_t begin;
  int64_t end;
};

// Of what is stored of a row, each as long as it can be.
std::vector<Run> longest_runs(const Row& row) {
  std::vector<Run> runs;
  const auto add = [&](const std::shared_ptr<const Region>& region, int64_t end) {
    const int64_t begin = runs.empty() ? 0 : runs.back().end;
    if (begin >= end) return;
    if (!runs.empty() && runs.back().region == region) {
      runs.back().end = end;
    } else {
      runs.push_back({region, begin, end});
    }
  };
  for (const RowTiles::Shared& run : row.shared) add(run.region, run.end);
  add(row.own, row.stored_tiles);
  return runs;
}

// Of a region: how many rows more, or fewer, have its tiles from this one on.
using Changes = std::map<int64_t, int64_t>;

}  // namespace

void regroup_shared_runs(std::span<Row> rows) {
  std::vector<std::vector<Run>> runs_of_rows;
  std::map<const Region*, Changes> changes;
  for (const Row& row : rows) {
    for (const Run& run : runs_of_rows.emplace_back(longest_runs(row))) {
      ++changes[run.region.get()][run.begin];
      --changes[run.region.get()][run.end];
    }
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    Row& row = rows[i];
    row.shared.clear();
    size_t n_shared = 0;  // what only this row has, in its own region, at its end, is not shared
    for (const Run& run : runs_of_rows[i]) {
      int64_t n_rows = 0;  // that have the tiles before `tile`
      for (const auto& [tile, more] : changes.at(run.region.get())) {
        if (tile > run.begin && tile <= run.end) {
          row.shared.push_back({run.region, tile});
          if (n_rows > 1 || run.region != row.own) n_shared = row.shared.size();
        }
        n_rows += more;
      }
    }
    row.shared.resize(n_shared);
  }
}

}  // namespace nspjax
