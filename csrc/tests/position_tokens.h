// Tokens whose keys are all equal, so that attention weighs them alike, and whose V is their
// position: the mean of what is seen tells which tokens those were.
#pragma once

#include <cstdint>
#include <numeric>
#include <vector>

#include "store/store.h"

namespace nspjax::testing {

// All rows of a float32 cache get n tokens from position `from` on. Returns the next version.
inline int32_t append_positions(Store& store, int32_t cache, int32_t version, int32_t from,
                                int32_t n, bool hold) {
  const CacheShape shape = store.shape(cache);
  const int64_t token = shape.n_kv_heads * shape.head_dim;
  const auto n_rows = static_cast<size_t>(shape.batch);
  const std::vector<float> k(static_cast<size_t>(shape.batch * n * token), 0.25f);
  std::vector<float> v(k.size());
  for (size_t i = 0; i < v.size(); ++i) {
    v[i] = static_cast<float>(from + static_cast<int64_t>(i) / token % n);
  }
  std::vector<int32_t> rows(n_rows);
  std::iota(rows.begin(), rows.end(), 0);
  const std::vector<int32_t> start(n_rows, from), n_new(n_rows, n);
  return store.append(cache, version,
                      {.k = reinterpret_cast<const std::byte*>(k.data()),
                       .v = reinterpret_cast<const std::byte*>(v.data()),
                       .n_tokens = n,
                       .rows = rows,
                       .start = start,
                       .n_new = n_new,
                       .hold = hold});
}

}  // namespace nspjax::testing
