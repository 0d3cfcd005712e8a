// The order inside a tile as Python sees it, for tests and for measuring what a stored type loses.
// Tiles are uint8 arrays.
#pragma once

#include <string>

#include "bindings/arrays.h"
#include "format/head_tile.h"

namespace nspjax {

using TileArray = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

int64_t head_tile_bytes(const std::string& kv_type, int64_t head_dim, int64_t tile_tokens);

// k, v [tokens, D] as the tokens from `begin` on, written over a copy of `tile`.
nb::object pack_head_tokens(const std::string& kv_type, int64_t tile_tokens, const AnyArray& k,
                            const AnyArray& v, int64_t begin, const TileArray& tile);
// -> k, v [end - begin, D]
nb::tuple unpack_head_tokens(const std::string& kv_type, int64_t head_dim, int64_t tile_tokens,
                             const TileArray& tile, int64_t begin, int64_t end);
// `to` with its first n tokens from `from`.
nb::object copy_tile_tokens(const std::string& kv_type, int64_t head_dim, int64_t tile_tokens,
                            const TileArray& from, int64_t n, const TileArray& to);
nb::object convert_tile(const std::string& from_type, const std::string& to_type, int64_t head_dim,
                        int64_t tile_tokens, const TileArray& tile);

}  // namespace nspjax
