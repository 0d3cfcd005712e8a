// A store's operations on arrays: what the Python class Store does beyond the engine's own methods.
#pragma once

#include "bindings/arrays.h"
#include "store/store.h"

namespace nspjax {

// k, v [B, T, H, D] of the cache's dtype; returns the cache's new version.
int32_t append(Store& store, int32_t cache, int32_t version, const AnyArray& k, const AnyArray& v,
               const Int32Array& rows, const Int32Array& start, const Int32Array& n_new, bool hold);

// q [B, T, Hq, D] -> out [B, T, Hq, D], lse [B, T, Hq], float32.
nb::tuple attend(Store& store, int32_t cache, int32_t version, const AnyArray& q,
                 const Int32Array& rows, const Int32Array& position, const Int32Array& length,
                 float scale, int64_t window, float softcap, bool read_ahead);

// The same in two calls.
int32_t attend_start(Store& store, int32_t cache, int32_t version, const AnyArray& q,
                     const Int32Array& rows, const Int32Array& position, const Int32Array& length,
                     float scale, int64_t window, float softcap, bool read_ahead);
nb::tuple attend_wait(Store& store, int32_t ticket);

void prefetch(Store& store, int32_t cache, const Int32Array& rows, const Int32Array& length,
              int64_t most_bytes);

// Tokens of a row: k, v [end - begin, H, D].
nb::tuple read(Store& store, int32_t cache, int64_t row, int64_t begin, int64_t end);

}  // namespace nspjax
