// A near-storage device: it keeps tiles and attends over them. `memory` and `file` compute with the
// host's CPU (host_attention.h); a device with a processor of its own does so itself.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "base/trace.h"
#include "format/plan.h"

namespace nspjax {

struct AttendCall;

struct Extent {
  int64_t offset;
  int64_t bytes;
};

// Whole tiles, or pages of one, at most as many bytes as a staging buffer has.
struct TileRange {
  int64_t offset;
  int64_t bytes;

  int64_t end() const { return offset + bytes; }
  bool overlaps(const TileRange& other) const {
    return offset < other.end() && other.offset < end();
  }
  bool operator==(const TileRange&) const = default;
};
struct TileWrite {
  TileRange range;
  std::function<void(std::byte*)> pack;  // writes all of range.bytes; called once, by any thread
};

// Gets the ranges of a scan as they arrive, in any order.
class ScanVisitor {
 public:
  virtual ~ScanVisitor() = default;
  // data: the range's bytes, for as long as a copy of the pointer lives.
  virtual void ready(size_t index, std::shared_ptr<const std::byte> data) = 0;
  // Since when there is nothing else to do but wait for reads; nothing while there is.
  virtual std::optional<std::chrono::steady_clock::time_point> idle_since() const {
    return std::chrono::steady_clock::time_point::min();
  }
  // Whether what it gets leaves the device for the host: attention does not ask for that.
  virtual bool crosses_link() const { return false; }
};

// Number: int64_t, or std::atomic<int64_t> where devices count.
template <typename Number>
struct DeviceCounters {
  Number bytes_read{};  // for scans; what was read ahead in vain is not here
  Number bytes_written{};
  Number n_reads{};
  Number n_writes{};
  Number read_ns{};           // attention waited for reads
  Number write_ns{};          // appends waited for writes
  Number bytes_read_ahead{};  // of bytes_read: begun before their scan
  Number bytes_read_in_vain{};
  Number n_write_retries{};
  Number n_failed_reads_ahead{};  // nobody had asked for them yet: no error told
};
using DeviceStats = DeviceCounters<int64_t>;

// Every one of them, by name.
template <typename Number>
struct DeviceCounter {
  const char* name;
  Number DeviceCounters<Number>::* field;
};
template <typename Number = int64_t>
constexpr auto device_counters() {
  using Counters = DeviceCounters<Number>;
  constexpr auto kAll = std::to_array<DeviceCounter<Number>>({
      {"bytes_read", &Counters::bytes_read},
      {"bytes_written", &Counters::bytes_written},
      {"n_reads", &Counters::n_reads},
      {"n_writes", &Counters::n_writes},
      {"read_ns", &Counters::read_ns},
      {"write_ns", &Counters::write_ns},
      {"bytes_read_ahead", &Counters::bytes_read_ahead},
      {"bytes_read_in_vain", &Counters::bytes_read_in_vain},
      {"n_write_retries", &Counters::n_write_retries},
      {"n_failed_reads_ahead", &Counters::n_failed_reads_ahead},
  });
  static_assert(sizeof(Counters) == kAll.size() * sizeof(Number), "all of them");
  return kAll;
}

struct DeviceInfo {
  std::string spec;
  std::string kind;
  std::string path;
  bool direct = false;
  std::string io;
  bool registered_buffers = false;
  int64_t reserved_bytes = 0;
  int64_t free_bytes = 0;  // for further caches
};

// One call at a time, from any thread; only info() and stats() may come in between.
//
// Nothing here has a default, so that a device around another one cannot forget to pass a call on.
class Device {
 public:
  virtual ~Device() = default;

  virtual DeviceInfo info() const = 0;
  // Room for further extents: what the medium has, less what is promised to extents already.
  virtual int64_t available_bytes() const = 0;
  // Whether what is read needs no checksum: it never left the host's memory.
  virtual bool in_memory() const = 0;
  // Whether a processor of its own attends over what is read, so that no host can be slower at it.
  virtual bool has_processor() const = 0;
  virtual DeviceStats stats() const = 0;
  // Its transfers are recorded there from now on, as those of device `index`.
  virtual void record_in(Trace& trace, int32_t index) = 0;

  // Throws InvalidArgument where the device cannot attend over such a cache.
  virtual void check_cache(const TileGeometry& geometry) const = 0;

  virtual Extent reserve(int64_t bytes) = 0;
  virtual void release(const Extent& extent) = 0;

  // Packs the tiles on the workers and takes them over. They may be on their way still when it
  // returns, but scan() sees them. What an earlier call's writes met is thrown here or by flush(),
  // after they were tried once more; until then their tiles stay in memory. After an error of this
  // call's own writes nothing of this call is kept.
  virtual void write(std::span<const TileWrite> writes, ThreadPool& workers) = 0;
  // `next`: what the scan after this one asks for first, in order, if it was guessed right.
  virtual void scan(std::span<const TileRange> ranges, std::span<const TileRange> next,
                    ScanVisitor& visitor) = 0;
  // Begins to read what the next scan will probably ask for first, in order, as far as buffers are
  // free; what was read ahead and is not among it is dropped.
  virtual void read_ahead(std::span<const TileRange> next) = 0;
  // Attention of all the call's passes over what this device (number `index` of the store) holds.
  virtual void attend(const AttendCall& call, int64_t index, ThreadPool& workers) = 0;
  // Until no write is on its way; throws as flush() does.
  virtual void finish_writes() = 0;
  // The same, and the medium has been told to keep them.
  virtual void flush() = 0;
  virtual void close() = 0;
};

// What devices that hold tiles themselves have in common: they count, record, and let the host
// attend.
class TileDevice : public Device {
 public:
  bool in_memory() const override { return false; }
  bool has_processor() const override { return false; }
  DeviceStats stats() const override;
  void record_in(Trace& trace, int32_t index) override {
    trace_ = &trace;
    trace_index_ = index;
  }
  void check_cache(const TileGeometry&) const override {}
  void attend(const AttendCall& call, int64_t index, ThreadPool& workers) override;

 protected:
  bool traces() const { return trace_ && trace_->on(); }
  void record(TraceKind kind, int64_t begin_ns, const TileRange& range) const {
    trace_->add({.begin_ns = begin_ns,
                 .end_ns = trace_clock_ns(),
                 .offset = range.offset,
                 .bytes = range.bytes,
                 .device = trace_index_,
                 .thread = this_thread_id(),
                 .kind = kind});
  }

  DeviceCounters<std::atomic<int64_t>> stats_;

 private:
  Trace* trace_ = nullptr;
  int32_t trace_index_ = 0;
};

// The directory of a spec that has one: DIRECTORY, "file:DIRECTORY", a card's path. Throws
// StorePath.
std::optional<std::string> directory_of(const std::string& spec);

// specs: "memory:", a directory or "file:DIRECTORY", where `file_name` is the device's, or one card
// (card_spec.h). What the user should know goes to `warnings`.
std::vector<std::unique_ptr<Device>> open_devices(std::span<const std::string> specs,
                                                  const std::string& file_name,
                                                  const HostBudget& budget, std::string_view io,
                                                  std::string_view fault,
                                                  std::vector<std::string>& warnings);

}  // namespace nspjax
