// Weights of a model that does not fit in memory: written once, then read in the order of its
// layers, over and over.
//
// A weight is cut into chunks, striped over the store's directories; without directories it lies
// in host memory. Reads go through a ring of buffers: `load_ahead` begins them while there is room,
// `load` begins what is missing, verifies, and copies. One mutex serialises the calls; they are
// beside the store's own, so that weights are read while it attends.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/align.h"
#include "base/process.h"
#include "base/trace.h"
#include "io/staging.h"
#include "weights/weight_file.h"

namespace nspjax {

struct WeightOptions {
  int32_t store;                         // for errors
  std::vector<std::string> directories;  // none: host memory
  std::string io;
  std::string fault;
  bool checksums;
};

struct WeightStats {
  std::atomic<int64_t> bytes_read = 0;        // by loads
  std::atomic<int64_t> bytes_read_ahead = 0;  // of these, begun before their load
  std::atomic<int64_t> bytes_stored = 0;
  std::atomic<int64_t> buffer_bytes = 0;
};

class Weights {
 public:
  Weights(WeightOptions options, Trace& trace);

  // Whether open() is to come.
  bool needs_buffers() const;
  // Opens the files. Before the first put() of a store with directories; buffers of page multiples.
  void open(int64_t n_buffers, int64_t buffer_bytes);

  // Its number. Until every byte is handed to the file system.
  // Throws StoreFull, StorageIO: nothing of it is kept.
  int32_t put(std::span<const std::byte> data);
  void drop(int32_t weight);
  void drop_all();
  int64_t size_bytes(int32_t weight) const;

  // Begins to read it, as much as there are free buffers; does nothing where there are none.
  void load_ahead(int32_t weight);
  // Throws StorageIO, StoreDamaged, StoreClosed, InvalidArgument.
  void load(int32_t weight, std::span<std::byte> into);

  // Everything later throws StoreClosed.
  void close();

  const WeightStats& stats() const { return stats_; }
  void verify_reads(bool verify) { verifies_ = verify; }

 private:
  using Read = std::shared_ptr<WeightFile::Pending>;
  struct Chunk {
    size_t file;
    TileRange range;
    int64_t bytes;  // of it that are the weight's
    uint32_t checksum = 0;
  };
  struct Weight {
    int64_t bytes;
    std::vector<Extent> extents;  // [file]
    std::vector<Chunk> chunks;
    MappedRegion memory;
  };
  struct Ahead {
    int32_t weight;
    int64_t since;  // how many loads there had been
    std::deque<Read> reads;
  };

  void check_open() const REQUIRES(mutex_);
  const Weight& find(int32_t weight) const REQUIRES(mutex_);
  Weight placed(int64_t bytes) REQUIRES(mutex_);
  void write(Weight& weight, std::span<const std::byte> data) REQUIRES(mutex_);
  void release(const Weight& weight) REQUIRES(mutex_);
  std::deque<Read> take_ahead(int32_t weight) REQUIRES(mutex_);
  void forget_stale_ahead() REQUIRES(mutex_);
  // A free buffer, if need be one of those that were read ahead last; null where the caller has
  // them all.
  StagingRing::Slot buffer() REQUIRES(mutex_);
  Read begin_read(const Chunk& chunk, StagingRing::Slot buffer) REQUIRES(mutex_);
  void verify(const Chunk& chunk, const std::byte* data) const REQUIRES(mutex_);
  int64_t chunks_at_once() const REQUIRES(mutex_);

  const WeightOptions options_;
  Trace& trace_;
  WeightStats stats_;
  std::atomic<bool> verifies_;

  mutable ProcessMutex mutex_;
  bool closed_ GUARDED_BY(mutex_) = false;
  int32_t next_ GUARDED_BY(mutex_) = 0;
  int64_t n_loads_ GUARDED_BY(mutex_) = 0;
  std::map<int32_t, Weight> weights_ GUARDED_BY(mutex_);
  std::unique_ptr<StagingRing> ring_ GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<WeightFile>> files_
      GUARDED_BY(mutex_);                       // after the ring: they read into it
  std::deque<Ahead> ahead_ GUARDED_BY(mutex_);  // in the order in which they were begun
};

}  // namespace nspjax
