#include "device/sparse_attention.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <optional>
#include <vector>

#include "base/align.h"
#include "device/sparse_head.h"
#include "device/tile_checksums.h"

namespace nspjax {
namespace {

// So many heads are scored while the V of as many is read: few enough that devices wait little for
// the first, enough for a deep queue. Fewer where their weights would take more than that.
constexpr size_t kMostHeadsInWork = 32;
constexpr int64_t kMostWeightBytes = 32 << 20;
// Of V that was read, until it is added. Twice, since the next is read meanwhile.
constexpr int64_t kMostValueBytes = 4 << 20;
// Two blocks that lie so near each other are one read with what is between them.
constexpr int64_t kMostGapBytes = 8 << 10;

// A block on its way from the device to where its head gets it.
struct Errand {
  SparseHead* head;
  const SparseHead::Wanted* wanted;
  std::byte* to;  // unless it is pinned

  const std::byte* values() const { return wanted->pinned ? wanted->pinned : to; }
};

// Errands that come in one read, all of one tile.
struct BlockRead {
  const Region* region;
  int64_t tile;
  int64_t begin;  // in the tile's part
  int64_t end;
  std::vector<Errand> errands;
};

using IdleSince = std::function<std::optional<std::chrono::steady_clock::time_point>()>;

class BlockScan final : public ScanVisitor {
 public:
  // idle_since: as ScanVisitor's.
  BlockScan(const AttendCall& call, Device& device, int64_t device_index, IdleSince idle_since,
            std::vector<Errand> errands)
      : call_(call),
        device_(device),
        device_index_(device_index),
        idle_since_(std::move(idle_since)) {
    const TileGeometry& geometry = call.geometry;
    const auto position = [&](const Errand& errand) {
      const SparseHead::Wanted& wanted = *errand.wanted;
      return tile_offset(geometry, *wanted.region, device_index, wanted.tile) + wanted.offset;
    };
    std::erase_if(errands, [](const Errand& errand) { return errand.wanted->pinned != nullptr; });
    std::ranges::stable_sort(errands, {}, position);
    for (const Errand& errand : errands) {
      const SparseHead::Wanted& wanted = *errand.wanted;
      const int64_t begin = round_down(wanted.offset, kPageBytes);
      const int64_t end = round_up(wanted.offset + errand.head->block_bytes(), kPageBytes);
      if (!joins(wanted, begin, end)) {
        reads_.push_back({wanted.region, wanted.tile, begin, end, {}});
      }
      reads_.back().end = std::max(reads_.back().end, end);
      reads_.back().errands.push_back(errand);
    }
    for (const BlockRead& read : reads_) {
      ranges_.push_back({tile_offset(geometry, *read.region, device_index, read.tile) + read.begin,
                         read.end - read.begin});
    }
  }

  void run() { device_.scan(ranges_, call_.next_reads[static_cast<size_t>(device_index_)], *this); }

  void ready(size_t index, std::shared_ptr<const std::byte> data) override {
    const BlockRead& read = reads_[index];
    if (call_.verify && !device_.in_memory()) {
      check_part(device_, device_index_, call_.geometry, *read.region, read.tile, read.begin,
                 {data.get(), static_cast<size_t>(read.end - read.begin)});
    }
    for (const Errand& errand : read.errands) {
      std::memcpy(errand.to, data.get() + errand.wanted->offset - read.begin,
                  static_cast<size_t>(errand.head->block_bytes()));
    }
  }
  std::optional<std::chrono::steady_clock::time_point> idle_since() const override {
    return idle_since_();
  }

 private:
  bool joins(const SparseHead::Wanted& wanted, int64_t begin, int64_t end) const {
    if (reads_.empty()) return false;
    const BlockRead& last = reads_.back();
    return last.region == wanted.region && last.tile == wanted.tile &&
           begin <= last.end + kMostGapBytes && end - last.begin <= call_.read_bytes;
  }

  const AttendCall& call_;
  Device& device_;
  int64_t device_index_;
  IdleSince idle_since_;
  std::vector<BlockRead> reads_;
  std::vector<TileRange> ranges_;
};

// The row's tiles by their runs, for each unit.
std::vector<std::vector<SparseHead::Part>> parts_of(const AttendCall& call) {
  std::vector<std::vector<SparseHead::Part>> parts(call.units.size());
  for (const AttendPass& pass : call.passes) {
    int64_t first_query = 0;
    for (const AttendPass::Member& member : pass.members) {
      parts[member.unit].push_back({&pass, first_query});
      first_query += std::ssize(call.units[member.unit].first);
    }
  }
  for (auto& of_unit : parts) {
    std::ranges::sort(of_unit, {}, [](const auto& part) { return part.pass->tiles.begin; });
  }
  return parts;
}

class SparseAttention {
 public:
  SparseAttention(Device& device, const AttendCall& call, int64_t device_index, ThreadPool& workers)
      : device_(device),
        call_(call),
        device_index_(device_index),
        scoring_(workers),
        adding_(workers) {
    int64_t most_tokens = 1;
    for (const QueryUnit& unit : call.units) most_tokens = std::max(most_tokens, unit.token_end);
    const int64_t fit = kMostWeightBytes / (call.group * most_tokens * int64_t{sizeof(float)});
    heads_in_work_ = std::clamp<size_t>(static_cast<size_t>(fit), 1, kMostHeadsInWork);
    const auto parts = parts_of(call);
    for (size_t i = 0; i < call.units.size(); ++i) {
      const QueryUnit& unit = call.units[i];
      const int64_t n_heads = call.geometry.heads(unit.row, device_index).count;
      for (int64_t place = 0; place < n_heads; ++place) {
        heads_.emplace_back(call, unit, parts[i], device_index, place);
      }
    }
  }

  void run() {
    score(0);
    scoring_.wait();
    for (size_t begin = 0; begin < heads_.size(); begin += heads_in_work_) {
      score(begin + heads_in_work_);
      read_values(begin, std::min(begin + heads_in_work_, heads_.size()));
      scoring_.wait();
    }
    adding_.wait();
    device_.read_ahead(call_.next_reads[static_cast<size_t>(device_index_)]);
  }

 private:
  void score(size_t begin) {
    const size_t end = std::min(begin + heads_in_work_, heads_.size());
    for (size_t i = begin; i < end; ++i) {
      scoring_.run([head = &heads_[i]] { head->score(); });
    }
  }

  void read_values(size_t begin, size_t end) {
    std::vector<Errand> errands;
    int64_t bytes = 0;
    for (size_t i = begin; i < end; ++i) {
      SparseHead& head = heads_[i];
      for (const SparseHead::Wanted& wanted : head.wanted()) {
        if (bytes + head.block_bytes() > kMostValueBytes) {
          fetch_and_add(std::exchange(errands, {}));
          bytes = 0;
        }
        errands.push_back({&head, &wanted, nullptr});
        bytes += head.block_bytes();
      }
    }
    fetch_and_add(std::move(errands));
    adding_.wait();
    for (size_t i = begin; i < end; ++i) {
      adding_.run([head = &heads_[i]] { head->finish(); });
    }
  }

  // Errands in the order of heads and their blocks.
  void fetch_and_add(std::vector<Errand> errands) {
    if (errands.empty()) return;
    std::swap(values_, next_values_);
    int64_t at = 0;
    for (const Errand& errand : errands) at += errand.head->block_bytes();
    if (values_.size_bytes() < at) values_ = AlignedBuffer(at);
    at = 0;
    for (Errand& errand : errands) {
      errand.to = values_.data() + at;
      at += errand.head->block_bytes();
    }
    BlockScan(call_, device_, device_index_, [this] { return idle_since(); }, errands).run();
    adding_.wait();  // what came before: a head gets its blocks in their order
    for (size_t from = 0; from < errands.size();) {
      size_t to = from;
      while (to < errands.size() && errands[to].head == errands[from].head) ++to;
      adding_.run([mine = std::vector(errands.begin() + static_cast<std::ptrdiff_t>(from),
                                      errands.begin() + static_cast<std::ptrdiff_t>(to))] {
        for (const Errand& errand : mine) errand.head->add(errand.values());
      });
      from = to;
    }
  }

  // Since when no task of either kind has run.
  std::optional<std::chrono::steady_clock::time_point> idle_since() const {
    const auto scored = scoring_.idle_since(), added = adding_.idle_since();
    return scored && added ? std::optional(std::max(*scored, *added)) : std::nullopt;
  }

  Device& device_;
  const AttendCall& call_;
  int64_t device_index_;
  size_t heads_in_work_;
  std::deque<SparseHead> heads_;
  AlignedBuffer values_, next_values_;  // V that was read, and that is read
  TaskGroup scoring_, adding_;          // last: wait for tasks that use the rest
};

}  // namespace

void attend_sparsely(Device& device, const AttendCall& call, int64_t device_index,
                     ThreadPool& workers) {
  SparseAttention(device, call, device_index, workers).run();
}

}  // namespace nspjax
