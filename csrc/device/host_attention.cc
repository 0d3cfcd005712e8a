#include "device/host_attention.h"

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>

#include "attention/merge.h"

namespace nspjax {
namespace {

// (max, sum, acc) of [heads on the device, queries of the pass].
struct Partial {
  std::vector<float> max, sum, acc;
};

// A pass on this device: adds its segments' partials to the call's results in token order.
class PassResult {
 public:
  PassResult(const AttendCall& call, const AttendPass& pass, HeadSet heads)
      : call_(call), pass_(pass), heads_(heads) {}

  void add(size_t order, Partial partial) {
    std::lock_guard lock(mutex_);
    early_.emplace(order, std::move(partial));
    for (auto it = early_.find(next_); it != early_.end(); it = early_.find(++next_)) {
      merge(it->second);
      early_.erase(it);
    }
  }

  const AttendPass& pass() const { return pass_; }
  HeadSet heads() const { return heads_; }

 private:
  void merge(const Partial& partial) const {
    const int64_t head_dim = call_.geometry.shape().head_dim;
    const int64_t n_heads = call_.geometry.shape().n_kv_heads * call_.group;
    const int64_t n_queries = call_.queries_of(pass_);
    for (int64_t i = 0; i < heads_.count * n_queries; ++i) {
      const int64_t query = i % n_queries;
      const int64_t token =
          pass_.batch_row * call_.n_tokens + pass_.query_begin + query / call_.group;
      const int64_t head = heads_.head(i / n_queries) * call_.group + query % call_.group;
      const int64_t to = token * n_heads + head;
      const auto from = static_cast<size_t>(i);
      merge_partial(call_.max[to], call_.sum[to], call_.out + to * head_dim, partial.max[from],
                    partial.sum[from], partial.acc.data() + i * call_.padded_dim, head_dim);
    }
  }

  const AttendCall& call_;
  const AttendPass& pass_;
  HeadSet heads_;
  std::mutex mutex_;
  size_t next_ = 0;
  std::map<size_t, Partial> early_;
};

// Tiles [begin, end) of a row, and its tail after them if `with_tail`.
struct Segment {
  PassResult* result;
  size_t order;  // among the pass's segments
  int64_t tile_begin;
  int64_t tile_end;
  bool with_tail;
};

Partial attend_segment(const AttendCall& call, const Segment& segment, const std::byte* tiles,
                       const std::byte* tail, int64_t tile_bytes) {
  const TileGeometry& geometry = call.geometry;
  const AttendPass& pass = segment.result->pass();
  const HeadSet heads = segment.result->heads();
  const int64_t n_queries = call.queries_of(pass);
  const int64_t head_dim = geometry.shape().head_dim, tile_tokens = geometry.tile_tokens();
  const auto n_results = static_cast<size_t>(heads.count * n_queries);
  Partial partial{std::vector(n_results, kMinusInfinity), std::vector(n_results, 0.0f),
                  std::vector(n_results * static_cast<size_t>(call.padded_dim), 0.0f)};

  for (int64_t i = 0; i < heads.count; ++i) {
    const int64_t head_row = pass.batch_row * geometry.shape().n_kv_heads + heads.head(i);
    const int64_t first_query = (head_row * call.n_tokens + pass.query_begin) * call.group;
    const auto first_result = static_cast<size_t>(i * n_queries);
    const auto attend = [&](const std::byte* tile, int64_t index) {
      const int64_t first_token = index * tile_tokens;
      call.kernel({
          .queries = call.queries + first_query * call.padded_dim,
          .scale = call.scale,
          .n_queries = static_cast<int>(n_queries),
          .head_dim = static_cast<int>(head_dim),
          .padded_dim = static_cast<int>(call.padded_dim),
          .first = pass.first.data(),
          .last = pass.last.data(),
          .tile = &geometry.head_tile(),
          .data = tile + geometry.head_offset(i),
          .first_token = static_cast<int32_t>(first_token),
          .begin = static_cast<int>(std::max<int64_t>(pass.token_begin - first_token, 0)),
          .end = static_cast<int>(std::min(pass.token_end - first_token, tile_tokens)),
          .softcap = call.softcap,
          .max = partial.max.data() + first_result,
          .sum = partial.sum.data() + first_result,
          .acc = partial.acc.data() + first_result * static_cast<size_t>(call.padded_dim),
      });
    };
    for (int64_t t = segment.tile_begin; t < segment.tile_end; ++t) {
      attend(tiles + (t - segment.tile_begin) * tile_bytes, t);
    }
    if (segment.with_tail) attend(tail, segment.tile_end);
  }
  return partial;
}

// Hands the segments of a scan to the workers.
class Scan final : public ScanVisitor {
 public:
  Scan(const AttendCall& call, int64_t device, ThreadPool& workers)
      : call_(call), device_(device), tasks_(workers) {}

  void plan(const AttendPass& pass, int64_t extent_offset) {
    const TileGeometry& geometry = call_.geometry;
    const HeadSet heads = geometry.heads(pass.row, device_);
    if (heads.count == 0) return;
    PassResult& result = results_.emplace_back(call_, pass, heads);
    const int64_t tile_begin = pass.token_begin / geometry.tile_tokens();
    const int64_t tile_end = ceil_div(pass.token_end, geometry.tile_tokens());
    const int64_t tile_bytes = geometry.tile_bytes(pass.row, device_);
    size_t order = 0;
    for (int64_t begin = tile_begin; begin < tile_end; ++order) {
      const int64_t end = std::min(
          round_down(begin, geometry.segment_tiles()) + geometry.segment_tiles(), tile_end);
      const int64_t stored_end = std::clamp(pass.stored_tiles, begin, end);
      const Segment segment{&result, order, begin, stored_end, stored_end < end};
      if (stored_end > begin) {
        segments_.push_back(segment);
        ranges_.push_back({extent_offset + geometry.tile_offset(pass.row, device_, begin),
                           (stored_end - begin) * tile_bytes});
      } else {
        run(segment, nullptr);
      }
      begin = end;
    }
  }

  std::span<const TileRange> ranges() const { return ranges_; }

  void ready(size_t index, std::shared_ptr<const std::byte> data) override {
    run(segments_[index], std::move(data));
  }
  std::optional<std::chrono::steady_clock::time_point> idle_since() const override {
    return tasks_.idle_since();
  }
  void wait() { tasks_.wait(); }

 private:
  void run(const Segment& segment, std::shared_ptr<const std::byte> tiles) {
    tasks_.run([this, segment, tiles = std::move(tiles)] {
      const AttendPass& pass = segment.result->pass();
      const TileGeometry& geometry = call_.geometry;
      const std::byte* tail =
          pass.tail ? pass.tail + geometry.tail_offset(pass.row, device_) : nullptr;
      segment.result->add(segment.order, attend_segment(call_, segment, tiles.get(), tail,
                                                        geometry.tile_bytes(pass.row, device_)));
    });
  }

  const AttendCall& call_;
  int64_t device_;
  std::deque<PassResult> results_;  // stay where they are
  std::vector<Segment> segments_;
  std::vector<TileRange> ranges_;
  TaskGroup tasks_;  // last: waits for tasks that use the rest
};

}  // namespace

void attend_on_host(Device& device, const AttendCall& call, int64_t device_index,
                    int64_t extent_offset, ThreadPool& workers) {
  Scan scan(call, device_index, workers);
  for (const AttendPass& pass : call.passes) scan.plan(pass, extent_offset);
  device.scan(scan.ranges(), scan);
  scan.wait();
}

}  // namespace nspjax
