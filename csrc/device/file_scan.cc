// The file device's reads: the present scan's, and the next one's ahead of it.
#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <unordered_set>

#include "device/file_device.h"

namespace nspjax {
namespace {

using Clock = std::chrono::steady_clock;

// Goes through what the next scan will ask for, but for what is being read already.
class AheadReads {
 public:
  template <class Reads>
  AheadReads(std::span<const TileRange> next, const Reads& reads) : next_(next) {
    for (const auto& read : reads) {
      if (read.wanted && !read.index) begun_.insert(read.range.offset);
    }
    skip();
  }

  bool done() const { return at_ == next_.size(); }
  const TileRange& range() const { return next_[at_]; }
  void pass() {
    ++at_;
    skip();
  }

 private:
  void skip() {
    while (!done() && begun_.contains(range().offset)) ++at_;
  }

  std::span<const TileRange> next_;
  std::unordered_set<int64_t> begun_;
  size_t at_ = 0;
};

}  // namespace

void FileDevice::scan(std::span<const TileRange> ranges, std::span<const TileRange> next,
                      ScanVisitor& visitor) {
  complete(false);
  std::vector<bool> begun(ranges.size());
  claim_reads(ranges, next, begun);
  size_t n_begun = 0, n_delivered = 0;
  AheadReads to_come(next, reads_);
  while (true) {
    for (; n_begun < ranges.size(); ++n_begun) {
      if (!begun[n_begun] && !begin_read(ranges[n_begun], n_begun)) break;
    }
    while (n_begun == ranges.size() && !to_come.done() && begin_ahead(to_come.range())) {
      to_come.pass();
    }
    n_delivered += deliver(visitor);
    if (n_delivered == ranges.size()) break;
    if (transfers_.in_flight() == 0) {
      const auto ahead = std::ranges::find_if(reads_, [](const Read& r) { return !r.index; });
      if (ahead != reads_.end()) {
        drop_read(ahead);  // the present scan goes first
      } else {
        staging_.wait_for_free();  // all are with the attention workers
      }
      continue;
    }
    const auto begin = Clock::now();
    const int64_t begin_ns = traces() ? trace_clock_ns() : 0;
    complete(true);
    if (traces()) record(TraceKind::kWait, begin_ns, {0, 0});
    if (const auto idle = visitor.idle_since()) {
      stats_.read_ns += std::chrono::nanoseconds(Clock::now() - std::max(begin, *idle)).count();
    }
  }
  complete(false);  // sends what was begun last
}

void FileDevice::read_ahead(std::span<const TileRange> next) {
  complete(false);
  std::vector<bool> none;
  claim_reads({}, next, none);
  for (AheadReads to_come(next, reads_); !to_come.done(); to_come.pass()) {
    if (!begin_ahead(to_come.range())) break;
  }
  complete(false);  // sends what was begun last
}

// What is in flight or read already is taken for this scan and the next; the rest is dropped. After
// a scan that failed there may be two reads of a range, its own and one ahead: one of them is
// taken. One that failed is not: nobody had asked for it yet, and now it is tried again.
void FileDevice::claim_reads(std::span<const TileRange> ranges, std::span<const TileRange> next,
                             std::vector<bool>& begun) {
  std::unordered_map<int64_t, size_t> index_of;
  for (size_t i = 0; i < ranges.size(); ++i) index_of.emplace(ranges[i].offset, i);
  std::unordered_set<int64_t> is_next;
  for (const TileRange& range : next) is_next.insert(range.offset);
  for (auto read = reads_.begin(); read != reads_.end();) {
    const auto here = read++;
    const auto found = index_of.find(here->range.offset);
    const bool taken = found != index_of.end() && ranges[found->second] == here->range;
    if (!here->wanted || here->error) {
      drop_read(here);
    } else if (taken && !begun[found->second]) {
      here->index = found->second;
      begun[found->second] = true;
      stats_.bytes_read_ahead += here->range.bytes;
    } else if (!is_next.contains(here->range.offset)) {
      drop_read(here);
    } else {
      here->index.reset();
    }
  }
}

// What is in a write comes from there alone: its place on the medium may not be readable yet.
bool FileDevice::begin_read(const TileRange& range, std::optional<size_t> index) {
  const StagingRing::Slot slot = staging_.try_acquire();
  if (!slot) return false;
  const auto read = reads_.insert(reads_.end(), Read{.range = range,
                                                     .slot = slot,
                                                     .begin_ns = traces() ? trace_clock_ns() : 0,
                                                     .ahead = !index,
                                                     .index = index});
  int64_t at = range.offset;
  const auto read_up_to = [&](int64_t end) {
    if (at >= end) return;
    ++read->n_transfers;
    start(IoOp::kRead, slot.get() + (at - range.offset), {at, end - at}, read);
  };
  for (auto write = first_write_in(range); write != writes_.end() && write->first < range.end();
       ++write) {
    const TileRange& written = write->second.range;
    read_up_to(written.offset);
    at = std::max(at, written.offset);
    const int64_t end = std::min(written.end(), range.end());
    std::memcpy(slot.get() + (at - range.offset), write->second.data.get() + (at - written.offset),
                static_cast<size_t>(end - at));
    at = end;
  }
  read_up_to(range.end());
  if (read->n_transfers == 0) finish_read(read);
  return true;
}

void FileDevice::finish_transfer(Reads::iterator read, const std::optional<Error>& error) {
  if (error) read->error = error;
  if (--read->n_transfers == 0) finish_read(read);
}

void FileDevice::finish_read(Reads::iterator read) {
  if (traces()) {
    record(read->ahead ? TraceKind::kReadAhead : TraceKind::kRead, read->begin_ns, read->range);
  }
  if (read->error && !read->index) ++stats_.n_failed_reads_ahead;
  if (!read->wanted) {
    stats_.bytes_read_in_vain += read->range.bytes;
    reads_.erase(read);
    return;
  }
  read->done = true;
}

// Gives the visitor what has arrived of the present scan. Returns how many ranges.
size_t FileDevice::deliver(ScanVisitor& visitor) {
  size_t n = 0;
  for (auto read = reads_.begin(); read != reads_.end();) {
    const auto here = read++;
    if (!here->done || !here->index) continue;
    const Read arrived = std::move(*here);
    reads_.erase(here);
    if (arrived.error) throw Error(*arrived.error);
    stats_.bytes_read += arrived.range.bytes;
    ++stats_.n_reads;
    visitor.ready(*arrived.index, arrived.slot);
    ++n;
  }
  return n;
}

// Some buffers stay free, so that writes need not throw away what was read.
bool FileDevice::begin_ahead(const TileRange& range) {
  return staging_.n_free() > staging_.n_slots() / 8 && begin_read(range, std::nullopt);
}

// Tiles of the range are about to change.
void FileDevice::forget_reads(const TileRange& range) {
  for (auto read = reads_.begin(); read != reads_.end();) {
    const auto here = read++;
    if (here->range.overlaps(range)) drop_read(here);
  }
}

// A read that is in flight keeps its buffer until it ends.
void FileDevice::drop_read(Reads::iterator read) {
  read->wanted = false;
  read->index.reset();
  if (!read->done) return;
  stats_.bytes_read_in_vain += read->range.bytes;
  reads_.erase(read);
}

}  // namespace nspjax
