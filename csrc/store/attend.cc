// Attention over what a cache holds.
#include <algorithm>
#include <cmath>

#include "attention/merge.h"
#include "base/scoped_timer.h"
#include "device/attend_call.h"
#include "store/store.h"

namespace nspjax {
namespace {

// Partial results of a segment take at most this much: more queries go in several passes.
constexpr int64_t kMostPartialBytes = 1 << 20;

// q [B, T, n_q_heads, head_dim] -> float32 [B, n_kv_heads, T, group, padded_dim].
std::vector<float> pack_queries(const AttendArgs& args, const CacheShape& shape, int64_t group,
                                int64_t padded_dim) {
  const auto batch = std::ssize(args.rows);
  std::vector<float> packed(
      static_cast<size_t>(batch * args.n_tokens * args.n_q_heads * padded_dim));
  float* to = packed.data();
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t kv_head = 0; kv_head < shape.n_kv_heads; ++kv_head) {
      for (int64_t t = 0; t < args.n_tokens; ++t) {
        const int64_t token = b * args.n_tokens + t;
        const int64_t from = (token * args.n_q_heads + kv_head * group) * shape.head_dim;
        for (int64_t g = 0; g < group; ++g, to += padded_dim) {
          to_f32(args.q, args.q_dtype, from + g * shape.head_dim, shape.head_dim, to);
        }
      }
    }
  }
  return packed;
}

// What query tokens [query_begin, query_end) of batch row b see; token_begin == token_end: nothing.
AttendPass make_pass(const AttendArgs& args, size_t b, int64_t query_begin, int64_t query_end,
                     int64_t group) {
  AttendPass pass{};
  pass.batch_row = static_cast<int64_t>(b);
  pass.row = args.rows[b];
  pass.query_begin = query_begin;
  pass.query_end = query_end;
  pass.token_begin = args.length[b];
  for (int64_t t = query_begin; t < query_end; ++t) {
    const int64_t position = int64_t{args.position[b]} + t;
    const int64_t last = std::min<int64_t>(args.length[b], position + 1);
    const int64_t first = args.window > 0 ? std::max<int64_t>(0, position - args.window + 1) : 0;
    pass.first.insert(pass.first.end(), static_cast<size_t>(group),
                      static_cast<int32_t>(std::min<int64_t>(first, args.length[b])));
    pass.last.insert(pass.last.end(), static_cast<size_t>(group), static_cast<int32_t>(last));
    if (first < last) {
      pass.token_begin = std::min(pass.token_begin, first);
      pass.token_end = std::max(pass.token_end, last);
    }
  }
  pass.token_begin = std::min(pass.token_begin, pass.token_end);
  return pass;
}

}  // namespace

void Store::check_attend(const Cache& cache, const AttendArgs& args) {
  const CacheShape& shape = cache.geometry.shape();
  if (args.n_q_heads < 1 || args.n_q_heads % shape.n_kv_heads != 0) {
    fail(ErrorKind::kInvalidArgument, "attend with ", args.n_q_heads,
         " query heads: the cache has ", shape.n_kv_heads, " KV heads, of which that must be a ",
         "multiple");
  }
  if (args.window < 0 || !(args.softcap >= 0.0f)) {
    fail(ErrorKind::kInvalidArgument, "attend with window ", args.window, " and softcap ",
         args.softcap, ": neither may be negative, 0 is none");
  }
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] == 0) continue;
    const int64_t row = args.rows[b];
    const auto where = [&] { return concat("attend over row ", row, " (batch row ", b, "): "); };
    if (row < 0 || row >= shape.batch) {
      fail(ErrorKind::kInvalidArgument, where(), "the cache has rows 0 to ", shape.batch - 1);
    }
    const int64_t stored = cache.rows[static_cast<size_t>(row)].length;
    if (args.length[b] < 0 || args.length[b] > stored) {
      fail(ErrorKind::kInvalidArgument, where(), "length is ", args.length[b], ", but the row has ",
           stored, " tokens");
    }
    if (args.position[b] < 0) {
      fail(ErrorKind::kInvalidArgument, where(), "position is ", args.position[b]);
    }
  }
}

void Store::attend(int32_t cache, int32_t version, const AttendArgs& args) {
  std::lock_guard lock(mutex_);
  const ScopedTimer timer(attend_ns_);
  const Cache& found = find_current(cache, version);
  check_attend(found, args);
  const CacheShape& shape = found.geometry.shape();
  const int64_t group = args.n_q_heads / shape.n_kv_heads;
  const int64_t padded_dim = round_up(shape.head_dim, kPadFloats);
  const int64_t n_results = std::ssize(args.rows) * args.n_tokens * args.n_q_heads;

  std::fill_n(args.out, n_results * shape.head_dim, 0.0f);
  std::vector<float> max(static_cast<size_t>(n_results), kMinusInfinity);
  std::vector<float> sum(static_cast<size_t>(n_results), 0.0f);
  const std::vector<float> queries = pack_queries(args, shape, group, padded_dim);
  AttendCall call{found.geometry, kernels_.of(kv_type_of(shape.dtype)),
                  args.n_tokens,  group,
                  padded_dim,     args.scale,
                  args.softcap,   queries.data(),
                  args.out,       max.data(),
                  sum.data(),     {}};

  const int64_t heads_on_device = ceil_div(shape.n_kv_heads, std::ssize(devices_));
  const int64_t query_bytes = heads_on_device * group * padded_dim * int64_t{sizeof(float)};
  const int64_t queries_a_pass = std::max<int64_t>(1, kMostPartialBytes / query_bytes);
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] == 0) continue;
    const Row& row = found.rows[static_cast<size_t>(args.rows[b])];
    for (int64_t t = 0; t < args.n_tokens; t += queries_a_pass) {
      AttendPass pass = make_pass(args, b, t, std::min(t + queries_a_pass, args.n_tokens), group);
      if (pass.token_begin == pass.token_end) continue;
      pass.stored_tiles = row.length / found.geometry.tile_tokens();
      pass.tail = row.tail.data();
      call.passes.push_back(std::move(pass));
    }
  }
  on_all_devices([&](int64_t d) {
    const auto device = static_cast<size_t>(d);
    devices_[device]->attend(call, d, found.extents[device].offset, *workers_);
  });

  for (int64_t i = 0; i < n_results; ++i) {
    const auto at = static_cast<size_t>(i);
    args.lse[i] =
        normalise_partial(max[at], sum[at], args.out + i * shape.head_dim, shape.head_dim);
  }
}

}  // namespace nspjax
