// Tiles in one file of a directory, read and written past the page cache.
//
// One queue of transfers has the reads of the present scan, the first reads of the next one, and
// writes. Nothing runs it but the calls: between them the kernel goes on with what is in the queue,
// which is why a scan ends by filling the queue with the next one's reads.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <variant>

#include "device/device.h"
#include "device/extents.h"
#include "device/store_file.h"
#include "io/staging.h"
#include "io/transfers.h"

namespace nspjax {

class FileDevice : public TileDevice {
 public:
  // staging: memory for the buffers, see StagingRing. Throws StorePath, StoreBusy, StoreDamaged.
  FileDevice(std::string spec, const std::string& directory, const std::string& file_name,
             const HostBudget& budget, std::unique_ptr<IoQueue> queue,
             std::vector<std::string>& warnings, std::shared_ptr<std::byte> staging = nullptr);
  ~FileDevice() override;

  DeviceInfo info() const override;
  int64_t available_bytes() const override;
  Extent reserve(int64_t bytes) override;
  void release(const Extent& extent) override;
  void write(std::span<const TileWrite> writes, ThreadPool& workers) override;
  void scan(std::span<const TileRange> ranges, std::span<const TileRange> next,
            ScanVisitor& visitor) override;
  void read_ahead(std::span<const TileRange> next) override;
  void finish_writes() override;
  void flush() override;
  // Gives the space back to the file system and the file to others.
  void close() override;

 private:
  // A tile run on its way to the medium, or waiting for another try. Its bytes are read from here.
  struct Write {
    TileRange range;
    std::shared_ptr<std::byte> data;
    int64_t begin_ns = 0;
    bool in_flight = true;
    bool kept = true;  // false: its call failed, the tiles belong to no row
    std::optional<Error> error = {};
  };
  using Writes = std::map<int64_t, Write>;  // by offset; they do not overlap

  struct Read {
    TileRange range;
    StagingRing::Slot slot;
    int64_t begin_ns = 0;
    bool ahead = false;
    int n_transfers = 0;  // in flight: of what is not in a write
    bool wanted = true;   // by the present scan or the next
    bool done = false;
    std::optional<Error> error = {};
    std::optional<size_t> index;  // of the present scan; nothing: read ahead
  };
  using Reads = std::list<Read>;

  void start(IoOp op, std::byte* data, const TileRange& range,
             std::variant<Reads::iterator, Writes::iterator> what);
  // Takes note of what is done; with `wait`, until something is.
  void complete(bool wait);
  void finish_transfer(Reads::iterator read, const std::optional<Error>& error);
  void finish_read(Reads::iterator read);
  void finish_write(Writes::iterator write, const std::optional<Error>& error);

  // Returns false where no staging buffer is free.
  bool begin_read(const TileRange& range, std::optional<size_t> index);
  void claim_reads(std::span<const TileRange> ranges, std::span<const TileRange> next,
                   std::vector<bool>& begun);
  size_t deliver(ScanVisitor& visitor);
  bool begin_ahead(const TileRange& range);
  void forget_reads(const TileRange& range);
  void drop_read(Reads::iterator read);

  Writes::iterator first_write_in(const TileRange& range);
  void settle_writes(const TileRange& range);
  void forget_write_in(Writes::iterator write, const TileRange& range);
  void retry_writes();
  // A free buffer for writes, which may have half of them; waits for writes to end.
  StagingRing::Slot write_slot();
  void check_writes_of(std::span<const int64_t> offsets);

  std::string spec_;
  StoreFile file_;
  bool registered_ = false;
  Extents extents_{kPageBytes};
  StagingRing staging_;
  std::vector<std::weak_ptr<std::byte>> write_slots_;
  Reads reads_;
  Writes writes_;
  std::vector<std::optional<std::variant<Reads::iterator, Writes::iterator>>> tags_;
  std::vector<size_t> free_tags_;
  Transfers transfers_;  // last: reads into staging_ until it is gone
};

}  // namespace nspjax
