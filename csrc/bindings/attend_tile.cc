#include "bindings/attend_tile.h"

#include <algorithm>
#include <bit>

#include "attention/kernel.h"
#include "attention/merge.h"
#include "base/align.h"

namespace nspjax {
namespace {

// k, v [tokens, D] in a tile; the rest of it is NaN.
AlignedBuffer pack_tile(const HeadTile& tile, DType dtype, const AnyArray& k, const AnyArray& v) {
  const auto n_tokens = static_cast<int64_t>(k.shape(0));
  const HeadTile rounded(dtype, tile.head_dim(), tile.tile_tokens());
  AlignedBuffer floats(rounded.bytes());
  std::fill_n(floats.data(), rounded.bytes(), std::byte{0xff});
  pack_head(rounded,
            {static_cast<const std::byte*>(k.data()), static_cast<const std::byte*>(v.data()),
             tile.head_dim() * size_bytes(dtype)},
            0, n_tokens, floats.data());
  if (rounded.type() == tile.type()) return floats;
  AlignedBuffer converted(tile.bytes());
  convert_head(rounded, floats.data(), tile, converted.data());
  return converted;
}

}  // namespace

nb::tuple attend_tile(const std::string& kernel, const std::string& dtype, const AnyArray& q,
                      const AnyArray& k, const AnyArray& v, const Int32Array& first,
                      const Int32Array& last, int32_t first_token, int begin, int end, float scale,
                      float softcap, const std::string& kv_type, int64_t tile_tokens) {
  const DType type = parse_dtype(dtype);
  check_sizes(q, "q", {-1, -1});
  const size_t n = q.shape(0), dim = q.shape(1);
  const auto n_tokens = static_cast<int64_t>(k.shape(0)), head_dim = static_cast<int64_t>(dim);
  check_sizes(k, "k", {-1, head_dim});
  check_sizes(v, "v", {n_tokens, head_dim});
  check_sizes(AnyArray(first), "first", {static_cast<int64_t>(n)});
  check_sizes(AnyArray(last), "last", {static_cast<int64_t>(n)});
  if (array_dtype(q, "q", DType::kF32) != DType::kF32 || array_dtype(k, "k", type) != type ||
      array_dtype(v, "v", type) != type || begin < 0 || begin > end || end > n_tokens) {
    fail(ErrorKind::kInvalidArgument, "attend_tile: q must be float32, k and v of the dtype, ",
         "0 <= begin <= end <= tokens");
  }
  if (tile_tokens == 0) {
    tile_tokens = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(n_tokens)));
  }
  const HeadTile tile(kv_type.empty() ? type : parse_kv_dtype(kv_type), head_dim, tile_tokens);
  if (n_tokens > tile_tokens || (is_quantised(tile.type()) && n_tokens < tile_tokens)) {
    fail(ErrorKind::kInvalidArgument, "attend_tile: ", n_tokens, " tokens for a tile of ",
         tile_tokens);
  }
  const AlignedBuffer data = pack_tile(tile, type, k, v);

  const auto padded = static_cast<size_t>(round_up(head_dim, kPadFloats));
  std::vector<float> queries(n * padded), acc(n * padded), max(n, kMinusInfinity), sum(n);
  for (size_t i = 0; i < n; ++i) {
    std::copy_n(static_cast<const float*>(q.data()) + i * dim, dim, queries.data() + i * padded);
  }
  find_kernel(kernel)
      .of(tile.type())
      .attend({.queries = queries.data(),
               .scale = scale,
               .n_queries = static_cast<int>(n),
               .head_dim = static_cast<int>(dim),
               .padded_dim = static_cast<int>(padded),
               .first = first.data(),
               .last = last.data(),
               .tile = &tile,
               .data = data.data(),
               .first_token = first_token,
               .begin = begin,
               .end = end,
               .softcap = softcap,
               .max = max.data(),
               .sum = sum.data(),
               .acc = acc.data()});
  std::vector<float> out(n * dim), lse(n);
  for (size_t i = 0; i < n; ++i) {
    lse[i] = normalise_partial(max[i], sum[i], acc.data() + i * padded, head_dim);
    std::copy_n(acc.data() + i * padded, dim, out.data() + i * dim);
  }
  return nb::make_tuple(new_array(std::move(out), {n, dim}), new_array(std::move(lse), {n}));
}

}  // namespace nspjax
