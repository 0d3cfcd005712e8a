#include "device/host_attention.h"

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <utility>

#include "attention/merge.h"
#include "device/read_plan.h"
#include "device/sparse_attention.h"
#include "device/tile_checksums.h"

namespace nspjax {
namespace {

// A unit on this device: adds its segments' partials to the call's results in token order.
class UnitResult {
 public:
  UnitResult(const AttendCall& call, const QueryUnit& unit) : call_(call), unit_(unit) {}

  // Queries [first, first + the unit's) of a partial with n_queries of each head.
  struct Slice {
    std::shared_ptr<const Partial> partial;
    HeadSet heads;
    int64_t first;
    int64_t n_queries;
  };
  void add(int64_t segment, Slice slice) {
    std::lock_guard lock(mutex_);
    early_.emplace(segment, std::move(slice));
    for (auto it = early_.find(next_); it != early_.end(); it = early_.find(++next_)) {
      merge(it->second);
      early_.erase(it);
    }
  }

 private:
  void merge(const Slice& slice) const {
    const int64_t head_dim = call_.geometry.shape().head_dim;
    const int64_t n_heads = call_.geometry.shape().n_kv_heads * call_.group;
    for (int64_t i = 0; i < slice.heads.count; ++i) {
      for (int64_t query = 0; query < std::ssize(unit_.first); ++query) {
        const int64_t token =
            unit_.batch_row * call_.n_tokens + unit_.query_begin + query / call_.group;
        const int64_t head = slice.heads.head(i) * call_.group + query % call_.group;
        const int64_t to = token * n_heads + head;
        const int64_t from = i * slice.n_queries + slice.first + query;
        const auto at = static_cast<size_t>(from);
        merge_partial(call_.max[to], call_.sum[to], call_.out + to * head_dim,
                      slice.partial->max[at], slice.partial->sum[at],
                      slice.partial->acc.data() + from * call_.padded_dim, head_dim);
      }
    }
  }

  const AttendCall& call_;
  const QueryUnit& unit_;
  std::mutex mutex_;
  int64_t next_ = 0;
  std::map<int64_t, Slice> early_;
};

// Tiles of a pass that one partial result is made of, the tail among them where the pass has one
// there. They come in one part, or in several where they are more than a read: in any order, but
// they are attended in their own, so that it makes no difference to the result.
struct Segment {
  const AttendPass* pass;
  int64_t index;  // in the pass
  int64_t end;
  std::mutex mutex{};
  int64_t next{};  // the tile that is to be attended next
  Partial partial{};
  struct Part {
    int64_t end;
    std::shared_ptr<const std::byte> data;  // of a read that begins with first_tile
    int64_t first_tile;
  };
  std::map<int64_t, Part> waiting{};  // by first tile
};

// Hands the segments of a device to the workers as their tiles arrive.
class HostScan final : public ScanVisitor {
 public:
  HostScan(Device& device, const AttendCall& call, int64_t device_index, ThreadPool& workers,
           AttendArrived attend_arrived)
      : device_(device),
        call_(call),
        device_index_(device_index),
        attend_arrived_(std::move(attend_arrived)),
        tasks_(workers) {
    if (!attend_arrived_) {
      attend_arrived_ = [this](const ArrivedTiles& tiles, Partial& into) {
        attend_stored(tiles, into);
      };
    }
    for (const QueryUnit& unit : call.units) results_.emplace_back(call, unit);
    for (const AttendPass& pass : call.passes) plan(pass);
  }

  void run() {
    const auto next =
        std::span<const TileRange>(call_.next_reads[static_cast<size_t>(device_index_)]);
    for (const Piece& piece : unread_) attend_later(piece, nullptr, 0);
    device_.scan(ranges_, next, *this);
    tasks_.wait();
    device_.read_ahead(next);  // into the buffers that are free now
  }

  void ready(size_t index, std::shared_ptr<const std::byte> data) override {
    const Arrival& arrival = arrivals_[index];
    for (const Piece& piece : arrival.pieces) attend_later(piece, data, arrival.begin);
  }
  std::optional<std::chrono::steady_clock::time_point> idle_since() const override {
    return tasks_.idle_since();
  }

 private:
  // Tiles [begin, end) of a segment.
  struct Piece {
    Segment* segment;
    int64_t begin;
    int64_t end;
  };
  struct Arrival {
    int64_t begin;  // the first tile of the read
    std::vector<Piece> pieces;
  };

  HeadSet heads(const AttendPass& pass) const {
    return call_.geometry.heads(pass.tiles.region->row, device_index_);
  }
  int64_t tile_bytes(const AttendPass& pass) const {
    return call_.geometry.tile_bytes(pass.tiles.region->row, device_index_);
  }

  void plan(const AttendPass& pass) {
    const TileGeometry& geometry = call_.geometry;
    if (heads(pass).count == 0) return;
    const auto reads =
        plan_reads(geometry, pass.tiles, pass.stored_tiles, device_index_, call_.read_bytes);
    auto read = reads.begin();
    const size_t first = arrivals_.size();
    for (const TileRead& r : reads) {
      ranges_.push_back(r.range);
      arrivals_.push_back({r.begin, {}});
    }
    const int64_t stride = geometry.segment_tiles();
    int64_t index = 0;
    for (int64_t begin = pass.tiles.begin; begin < pass.tiles.end; ++index) {
      const int64_t end = std::min(round_down(begin, stride) + stride, pass.tiles.end);
      Segment& segment = segments_.emplace_back(&pass, index, end);
      segment.next = begin;
      while (begin < end) {
        while (read != reads.end() && read->end <= begin) ++read;
        const bool has_read = read != reads.end() && read->begin < end;
        // a segment's last piece has what follows the last read too
        const bool more = has_read && read->end < end && read + 1 != reads.end();
        const Piece piece{&segment, begin, more ? std::min(read->end, end) : end};
        if (has_read) {
          arrivals_[first + static_cast<size_t>(read - reads.begin())].pieces.push_back(piece);
        } else {
          unread_.push_back(piece);
        }
        begin = piece.end;
      }
    }
  }

  void attend_later(const Piece& piece, std::shared_ptr<const std::byte> data, int64_t first_tile) {
    tasks_.run([this, piece, first_tile, data = std::move(data)] {
      Segment& segment = *piece.segment;
      std::lock_guard lock(segment.mutex);
      segment.waiting.emplace(piece.begin, Segment::Part{piece.end, data, first_tile});
      for (auto it = segment.waiting.find(segment.next); it != segment.waiting.end();
           it = segment.waiting.find(segment.next)) {
        const Segment::Part part = std::move(it->second);
        segment.waiting.erase(it);
        attend(segment, std::exchange(segment.next, part.end), part);
      }
      if (segment.next == segment.end) give_result(segment);
    });
  }

  void give_result(Segment& segment) {
    const auto partial = std::make_shared<const Partial>(std::move(segment.partial));
    int64_t first = 0;
    for (const AttendPass::Member& member : segment.pass->members) {
      results_[member.unit].add(member.first_segment + segment.index,
                                {partial, heads(*segment.pass), first, segment.pass->n_queries()});
      first += std::ssize(call_.units[member.unit].first);
    }
  }

  // Adds tiles [begin, part.end) to the segment's partial result.
  void attend(Segment& segment, int64_t begin, const Segment::Part& part) const {
    const AttendPass& pass = *segment.pass;
    const TraceScope scope(call_.trace, {.bytes = (part.end - begin) * tile_bytes(pass),
                                         .device = static_cast<int32_t>(device_index_),
                                         .cache = call_.cache,
                                         .row = static_cast<int32_t>(pass.tiles.region->row),
                                         .kind = TraceKind::kCompute});
    const auto n_results = static_cast<size_t>(heads(pass).count * pass.n_queries());
    Partial& partial = segment.partial;
    if (partial.max.empty()) {
      partial = {std::vector(n_results, kMinusInfinity), std::vector(n_results, 0.0f),
                 std::vector(n_results * static_cast<size_t>(call_.padded_dim), 0.0f)};
    }
    const Region& region = *pass.tiles.region;
    const int64_t arrived = std::clamp(region.pinned_tiles, begin, part.end);
    const int64_t tail = std::clamp(pass.stored_tiles, begin, part.end);
    for (int64_t t = begin; t < std::min(arrived, tail); ++t) {
      const std::byte* tile = pinned_tile(call_.geometry, region, device_index_, t);
      add_tile(pass, t, call_.geometry.stored(), tile, partial);
    }
    if (arrived < tail) {
      const std::byte* tiles = part.data.get() + (arrived - part.first_tile) * tile_bytes(pass);
      attend_arrived_({pass, arrived, tail, tiles}, partial);
    }
    for (int64_t t = tail; t < part.end; ++t) {
      const auto offset = call_.geometry.tail_offset(region.row, device_index_);
      const std::byte* tile = pass.tail[static_cast<size_t>(t - pass.stored_tiles)];
      add_tile(pass, t, call_.geometry.tail(), tile + offset, partial);
    }
  }

  void attend_stored(const ArrivedTiles& tiles, Partial& into) const {
    for (int64_t t = tiles.begin; t < tiles.end; ++t) {
      const std::byte* tile = tiles.data + (t - tiles.begin) * tile_bytes(tiles.pass);
      if (call_.verify && !device_.in_memory()) {
        check_tile(device_, device_index_, call_.geometry, *tiles.pass.tiles.region, t, tile);
      }
      add_tile(tiles.pass, t, call_.geometry.stored(), tile, into);
    }
  }

  void add_tile(const AttendPass& pass, int64_t index, const HeadTile& order, const std::byte* tile,
                Partial& partial) const {
    const int64_t n_queries = pass.n_queries();
    const int64_t first_token = index * order.tile_tokens();
    const HeadSet on_device = heads(pass);
    for (int64_t i = 0; i < on_device.count; ++i) {
      const int64_t first_result = i * n_queries;
      call_.kernels.of(order.type())
          .attend({
              .queries = pass.queries.data() + on_device.head(i) * n_queries * call_.padded_dim,
              .scale = call_.scale,
              .n_queries = static_cast<int>(n_queries),
              .head_dim = static_cast<int>(order.head_dim()),
              .padded_dim = static_cast<int>(call_.padded_dim),
              .first = pass.first.data(),
              .last = pass.last.data(),
              .tile = &order,
              .data = tile + i * order.bytes(),
              .first_token = static_cast<int32_t>(first_token),
              .begin = static_cast<int>(std::max<int64_t>(pass.token_begin - first_token, 0)),
              .end = static_cast<int>(std::min(pass.token_end - first_token, order.tile_tokens())),
              .softcap = call_.softcap,
              .max = partial.max.data() + first_result,
              .sum = partial.sum.data() + first_result,
              .acc = partial.acc.data() + first_result * call_.padded_dim,
          });
    }
  }

  Device& device_;
  const AttendCall& call_;
  int64_t device_index_;
  AttendArrived attend_arrived_;
  std::deque<UnitResult> results_;  // [unit]; they stay where they are
  std::vector<TileRange> ranges_;
  std::vector<Arrival> arrivals_;  // of ranges_
  std::deque<Segment> segments_;
  std::vector<Piece> unread_;  // those that need nothing from the device
  TaskGroup tasks_;            // last: waits for tasks that use the rest
};

}  // namespace

void attend_on_host(Device& device, const AttendCall& call, int64_t device_index,
                    ThreadPool& workers, AttendArrived attend_arrived) {
  if (!call.sparsity.is_dense()) return attend_sparsely(device, call, device_index, workers);
  HostScan(device, call, device_index, workers, std::move(attend_arrived)).run();
}

int64_t count_segments(const TileGeometry& geometry, int64_t begin, int64_t end) {
  if (begin >= end) return 0;
  return ceil_div(end, geometry.segment_tiles()) - begin / geometry.segment_tiles();
}

}  // namespace nspjax
