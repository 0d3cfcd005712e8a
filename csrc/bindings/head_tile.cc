#include "bindings/head_tile.h"

namespace nspjax {
namespace {

const std::byte* bytes_of(const TileArray& tile, const HeadTile& layout) {
  if (static_cast<int64_t>(tile.size()) != layout.bytes()) {
    fail(ErrorKind::kInvalidArgument, "the tile has ", tile.size(), " bytes, it must have ",
         layout.bytes());
  }
  return reinterpret_cast<const std::byte*>(tile.data());
}

std::vector<uint8_t> copy_of(const TileArray& tile, const HeadTile& layout) {
  bytes_of(tile, layout);
  return {tile.data(), tile.data() + tile.size()};
}

nb::object tile_array(std::vector<uint8_t> tile) {
  const size_t n = tile.size();
  return new_array(std::move(tile), {n});
}

std::byte* bytes_of(std::vector<uint8_t>& tile) {
  return reinterpret_cast<std::byte*>(tile.data());
}

// The tokens [begin, end) are in the tile.
void check_tokens(const HeadTile& layout, int64_t begin, int64_t end) {
  if (begin < 0 || begin > end || end > layout.tile_tokens()) {
    fail(ErrorKind::kInvalidArgument, "tokens ", begin, " to ", end, " of a tile of ",
         layout.tile_tokens());
  }
}

template <typename T>
nb::tuple unpack_as(const HeadTile& layout, const std::byte* tile, int64_t begin, int64_t end) {
  const auto n = static_cast<size_t>(end - begin), dim = static_cast<size_t>(layout.head_dim());
  std::vector<T> k(n * dim), v(n * dim);
  unpack_head(layout, tile, begin, end,
              {reinterpret_cast<std::byte*>(k.data()), reinterpret_cast<std::byte*>(v.data()),
               layout.head_dim() * int64_t{sizeof(T)}});
  return nb::make_tuple(new_array(std::move(k), {n, dim}), new_array(std::move(v), {n, dim}));
}

}  // namespace

int64_t head_tile_bytes(const std::string& kv_type, int64_t head_dim, int64_t tile_tokens) {
  return HeadTile(parse_kv_dtype(kv_type), head_dim, tile_tokens).bytes();
}

nb::object pack_head_tokens(const std::string& kv_type, int64_t tile_tokens, const AnyArray& k,
                            const AnyArray& v, int64_t begin, const TileArray& tile) {
  check_sizes(k, "k", {-1, -1});
  const auto n = static_cast<int64_t>(k.shape(0)), dim = static_cast<int64_t>(k.shape(1));
  check_sizes(v, "v", {n, dim});
  const DType dtype = parse_dtype(kv_type);
  if (array_dtype(k, "k", dtype) != dtype || array_dtype(v, "v", dtype) != dtype) {
    fail(ErrorKind::kInvalidArgument, "k and v must be ", kv_type);
  }
  const HeadTile layout(dtype, dim, tile_tokens);
  check_tokens(layout, begin, begin + n);
  std::vector<uint8_t> result = copy_of(tile, layout);
  pack_head(layout,
            {static_cast<const std::byte*>(k.data()), static_cast<const std::byte*>(v.data()),
             dim * size_bytes(dtype)},
            begin, begin + n, bytes_of(result));
  return tile_array(std::move(result));
}

nb::tuple unpack_head_tokens(const std::string& kv_type, int64_t head_dim, int64_t tile_tokens,
                             const TileArray& tile, int64_t begin, int64_t end) {
  const DType dtype = parse_dtype(kv_type);
  const HeadTile layout(dtype, head_dim, tile_tokens);
  check_tokens(layout, begin, end);
  const std::byte* data = bytes_of(tile, layout);
  return dtype == DType::kF32 ? unpack_as<float>(layout, data, begin, end)
                              : unpack_as<uint16_t>(layout, data, begin, end);
}

nb::object copy_tile_tokens(const std::string& kv_type, int64_t head_dim, int64_t tile_tokens,
                            const TileArray& from, int64_t n, const TileArray& to) {
  const HeadTile layout(parse_kv_dtype(kv_type), head_dim, tile_tokens);
  check_tokens(layout, 0, n);
  std::vector<uint8_t> result = copy_of(to, layout);
  copy_head_tokens(layout, bytes_of(from, layout), n, bytes_of(result));
  return tile_array(std::move(result));
}

nb::object convert_tile(const std::string& from_type, const std::string& to_type, int64_t head_dim,
                        int64_t tile_tokens, const TileArray& tile) {
  const HeadTile from(parse_kv_dtype(from_type), head_dim, tile_tokens);
  const HeadTile to(parse_kv_dtype(to_type), head_dim, tile_tokens);
  std::vector<uint8_t> result(static_cast<size_t>(to.bytes()));
  convert_head(from, bytes_of(tile, from), to, bytes_of(result));
  return tile_array(std::move(result));
}

}  // namespace nspjax
