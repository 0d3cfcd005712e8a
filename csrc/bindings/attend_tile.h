// One kernel on one tile, for tests.
#pragma once

#include <string>

#include "bindings/arrays.h"

namespace nspjax {

// q float32 [n, D]; k, v [tokens, D] of `dtype`, stored in a tile as `kv_type`; query i sees the
// positions first[i] to last[i], k's first vector is at first_token, the tokens [begin, end) count
// -> out [n, D], lse [n]. tile_tokens 0: the least that holds the tokens. What of the tile the
// tokens do not fill is NaN.
nb::tuple attend_tile(const std::string& kernel, const std::string& dtype, const AnyArray& q,
                      const AnyArray& k, const AnyArray& v, const Int32Array& first,
                      const Int32Array& last, int32_t first_token, int begin, int end, float scale,
                      float softcap, const std::string& kv_type, int64_t tile_tokens);

}  // namespace nspjax
