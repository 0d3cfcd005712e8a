#include "weights/weights.h"

#include <algorithm>
#include <cstring>

#include "base/crc32c.h"
#include "io/fault.h"

namespace nspjax {
namespace {

constexpr int64_t kChunksAtOnce = 8;  // of one file: what keeps a fast drive busy

}  // namespace

Weights::Weights(WeightOptions options, Trace& trace)
    : options_(std::move(options)), trace_(trace), verifies_(options_.checksums) {}

bool Weights::needs_buffers() const {
  const Lock lock(mutex_);
  return !options_.directories.empty() && !ring_;
}

void Weights::open(int64_t n_buffers, int64_t buffer_bytes) {
  const Lock lock(mutex_);
  check_open();
  std::vector<std::unique_ptr<WeightFile>> files;
  for (const std::string& directory : options_.directories) {
    auto queue = make_io_queue(options_.io, static_cast<int>(n_buffers));
    files.push_back(
        std::make_unique<WeightFile>(directory, with_fault(std::move(queue), options_.fault)));
  }
  ring_ = std::make_unique<StagingRing>(n_buffers, buffer_bytes);
  files_ = std::move(files);
  stats_.buffer_bytes = n_buffers * buffer_bytes;
}

void Weights::close() {
  const Lock lock(mutex_);
  if (closed_) return;
  closed_ = true;
  ahead_.clear();
  weights_.clear();
  stats_.bytes_stored = 0;
  stats_.buffer_bytes = 0;
  for (const auto& file : files_) file->close();
  ring_.reset();
}

// ---- what is stored -----------------------------------------------------------------------------

int32_t Weights::put(std::span<const std::byte> data) {
  const Lock lock(mutex_);
  check_open();
  Weight weight{.bytes = std::ssize(data), .extents = {}, .chunks = {}, .memory = {}};
  if (files_.empty()) {
    if (!data.empty()) {
      weight.memory = MappedRegion(std::ssize(data));
      std::memcpy(weight.memory.data(), data.data(), data.size());
    }
  } else {
    weight = placed(std::ssize(data));
    try {
      write(weight, data);
    } catch (...) {
      release(weight);
      throw;
    }
  }
  stats_.bytes_stored += weight.bytes;
  weights_.emplace(next_, std::move(weight));
  return next_++;
}

// Chunks go round the files, from the one that has the least.
Weights::Weight Weights::placed(int64_t bytes) {
  Weight weight{.bytes = bytes, .extents = {}, .chunks = {}, .memory = {}};
  const size_t n_files = files_.size();
  const int64_t chunk_bytes = ring_->slot_bytes();
  const auto least =
      std::ranges::min_element(files_, {}, [](const auto& file) { return file->reserved_bytes(); });
  std::vector<int64_t> in_file(n_files);
  for (int64_t begin = 0; begin < bytes; begin += chunk_bytes) {
    const size_t file =
        (static_cast<size_t>(least - files_.begin()) + weight.chunks.size()) % n_files;
    const int64_t own = std::min(chunk_bytes, bytes - begin);
    weight.chunks.push_back({file, {in_file[file], round_up(own, kPageBytes)}, own});
    in_file[file] += weight.chunks.back().range.bytes;
  }
  try {
    for (size_t f = 0; f < n_files; ++f) {
      weight.extents.push_back(in_file[f] ? files_[f]->reserve(in_file[f]) : Extent{0, 0});
    }
  } catch (...) {
    release(weight);
    throw;
  }
  for (Chunk& chunk : weight.chunks) chunk.range.offset += weight.extents[chunk.file].offset;
  return weight;
}

void Weights::write(Weight& weight, std::span<const std::byte> data) {
  std::deque<std::pair<size_t, Read>> writes;
  const auto finish_one = [&]() REQUIRES(mutex_) {
    const auto [file, pending] = writes.front();
    writes.pop_front();
    files_[file]->wait(*pending);
  };
  try {
    for (Chunk& chunk : weight.chunks) {
      StagingRing::Slot slot = buffer();
      while (!slot) {
        finish_one();
        slot = buffer();
      }
      std::memcpy(slot.get(), data.data(), static_cast<size_t>(chunk.bytes));
      std::fill_n(slot.get() + chunk.bytes, chunk.range.bytes - chunk.bytes, std::byte{0});
      data = data.subspan(static_cast<size_t>(chunk.bytes));
      if (options_.checksums) {
        chunk.checksum = crc32c({slot.get(), static_cast<size_t>(chunk.range.bytes)});
      }
      auto pending = files_[chunk.file]->start(IoOp::kWrite, std::move(slot), chunk.range);
      writes.emplace_back(chunk.file, std::move(pending));
    }
    while (!writes.empty()) finish_one();
  } catch (...) {
    // the room is given away next: nothing may be on its way there
    while (!writes.empty()) {
      try {
        finish_one();
      } catch (const Error&) {
        continue;  // the first error is the one to tell
      }
    }
    throw;
  }
}

void Weights::release(const Weight& weight) {
  for (size_t f = 0; f < weight.extents.size(); ++f) {
    if (weight.extents[f].bytes) files_[f]->release(weight.extents[f]);
  }
}

void Weights::drop(int32_t id) {
  const Lock lock(mutex_);
  const Weight& weight = find(id);
  for (size_t c = 0; const Read& read : take_ahead(id)) {
    WeightFile& file = *files_[weight.chunks[c++].file];
    try {
      file.wait(*read);
    } catch (const Error&) {
      continue;  // nobody wants it any more
    }
  }
  release(weight);
  stats_.bytes_stored -= weight.bytes;
  weights_.erase(id);
}

void Weights::drop_all() {
  std::vector<int32_t> all;
  {
    const Lock lock(mutex_);
    check_open();
    for (const auto& [id, weight] : weights_) all.push_back(id);
  }
  for (const int32_t id : all) drop(id);
}

int64_t Weights::size_bytes(int32_t weight) const {
  const Lock lock(mutex_);
  return find(weight).bytes;
}

// ---- reading ------------------------------------------------------------------------------------

void Weights::load_ahead(int32_t id) {
  TraceScope scope(trace_, {.bytes = 0, .cache = id, .kind = TraceKind::kLoadAhead});
  const Lock lock(mutex_);
  const Weight& weight = find(id);
  if (files_.empty()) return;
  forget_stale_ahead();
  const int64_t kept = std::min(ring_->n_slots() / 2, chunks_at_once());  // for loads
  auto ahead = std::ranges::find(ahead_, id, &Ahead::weight);
  const auto n_begun = [&]() REQUIRES(mutex_) {
    return ahead == ahead_.end() ? size_t{0} : ahead->reads.size();
  };
  while (n_begun() < weight.chunks.size() && ring_->n_free() > kept) {
    const Chunk& chunk = weight.chunks[n_begun()];
    Read read = begin_read(chunk, ring_->try_acquire());
    if (ahead == ahead_.end()) ahead = ahead_.insert(ahead_.end(), {id, n_loads_, {}});
    ahead->reads.push_back(std::move(read));
    scope.event().bytes += chunk.bytes;
  }
}

void Weights::load(int32_t id, std::span<std::byte> into) {
  const TraceScope scope(trace_,
                         {.bytes = std::ssize(into), .cache = id, .kind = TraceKind::kLoad});
  const Lock lock(mutex_);
  const Weight& weight = find(id);
  if (std::ssize(into) != weight.bytes) {
    fail(ErrorKind::kInvalidArgument, "weight ", id, " of store ", options_.store, " has ",
         weight.bytes, " bytes, and a tensor of ", into.size(), " bytes was to be loaded from it");
  }
  ++n_loads_;
  if (files_.empty()) {
    if (!into.empty()) std::memcpy(into.data(), weight.memory.data(), into.size());
    stats_.bytes_read += weight.bytes;
    return;
  }
  std::deque<Read> reads = take_ahead(id);
  const size_t n_ahead = reads.size();
  size_t n_begun = n_ahead;
  for (size_t c = 0; c < weight.chunks.size(); ++c) {
    const size_t at_once = c + static_cast<size_t>(chunks_at_once());
    while (n_begun < std::min(weight.chunks.size(), at_once)) {
      StagingRing::Slot slot = reads.empty() ? buffer() : ring_->try_acquire();
      if (!slot) break;
      reads.push_back(begin_read(weight.chunks[n_begun++], std::move(slot)));
    }
    const Chunk& chunk = weight.chunks[c];
    const Read read = std::move(reads.front());
    reads.pop_front();
    files_[chunk.file]->wait(*read);
    verify(chunk, read->buffer.get());
    std::memcpy(into.data(), read->buffer.get(), static_cast<size_t>(chunk.bytes));
    into = into.subspan(static_cast<size_t>(chunk.bytes));
    stats_.bytes_read += chunk.bytes;
    if (c < n_ahead) stats_.bytes_read_ahead += chunk.bytes;
  }
}

std::deque<Weights::Read> Weights::take_ahead(int32_t weight) {
  const auto found = std::ranges::find(ahead_, weight, &Ahead::weight);
  if (found == ahead_.end()) return {};
  std::deque<Read> reads = std::move(found->reads);
  ahead_.erase(found);
  return reads;
}

// What was not asked for while every weight could have been once: the program has ended, or is
// another one.
void Weights::forget_stale_ahead() {
  const int64_t oldest = n_loads_ - 2 * std::ssize(weights_);
  std::erase_if(ahead_, [oldest](const Ahead& ahead) { return ahead.since < oldest; });
}

StagingRing::Slot Weights::buffer() {
  for (;;) {
    if (auto slot = ring_->try_acquire()) return slot;
    if (ahead_.empty()) {
      // what a load that failed had begun
      const auto busy = std::ranges::find_if(files_, &WeightFile::wait_for_any);
      if (busy == files_.end()) return ring_->try_acquire();
      continue;
    }
    // The last of what was begun last: it will be wanted last.
    Ahead& ahead = ahead_.back();
    const Chunk& chunk = find(ahead.weight).chunks[ahead.reads.size() - 1];
    const Read read = std::move(ahead.reads.back());
    ahead.reads.pop_back();
    try {
      files_[chunk.file]->wait(*read);
    } catch (const Error&) {
      // its load will read it again, and meet the error
    }
    if (ahead.reads.empty()) ahead_.pop_back();
  }
}

Weights::Read Weights::begin_read(const Chunk& chunk, StagingRing::Slot buffer) {
  return files_[chunk.file]->start(IoOp::kRead, std::move(buffer), chunk.range);
}

void Weights::verify(const Chunk& chunk, const std::byte* data) const {
  if (!verifies_ || !options_.checksums) return;
  const uint32_t got = crc32c({data, static_cast<size_t>(chunk.range.bytes)});
  if (got == chunk.checksum) return;
  fail(ErrorKind::kStoreDamaged, "the weights of ", chunk.range.bytes, " bytes at offset ",
       chunk.range.offset, " of ", files_[chunk.file]->path(), " are damaged: their checksum is ",
       got, ", was written as ", chunk.checksum,
       "; the model must be loaded again, and the device be checked");
}

int64_t Weights::chunks_at_once() const { return kChunksAtOnce * std::ssize(files_); }

void Weights::check_open() const {
  if (closed_) fail(ErrorKind::kStoreClosed, "store ", options_.store, " is closed: open another");
}

const Weights::Weight& Weights::find(int32_t id) const {
  check_open();
  const auto found = weights_.find(id);
  if (found == weights_.end()) {
    fail(ErrorKind::kStoreClosed, "store ", options_.store, " has no weight ", id,
         ": it was dropped, or the handle is of another store");
  }
  return found->second;
}

}  // namespace nspjax
