#include "bindings/tile_transfer.h"

#include <string>

namespace nspjax {

nb::dict tile_layout(const Store& store, int32_t cache) {
  const TileLayout layout = [&] {
    const nb::gil_scoped_release release;
    return store.tile_layout(cache);
  }();
  nb::dict result;
  result["n_kv_heads"] = layout.shape.n_kv_heads;
  result["head_dim"] = layout.shape.head_dim;
  result["dtype"] = std::string(dtype_name(layout.shape.dtype)).c_str();
  result["kv_dtype"] = std::string(dtype_name(layout.shape.stored)).c_str();
  result["tile_tokens"] = layout.tile_tokens;
  result["head_bytes"] = layout.head_bytes;
  result["fingerprint"] = layout.fingerprint;
  return result;
}

nb::object export_tiles(Store& store, int32_t cache, int32_t version, int64_t row, int64_t begin,
                        int64_t end) {
  std::vector<uint8_t> tiles = [&] {
    const nb::gil_scoped_release release;
    return store.export_tiles(cache, version, row, begin, end);
  }();
  const size_t bytes = tiles.size();
  return new_array(std::move(tiles), {bytes});
}

void import_tiles(Store& store, int32_t cache, int32_t version, int64_t row, int64_t begin,
                  const AnyArray& tiles) {
  const std::span bytes(static_cast<const std::byte*>(tiles.data()), tiles.nbytes());
  const nb::gil_scoped_release release;
  store.import_tiles(cache, version, row, begin, bytes);
}

}  // namespace nspjax
