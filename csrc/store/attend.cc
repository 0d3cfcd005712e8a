// Attention over what a cache holds: taken down when it is asked for, run by the executor.
#include <algorithm>
#include <cmath>

#include "attention/merge.h"
#include "base/scoped_timer.h"
#include "store/attend_job.h"
#include "store/cache_set.h"
#include "store/window.h"

namespace nspjax {

namespace {

void check_sparsity(const Cache& cache, const AttendArgs& args) {
  const Sparsity& sparsity = args.sparsity;
  const auto is_share = [](float x) { return x > 0.0f && x <= 1.0f; };
  if (!is_share(sparsity.mass) || !is_share(sparsity.budget)) {
    fail(ErrorKind::kInvalidArgument, "attend with mass ", sparsity.mass, " and budget ",
         sparsity.budget, ": each must be more than 0 and at most 1");
  }
  if (sparsity.is_dense()) return;
  const char* unless = ", or attend with mass and budget 1, which reads all of V";
  if (!cache.geometry().sketch()) {
    fail(ErrorKind::kInvalidArgument, "attend over a part of cache ", cache.id(),
         ", which was made without a sketch: make it with sketch=True", unless);
  }
  if (args.n_tokens != 1 || args.window != 0) {
    fail(ErrorKind::kInvalidArgument, "attend over a part of a cache with ", args.n_tokens,
         " query tokens and window ", args.window, ": give one query token and no window", unless);
  }
  const int64_t block = sparsity.block_tokens, most = cache.geometry().tile_tokens();
  const bool is_power = block > 0 && (block & (block - 1)) == 0;
  if (block != 0 && (!is_power || block < kLeastQuantisedTileTokens || block > most)) {
    fail(ErrorKind::kInvalidArgument, "attend with block_tokens ", block,
         ": it must be a power of two from ", kLeastQuantisedTileTokens, " to a tile's ", most,
         ", or 0 to choose");
  }
}

void check_attend(const Cache& cache, const AttendArgs& args) {
  const CacheShape& shape = cache.geometry().shape();
  if (args.n_q_heads < 1 || args.n_q_heads % shape.n_kv_heads != 0) {
    fail(ErrorKind::kInvalidArgument, "attend with ", args.n_q_heads,
         " query heads: the cache has ", shape.n_kv_heads, " KV heads, of which that must be a ",
         "multiple");
  }
  if (!(args.softcap >= 0.0f)) {
    fail(ErrorKind::kInvalidArgument, "attend with softcap ", args.softcap,
         ": it may not be negative, 0 is none");
  }
  check_window("attend", shape, args.window);
  check_sparsity(cache, args);
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] == 0) continue;
    const int64_t row = args.rows[b];
    const auto where = [&] { return concat("attend over row ", row, " (batch row ", b, "): "); };
    if (row < 0 || row >= shape.batch) {
      fail(ErrorKind::kInvalidArgument, where(), "the cache has rows 0 to ", shape.batch - 1);
    }
    const int64_t stored = cache.row(row).length;
    if (args.length[b] < 0 || args.length[b] > stored) {
      fail(ErrorKind::kInvalidArgument, where(), "length is ", args.length[b], ", but the row has ",
           stored, " tokens");
    }
    if (args.position[b] < 0) {
      fail(ErrorKind::kInvalidArgument, where(), "position is ", args.position[b]);
    }
    const int64_t first = std::max<int64_t>(0, int64_t{args.position[b]} - args.window + 1);
    if (args.window > 0 && first < args.length[b]) check_kept("attend over", cache, row, first);
  }
}

}  // namespace

// `outstanding`: somebody will ask for the ticket.
std::shared_ptr<AttendJob> CacheSet::queue_attend(int32_t cache, int32_t version,
                                                  const ArgsFor<AttendArgs>& args_for,
                                                  bool outstanding) {
  Cache& found = find_current(cache, version);
  const AttendArgs args = args_for(found.geometry().shape());
  check_attend(found, args);
  if (outstanding) tickets_.check_room();
  found.fetched_tokens = 0;
  settle_writes();
  auto job = std::make_shared<AttendJob>();
  job->args = args;
  job->cache = found.view;
  if (outstanding) job->own_arguments();
  for (size_t b = 0; b < args.rows.size(); ++b) {
    job->rows.push_back(args.length[b] == 0 ? RowTiles() : found.row(args.rows[b]).tiles());
  }
  job->writes = writes_.of(cache);
  if (args.read_ahead) job->guess = next_reads(found, args);
  job->ticket = tickets_.add(job, outstanding);
  job->number = lane_.post([this, job] { run_attend(lane_, *job); });
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] > 0) found.row(args.rows[b]).tail_job = job->number;
  }
  return job;
}

void CacheSet::finish(AttendJob& job) {
  lane_.wait_for(job.number);
  if (!job.has_run) {
    fail(ErrorKind::kStoreClosed, "store ", store_, " was closed before it came to attention ",
         job.ticket);
  }
  if (job.error) std::rethrow_exception(job.error);
}

void CacheSet::attend(int32_t cache, int32_t version, const ArgsFor<AttendArgs>& args_for) {
  const auto job = [&] {
    const Lock lock(lane_.mutex);
    return queue_attend(cache, version, args_for, false);
  }();
  finish(*job);
}

int32_t CacheSet::attend_start(int32_t cache, int32_t version,
                               const ArgsFor<AttendArgs>& args_for) {
  TraceScope scope(lane_.trace(), {.cache = cache, .kind = TraceKind::kAttendStart});
  const Lock lock(lane_.mutex);
  const auto job = queue_attend(cache, version, args_for, true);
  scope.event().offset = job->ticket;
  return job->ticket;
}

}  // namespace nspjax
