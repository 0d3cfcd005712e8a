// Attention over what a cache holds: taken down when it is asked for, run by the executor.
#include <algorithm>
#include <cmath>

#include "attention/merge.h"
#include "base/scoped_timer.h"
#include "store/attend_job.h"
#include "store/store.h"

namespace nspjax {

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

// Under the lock; `outstanding`: somebody will ask for the ticket.
std::shared_ptr<AttendJob> Store::queue_attend(int32_t cache, int32_t version,
                                               const ArgsFor<AttendArgs>& args_for,
                                               bool outstanding) {
  Cache& found = find_current(cache, version);
  const AttendArgs args = args_for(found.geometry.shape());
  check_attend(found, args);
  if (outstanding) tickets_.check_room();
  found.fetched_tokens = 0;
  settle_writes();
  auto job = std::make_shared<AttendJob>();
  job->args = args;
  job->cache = &found;
  job->cache_id = cache;
  if (outstanding) job->own_arguments();
  for (size_t b = 0; b < args.rows.size(); ++b) {
    job->rows.push_back(args.length[b] == 0 ? Row()
                                            : found.rows[static_cast<size_t>(args.rows[b])]);
  }
  std::ranges::copy_if(writes_, std::back_inserter(job->writes),
                       [cache](const auto& write) { return write->cache == cache; });
  if (args.read_ahead) job->guess = next_reads(found, cache, args);
  job->ticket = tickets_.add(job, outstanding);
  job->number = executor_.post([this, job] { run_attend(*job); });
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] > 0) found.rows[static_cast<size_t>(args.rows[b])].tail_job = job->number;
  }
  return job;
}

void Store::run_attend(AttendJob& job) {
  const ScopedTimer timer(attend_ns_);
  const TraceScope scope(trace_, {.offset = job.ticket, .cache = job.cache_id});
  job.has_run = true;
  try {
    attend_now(job);
  } catch (...) {
    job.error = std::current_exception();
  }
  job.release();
}

void Store::attend_now(AttendJob& job) {
  const AttendArgs& args = job.args;
  // what could not be written after all is in the tails still
  for (const auto& write : job.writes) {
    if (!write->error) continue;
    for (const Writeback::Tiles& tiles : write->tiles) {
      for (size_t b = 0; b < args.rows.size(); ++b) {
        if (args.length[b] == 0 || args.rows[b] != tiles.row) continue;
        job.rows[b].stored_tiles = std::min(job.rows[b].stored_tiles, tiles.begin);
      }
    }
  }
  const int64_t head_dim = job.cache->geometry.shape().head_dim;
  const int64_t n_results = std::ssize(args.rows) * args.n_tokens * args.n_q_heads;
  std::fill_n(args.out, n_results * head_dim, 0.0f);
  std::vector<float> max(static_cast<size_t>(n_results), kMinusInfinity);
  std::vector<float> sum(static_cast<size_t>(n_results), 0.0f);
  AttendCall call =
      plan_attend(job, kernels_, trace_, checksums_ && verifies_, budget_.slot_bytes, max, sum);
  std::vector<int32_t> rows;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] > 0) rows.push_back(args.rows[b]);
  }
  announced_.take(job.cache_id, rows);
  call.next_reads = args.read_ahead ? std::move(job.guess) : announced_.reads();
  on_all_devices([&](int64_t d) {
    const AttendTraffic traffic = traffic_of(call, d);
    attend_link_bytes_ += traffic.query_bytes + traffic.result_bytes;
    devices_[static_cast<size_t>(d)]->attend(call, d, *workers_);
  });
  for (int64_t i = 0; i < n_results; ++i) {
    const auto at = static_cast<size_t>(i);
    args.lse[i] = normalise_partial(max[at], sum[at], args.out + i * head_dim, head_dim);
  }
}

void Store::finish(AttendJob& job) {
  executor_.wait_for(job.number);
  if (!job.has_run) {
    fail(ErrorKind::kStoreClosed, "store ", id_, " was closed before it came to attention ",
         job.ticket);
  }
  if (job.error) std::rethrow_exception(job.error);
}

void Store::attend(int32_t cache, int32_t version, const ArgsFor<AttendArgs>& args_for) {
  const auto job = [&] {
    std::lock_guard lock(mutex_);
    return queue_attend(cache, version, args_for, false);
  }();
  finish(*job);
}

int32_t Store::attend_start(int32_t cache, int32_t version, const ArgsFor<AttendArgs>& args_for) {
  TraceScope scope(trace_, {.cache = cache, .kind = TraceKind::kAttendStart});
  std::lock_guard lock(mutex_);
  const auto job = queue_attend(cache, version, args_for, true);
  scope.event().offset = job->ticket;
  return job->ticket;
}

AttendResult Store::attend_wait(int32_t ticket) {
  TraceScope scope(trace_, {.offset = ticket, .kind = TraceKind::kAttendWait});
  const auto job = tickets_.take(ticket);
  scope.event().cache = job->cache_id;
  finish(*job);
  return std::move(job->owned.result);
}

}  // namespace nspjax
