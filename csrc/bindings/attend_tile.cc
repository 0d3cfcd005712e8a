#include "bindings/attend_tile.h"

#include <algorithm>

#include "attention/kernel.h"
#include "attention/merge.h"
#include "base/align.h"

namespace nspjax {

nb::tuple attend_tile(const std::string& kernel, const std::string& dtype, const AnyArray& q,
                      const AnyArray& k, const AnyArray& v, const Int32Array& first,
                      const Int32Array& last, int32_t first_token, int begin, int end, float scale,
                      float softcap) {
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
  const auto padded = static_cast<size_t>(round_up(head_dim, kPadFloats));
  std::vector<float> queries(n * padded), acc(n * padded), max(n, kMinusInfinity), sum(n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t d = 0; d < dim; ++d) {
      queries[i * padded + d] = scale * static_cast<const float*>(q.data())[i * dim + d];
    }
  }
  const HeadTile tile(kv_type_of(type), head_dim, n_tokens);
  AlignedBuffer packed(tile.bytes());
  pack_head(tile,
            {static_cast<const std::byte*>(k.data()), static_cast<const std::byte*>(v.data()),
             head_dim * size_bytes(type)},
            0, n_tokens, packed.data());
  find_kernel(kernel).of(tile.type())({.queries = queries.data(),
                                .scale = 1.0f,
                                .n_queries = static_cast<int>(n),
                                .head_dim = static_cast<int>(dim),
                                .padded_dim = static_cast<int>(padded),
                                .first = first.data(),
                                .last = last.data(),
                                .tile = &tile,
                                .data = packed.data(),
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
