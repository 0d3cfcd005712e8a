// Tiles in one file of a directory, read and written past the page cache.
#pragma once

#include <memory>
#include <mutex>

#include "device/device.h"
#include "device/extents.h"
#include "io/file.h"
#include "io/staging.h"
#include "io/transfers.h"

namespace nspjax {

class FileDevice final : public Device {
 public:
  // Throws StorePath, StoreBusy, StoreDamaged.
  FileDevice(std::string spec, const std::string& directory, const HostBudget& budget,
             std::unique_ptr<IoQueue> queue, std::vector<std::string>& warnings);
  ~FileDevice() override;

  DeviceInfo info() const override;
  int64_t available_bytes() const override;
  Extent reserve(int64_t bytes) override;
  void release(const Extent& extent) override;
  void write(std::span<const TileWrite> writes) override;
  void scan(std::span<const TileRange> ranges, ScanVisitor& visitor) override;
  void flush() override;
  // Gives the space back to the file system and the file to others.
  void close() override;

 private:
  // Runs n transfers through the staging buffers, as many at a time as there are. `begin(i, slot)`
  // prepares a buffer, `end(i, slot)` takes it over. After an error nothing more is begun and what
  // is in flight is waited for; then the error is thrown. Returns for how many ns it waited while
  // there was nothing else to do, `idle_since()`.
  template <class Begin, class End, class IdleSince>
  int64_t pump(IoOp op, std::span<const TileRange> ranges, const Begin& begin, const End& end,
               const IdleSince& idle_since);

  std::string spec_;
  File lock_;  // buffered: lock and superblock
  File data_;
  bool direct_ = true;
  Extents extents_{kPageBytes};
  StagingRing staging_;
  Transfers transfers_;  // after staging_: reads into it until it is gone
};

}  // namespace nspjax
