// Attention as the executor does it.
#include <algorithm>

#include "attention/merge.h"
#include "base/scoped_timer.h"
#include "store/attend_job.h"
#include "store/lane.h"

namespace nspjax {
namespace {

void attend_now(Lane& lane, AttendJob& job) REQUIRES(lane.device_access) {
  const AttendArgs& args = job.args;
  // what could not be written after all is in the tails still
  for (const auto& write : job.writes) {
    if (!write->error) continue;
    for (const TilesToWrite& tiles : write->tiles) {
      for (size_t b = 0; b < args.rows.size(); ++b) {
        if (args.length[b] == 0 || args.rows[b] != tiles.row) continue;
        job.rows[b].stored_tiles = std::min(job.rows[b].stored_tiles, tiles.begin);
      }
    }
  }
  const int64_t head_dim = job.cache.geometry().shape().head_dim;
  const int64_t n_results = std::ssize(args.rows) * args.n_tokens * args.n_q_heads;
  std::fill_n(args.out, n_results * head_dim, 0.0f);
  std::vector<float> max(static_cast<size_t>(n_results), kMinusInfinity);
  std::vector<float> sum(static_cast<size_t>(n_results), 0.0f);
  AttendCall call = plan_attend(job, lane, max, sum);
  std::vector<int32_t> rows;
  for (size_t b = 0; b < args.rows.size(); ++b) {
    if (args.length[b] > 0) rows.push_back(args.rows[b]);
  }
  lane.announced().take(job.cache.id, rows);
  call.next_reads = args.read_ahead ? std::move(job.guess) : lane.announced().reads();
  lane.on_all_devices([&](Device& device, int64_t d) {
    const AttendTraffic traffic = traffic_of(call, d);
    lane.counters().query_bytes += traffic.query_bytes + traffic.result_bytes;
    device.attend(call, d, lane.workers());
  });
  for (int64_t i = 0; i < n_results; ++i) {
    const auto at = static_cast<size_t>(i);
    args.lse[i] = normalise_partial(max[at], sum[at], args.out + i * head_dim, head_dim);
  }
}

}  // namespace

void run_attend(Lane& lane, AttendJob& job) {
  lane.has_device_access();
  const ScopedTimer timer(lane.counters().attend_ns);
  const TraceScope scope(lane.trace(), {.offset = job.ticket, .cache = job.cache.id});
  job.has_run = true;
  try {
    attend_now(lane, job);
  } catch (...) {
    job.error = std::current_exception();
  }
  job.release();
}

}  // namespace nspjax
