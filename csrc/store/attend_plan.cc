// What an attention asks of the devices: queries, and the runs of tiles that they see.
#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "attention/merge.h"
#include "device/host_attention.h"
#include "format/numbers.h"
#include "store/attend_job.h"
#include "store/lane.h"

namespace nspjax {
namespace {

// Partial results of a segment take at most this much: more queries go in several passes.
constexpr int64_t kMostPartialBytes = 1 << 20;

// What query tokens [query_begin, query_end) of batch row b see; token_begin == token_end: nothing.
QueryUnit make_unit(const AttendArgs& args, size_t b, int64_t query_begin, int64_t query_end,
                    int64_t group) {
  QueryUnit unit{};
  unit.batch_row = static_cast<int64_t>(b);
  unit.row = args.rows[b];
  unit.query_begin = query_begin;
  unit.query_end = query_end;
  unit.token_begin = args.length[b];
  for (int64_t t = query_begin; t < query_end; ++t) {
    const int64_t position = int64_t{args.position[b]} + t;
    const int64_t last = std::min<int64_t>(args.length[b], position + 1);
    const int64_t first = args.window > 0 ? std::max<int64_t>(0, position - args.window + 1) : 0;
    unit.first.insert(unit.first.end(), static_cast<size_t>(group),
                      static_cast<int32_t>(std::min<int64_t>(first, args.length[b])));
    unit.last.insert(unit.last.end(), static_cast<size_t>(group), static_cast<int32_t>(last));
    if (first < last) {
      unit.token_begin = std::min(unit.token_begin, first);
      unit.token_end = std::max(unit.token_end, last);
    }
  }
  unit.token_begin = std::min(unit.token_begin, unit.token_end);
  return unit;
}

// Adds a unit to a pass over tiles that it sees.
void join(AttendPass& pass, const AttendCall& call, size_t unit_index, int64_t first_segment) {
  const QueryUnit& unit = call.units[unit_index];
  const bool first = pass.members.empty();
  pass.members.push_back({unit_index, first_segment});
  pass.token_begin = first ? unit.token_begin : std::min(pass.token_begin, unit.token_begin);
  pass.token_end = std::max(pass.token_end, unit.token_end);
  pass.first.insert(pass.first.end(), unit.first.begin(), unit.first.end());
  pass.last.insert(pass.last.end(), unit.last.begin(), unit.last.end());
}

// scale = power * rest. Queries take the power of two, which leaves their bits as they are, so that
// a score overflows where (q * scale) . k does, not where q . k does.
struct Scale {
  float power;
  float rest;  // 1 <= |rest| < 2
};

Scale split_scale(float scale) {
  if (scale == 0.0f || !std::isfinite(scale)) return {1.0f, scale};
  const float power = std::ldexp(1.0f, std::ilogb(scale));
  return {power, scale / power};
}

// q [B, T, n_q_heads, head_dim] * power -> float32 [n_kv_heads, the members' queries, padded_dim].
void pack_queries(AttendPass& pass, const AttendCall& call, const AttendArgs& args, float power) {
  const CacheShape& shape = call.geometry.shape();
  pass.queries.resize(static_cast<size_t>(shape.n_kv_heads * pass.n_queries() * call.padded_dim));
  float* to = pass.queries.data();
  for (int64_t kv_head = 0; kv_head < shape.n_kv_heads; ++kv_head) {
    for (const AttendPass::Member& member : pass.members) {
      const QueryUnit& unit = call.units[member.unit];
      for (int64_t t = unit.query_begin; t < unit.query_end; ++t) {
        const int64_t token = unit.batch_row * args.n_tokens + t;
        const int64_t from = (token * args.n_q_heads + kv_head * call.group) * shape.head_dim;
        for (int64_t g = 0; g < call.group; ++g, to += call.padded_dim) {
          to_f32(args.q, args.q_dtype, from + g * shape.head_dim, shape.head_dim, to);
          for (int64_t d = 0; d < shape.head_dim; ++d) to[d] *= power;
        }
      }
    }
  }
}

// The tiles of a run that are in the tail and not stored.
std::vector<const std::byte*> tail_of(const RowTiles& row, const TileSpan& span) {
  std::vector<const std::byte*> tiles;
  for (int64_t tile = row.stored_tiles; tile < span.end; ++tile) {
    tiles.push_back(row.tail_tile(tile));
  }
  return tiles;
}

}  // namespace

void AttendJob::own_arguments() {
  const int64_t n_vectors = std::ssize(args.rows) * args.n_tokens * args.n_q_heads;
  const int64_t head_dim = cache.geometry().shape().head_dim;
  const auto* q = static_cast<const std::byte*>(args.q);
  owned.q.assign(q, q + n_vectors * head_dim * size_bytes(args.q_dtype));
  args.q = owned.q.data();
  const auto own = [](std::span<const int32_t>& values, std::vector<int32_t>& copy) {
    copy.assign(values.begin(), values.end());
    values = copy;
  };
  own(args.rows, owned.rows);
  own(args.position, owned.position);
  own(args.length, owned.length);
  owned.result = {{std::ssize(args.rows), args.n_tokens, args.n_q_heads, head_dim},
                  std::vector<float>(static_cast<size_t>(n_vectors * head_dim)),
                  std::vector<float>(static_cast<size_t>(n_vectors))};
  args.out = owned.result.out.data();
  args.lse = owned.result.lse.data();
}

void AttendJob::release() {
  args.q = nullptr;
  owned.q = {};
  rows.clear();
  writes.clear();
  guess.clear();
  cache.pinned.reset();
}

AttendCall plan_attend(const AttendJob& job, Lane& lane, std::span<float> max,
                       std::span<float> sum) {
  const AttendArgs& args = job.args;
  const TileGeometry& geometry = job.cache.geometry();
  const CacheShape& shape = geometry.shape();
  const int64_t group = args.n_q_heads / shape.n_kv_heads;
  const int64_t padded_dim = round_up(shape.head_dim, kPadFloats);
  const Scale scale = split_scale(args.scale);
  AttendCall call{.geometry = geometry,
                  .kernels = lane.kernels(),
                  .trace = lane.trace(),
                  .verify = lane.verifies(),
                  .cache = job.cache.id,
                  .read_bytes = lane.memory().slot_bytes,
                  .n_tokens = args.n_tokens,
                  .group = group,
                  .padded_dim = padded_dim,
                  .scale = scale.rest,
                  .softcap = args.softcap,
                  .sparsity = args.sparsity,
                  .tally = &lane.sparse_tally(),
                  .out = args.out,
                  .max = max.data(),
                  .sum = sum.data(),
                  .units = {},
                  .passes = {},
                  .next_reads = {}};

  const int64_t heads_on_device = ceil_div(shape.n_kv_heads, geometry.n_devices());
  const int64_t query_bytes = heads_on_device * padded_dim * int64_t{sizeof(float)};
  const int64_t most_queries = std::max(group, kMostPartialBytes / query_bytes);
  const int64_t tokens_a_unit = most_queries / group;
  using Shared = std::tuple<const Region*, int64_t, int64_t>;
  std::map<Shared, size_t> shared_passes;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] == 0) continue;
    const RowTiles& row = job.rows[b];
    for (int64_t t = 0; t < args.n_tokens; t += tokens_a_unit) {
      QueryUnit unit = make_unit(args, b, t, std::min(t + tokens_a_unit, args.n_tokens), group);
      if (unit.token_begin == unit.token_end) continue;
      const auto n_queries = std::ssize(unit.first);
      const auto spans = row.spans(geometry.tile_tokens(), unit.token_begin, unit.token_end);
      call.units.push_back(std::move(unit));
      int64_t segment = 0;
      for (const TileSpan& span : spans) {
        const bool own = span.begin >= row.own_begin();
        size_t pass = call.passes.size();
        if (!own) {
          const Shared key{span.region, span.begin, span.end};
          const auto known = shared_passes.find(key);
          if (known != shared_passes.end() &&
              call.passes[known->second].n_queries() + n_queries <= most_queries) {
            pass = known->second;
          }
          shared_passes[key] = pass;
        }
        if (pass == call.passes.size()) {
          call.passes.push_back({.members = {},
                                 .tiles = span,
                                 .token_begin = 0,
                                 .token_end = 0,
                                 .stored_tiles = own ? row.stored_tiles : span.end,
                                 .tail = own ? tail_of(row, span) : std::vector<const std::byte*>{},
                                 .first = {},
                                 .last = {},
                                 .queries = {}});
        }
        join(call.passes[pass], call, call.units.size() - 1, segment);
        segment += count_segments(geometry, span.begin, span.end);
      }
    }
  }
  for (AttendPass& pass : call.passes) pack_queries(pass, call, args, scale.power);
  return call;
}

}  // namespace nspjax
