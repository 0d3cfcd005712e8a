// The file device's writes: the call returns at once, and until the medium has the bytes they are
// read from memory.
#include <algorithm>

#include "base/scoped_timer.h"
#include "device/file_device.h"

namespace nspjax {
void FileDevice::write(std::span<const TileWrite> writes, ThreadPool& workers) {
  complete(false);
  retry_writes();
  for (const TileWrite& write : writes) {
    forget_reads(write.range);
    settle_writes(write.range);
  }
  std::vector<int64_t> begun;
  const auto abandon = [&] {
    for (const int64_t offset : begun) {
      const auto write = writes_.find(offset);
      if (write == writes_.end()) continue;
      write->second.kept = false;
      if (!write->second.in_flight) writes_.erase(write);
    }
  };
  try {
    for (size_t next = 0; next < writes.size();) {
      // as many as fit a buffer are packed at once, and follow each other in it
      const StagingRing::Slot slot = write_slot();
      const size_t first = next;
      int64_t filled = 0;
      TaskGroup packing(workers);
      for (; next < writes.size(); ++next) {
        const TileWrite& write = writes[next];
        if (next > first && filled + write.range.bytes > staging_.slot_bytes()) break;
        packing.run([this, &write, to = slot.get() + filled] {
          const int64_t begin_ns = traces() ? trace_clock_ns() : 0;
          write.pack(to);
          if (traces()) record(TraceKind::kPack, begin_ns, write.range);
        });
        filled += write.range.bytes;
      }
      packing.wait();
      std::byte* data = slot.get();
      for (size_t i = first; i < next;) {  // what is contiguous goes out as one
        TileRange range = writes[i].range;
        for (++i; i < next && writes[i].range.offset == range.end(); ++i) {
          range.bytes += writes[i].range.bytes;
        }
        const auto write =
            writes_.emplace(range.offset, Write{.range = range,
                                                .data = std::shared_ptr<std::byte>(slot, data),
                                                .begin_ns = traces() ? trace_clock_ns() : 0});
        begun.push_back(range.offset);
        start(IoOp::kWrite, data, range, write.first);
        data += range.bytes;
      }
      complete(false);
      check_writes_of(begun);
    }
  } catch (...) {
    abandon();
    throw;
  }
}

StagingRing::Slot FileDevice::write_slot() {
  const auto n_most = static_cast<size_t>(std::max<int64_t>(1, staging_.n_slots() / 2));
  const auto n_used = [&] {
    std::erase_if(write_slots_, [](const auto& slot) { return slot.expired(); });
    return write_slots_.size();
  };
  const ScopedTimer waiting(stats_.write_ns);
  for (;;) {
    if (n_used() < n_most) {
      if (StagingRing::Slot slot = staging_.try_acquire()) {
        write_slots_.push_back(slot);
        return slot;
      }
      // reads ahead give way
      const auto ahead = std::ranges::find_if(reads_, [](const Read& r) { return r.done; });
      if (ahead != reads_.end()) {
        drop_read(ahead);
        continue;
      }
    }
    if (transfers_.in_flight() == 0) {
      for (const auto& [offset, write] : writes_) {
        if (write.error) throw Error(*write.error);
      }
      staging_.wait_for_free();
    } else {
      complete(true);
    }
  }
}

// Throws the error of one of these writes.
void FileDevice::check_writes_of(std::span<const int64_t> offsets) {
  for (const int64_t offset : offsets) {
    const auto write = writes_.find(offset);
    if (write != writes_.end() && write->second.error) throw Error(*write->second.error);
  }
}

void FileDevice::finish_write(Writes::iterator write, const std::optional<Error>& error) {
  if (traces()) record(TraceKind::kWrite, write->second.begin_ns, write->second.range);
  write->second.in_flight = false;
  if (!error) {
    stats_.bytes_written += write->second.range.bytes;
    ++stats_.n_writes;
  }
  if (!error || !write->second.kept) {
    writes_.erase(write);
  } else {
    write->second.error = error;
  }
}

// The first that may overlap the range.
FileDevice::Writes::iterator FileDevice::first_write_in(const TileRange& range) {
  auto write = writes_.upper_bound(range.offset);
  if (write != writes_.begin() && std::prev(write)->second.range.end() > range.offset) --write;
  return write;
}

// No write of the range is left: two in flight at once could end in any order.
void FileDevice::settle_writes(const TileRange& range) {
  for (;;) {
    auto write = first_write_in(range);
    if (write == writes_.end() || write->first >= range.end()) return;
    if (write->second.in_flight) {
      const ScopedTimer waiting(stats_.write_ns);
      complete(true);
    } else {
      forget_write_in(write, range);
    }
  }
}

// A failed write is the only copy of its tiles: those outside the range wait for another try still.
void FileDevice::forget_write_in(Writes::iterator write, const TileRange& range) {
  const Write failed = std::move(write->second);
  writes_.erase(write);
  const auto keep = [&](int64_t begin, int64_t end) {
    if (begin >= end) return;
    Write part = failed;
    part.range = {begin, end - begin};
    part.data =
        std::shared_ptr<std::byte>(failed.data, failed.data.get() + (begin - failed.range.offset));
    writes_.emplace(begin, std::move(part));
  };
  keep(failed.range.offset, range.offset);
  keep(range.end(), failed.range.end());
}

// Tries failed writes once more; throws where one fails again.
void FileDevice::retry_writes() {
  std::vector<int64_t> offsets;
  for (auto write = writes_.begin(); write != writes_.end(); ++write) {
    if (!write->second.error) continue;
    write->second.error.reset();
    write->second.in_flight = true;
    ++stats_.n_write_retries;
    offsets.push_back(write->first);
    start(IoOp::kWrite, write->second.data.get(), write->second.range, write);
  }
  const auto in_flight = [&](int64_t offset) {
    const auto write = writes_.find(offset);
    return write != writes_.end() && write->second.in_flight;
  };
  while (std::ranges::any_of(offsets, in_flight)) complete(true);
  check_writes_of(offsets);
}

void FileDevice::finish_writes() {
  retry_writes();
  const auto in_flight = [](const auto& write) { return write.second.in_flight; };
  {
    const ScopedTimer waiting(stats_.write_ns);
    while (std::ranges::any_of(writes_, in_flight)) complete(true);
  }
  retry_writes();
}

void FileDevice::flush() {
  finish_writes();
  file_.data.sync();
}

}  // namespace nspjax
