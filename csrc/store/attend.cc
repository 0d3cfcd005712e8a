// Attention over what a cache holds.
#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include "attention/merge.h"
#include "base/scoped_timer.h"
#include "device/attend_call.h"
#include "device/host_attention.h"
#include "device/read_plan.h"
#include "store/store.h"

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

// q [B, T, n_q_heads, head_dim] -> float32 [n_kv_heads, the members' queries, padded_dim].
void pack_queries(AttendPass& pass, const AttendCall& call, const AttendArgs& args) {
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
        }
      }
    }
  }
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

// What the next call will probably read first: that of the cache which followed this one last time,
// for the same rows, as far as they are stored now.
std::vector<std::vector<TileRange>> Store::next_reads(Cache& cache, int32_t id,
                                                      const AttendArgs& args) {
  if (const auto last = caches_.find(last_attended_); last != caches_.end()) {
    last->second.attended_next = id;
  }
  last_attended_ = id;
  std::vector<std::vector<TileRange>> reads(devices_.size());
  const auto next = caches_.find(cache.attended_next);
  if (next == caches_.end()) return reads;
  const TileGeometry& geometry = next->second.geometry;
  std::set<std::pair<const Region*, int64_t>> seen;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] == 0 || args.rows[b] >= geometry.shape().batch) continue;
    const Row& row = next->second.rows[static_cast<size_t>(args.rows[b])];
    const int64_t stored = row.length / geometry.tile_tokens();
    const int64_t from = args.window > 0 ? std::max<int64_t>(0, row.length - args.window) : 0;
    for (const TileSpan& span :
         tile_spans(next->second, row, from, stored * geometry.tile_tokens())) {
      if (!seen.insert({span.region, span.begin}).second) continue;
      for (size_t d = 0; d < devices_.size(); ++d) {
        for (const TileRead& read :
             plan_reads(geometry, span, stored, static_cast<int64_t>(d), budget_.slot_bytes)) {
          if (std::ssize(reads[d]) < budget_.slots) reads[d].push_back(read.range);
        }
      }
    }
  }
  return reads;
}

void Store::attend(int32_t cache, int32_t version, const AttendArgs& args) {
  std::lock_guard lock(mutex_);
  const ScopedTimer timer(attend_ns_);
  const TraceScope scope(trace_, {.cache = cache, .kind = TraceKind::kAttend});
  Cache& found = find_current(cache, version);
  check_attend(found, args);
  const CacheShape& shape = found.geometry.shape();
  const int64_t group = args.n_q_heads / shape.n_kv_heads;
  const int64_t padded_dim = round_up(shape.head_dim, kPadFloats);
  const int64_t n_results = std::ssize(args.rows) * args.n_tokens * args.n_q_heads;

  std::fill_n(args.out, n_results * shape.head_dim, 0.0f);
  std::vector<float> max(static_cast<size_t>(n_results), kMinusInfinity);
  std::vector<float> sum(static_cast<size_t>(n_results), 0.0f);
  AttendCall call{.geometry = found.geometry,
                  .kernels = kernels_,
                  .trace = trace_,
                  .verify = checksums_ && verifies_,
                  .cache = cache,
                  .read_bytes = budget_.slot_bytes,
                  .n_tokens = args.n_tokens,
                  .group = group,
                  .padded_dim = padded_dim,
                  .scale = args.scale,
                  .softcap = args.softcap,
                  .out = args.out,
                  .max = max.data(),
                  .sum = sum.data(),
                  .units = {},
                  .passes = {},
                  .next_reads = next_reads(found, cache, args)};

  const int64_t heads_on_device = ceil_div(shape.n_kv_heads, std::ssize(devices_));
  const int64_t query_bytes = heads_on_device * padded_dim * int64_t{sizeof(float)};
  const int64_t most_queries = std::max(group, kMostPartialBytes / query_bytes);
  const int64_t tokens_a_unit = most_queries / group;
  using Shared = std::tuple<const Region*, int64_t, int64_t>;
  std::map<Shared, size_t> shared_passes;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] == 0) continue;
    const Row& row = found.rows[static_cast<size_t>(args.rows[b])];
    for (int64_t t = 0; t < args.n_tokens; t += tokens_a_unit) {
      QueryUnit unit = make_unit(args, b, t, std::min(t + tokens_a_unit, args.n_tokens), group);
      if (unit.token_begin == unit.token_end) continue;
      const auto n_queries = std::ssize(unit.first);
      const auto spans = tile_spans(found, row, unit.token_begin, unit.token_end);
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
          call.passes.push_back(
              {.members = {},
               .tiles = span,
               .token_begin = 0,
               .token_end = 0,
               .stored_tiles = own ? row.length / found.geometry.tile_tokens() : span.end,
               .tail = own ? row.tail.data() : nullptr,
               .first = {},
               .last = {},
               .queries = {}});
        }
        join(call.passes[pass], call, call.units.size() - 1, segment);
        segment += count_segments(found.geometry, span.begin, span.end);
      }
    }
  }
  for (AttendPass& pass : call.passes) pack_queries(pass, call, args);
  on_all_devices([&](int64_t d) {
    const AttendTraffic traffic = traffic_of(call, d);
    attend_link_bytes_ += traffic.query_bytes + traffic.result_bytes;
    devices_[static_cast<size_t>(d)]->attend(call, d, *workers_);
  });

  for (int64_t i = 0; i < n_results; ++i) {
    const auto at = static_cast<size_t>(i);
    args.lse[i] =
        normalise_partial(max[at], sum[at], args.out + i * shape.head_dim, shape.head_dim);
  }
}

}  // namespace nspjax
