// The engine's calls on NumPy arrays: methods of the Python class Store.
#pragma once

#include <memory>

#include "bindings/arrays.h"
#include "store/store.h"

namespace nspjax {

using StorePtr = std::shared_ptr<Store>;

// k, v [B, T, H, D] of the cache's dtype; returns the cache's new version.
int32_t append(const StorePtr& store, int32_t cache, int32_t version, const AnyArray& k,
               const AnyArray& v, const Int32Array& rows, const Int32Array& start,
               const Int32Array& n_new, bool hold);

// q [B, T, Hq, D] -> out [B, T, Hq, D], lse [B, T, Hq], float32.
nb::tuple attend(const StorePtr& store, int32_t cache, int32_t version, const AnyArray& q,
                 const Int32Array& rows, const Int32Array& position, const Int32Array& length,
                 float scale, int64_t window, float softcap, bool read_ahead, float mass,
                 float budget, int64_t block_tokens);

// The same in two calls.
int32_t attend_start(const StorePtr& store, int32_t cache, int32_t version, const AnyArray& q,
                     const Int32Array& rows, const Int32Array& position, const Int32Array& length,
                     float scale, int64_t window, float softcap, bool read_ahead, float mass,
                     float budget, int64_t block_tokens);
nb::tuple attend_wait(Store& store, int32_t ticket);

void prefetch(const StorePtr& store, int32_t cache, const Int32Array& rows,
              const Int32Array& length, int64_t most_bytes);

// Tokens of several rows: k, v [B, n_tokens, H, D].
nb::tuple fetch(const StorePtr& store, int32_t cache, int32_t version, const Int32Array& rows,
                int32_t begin, const Int32Array& length, int64_t n_tokens, bool read_ahead,
                int64_t window);

// Row i goes on as row order[i]; returns the cache's new version.
int32_t take_rows(const StorePtr& store, int32_t cache, int32_t version, const Int32Array& order,
                  const Int32Array& length);

// The number and version of the cache that keeps X.
nb::tuple x_cache(const StorePtr& store, int32_t cache, int64_t n_heads, int64_t head_dim);

// Keys of a row, out of the plane by channel: k [end - begin, H, D].
nb::object read_keys_by_channel(Store& store, int32_t cache, int64_t row, int64_t begin,
                                int64_t end);

// Tokens of a row: k, v [end - begin, H, D].
nb::tuple read(Store& store, int32_t cache, int64_t row, int64_t begin, int64_t end);

}  // namespace nspjax
