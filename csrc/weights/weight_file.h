// Chunks of weights in one file of a directory. Nothing runs its queue but the calls; between them
// the kernel goes on with what is in it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "device/extents.h"
#include "device/store_file.h"
#include "io/staging.h"
#include "io/transfers.h"

namespace nspjax {

class WeightFile {
 public:
  // A transfer on its way, or done.
  struct Pending {
    StagingRing::Slot buffer;
    TileRange range;
    bool done = false;
    std::optional<Error> error = {};
  };

  // Throws StorePath, StoreBusy, StoreDamaged.
  WeightFile(const std::string& directory, std::unique_ptr<IoQueue> queue);
  ~WeightFile();
  WeightFile(const WeightFile&) = delete;
  WeightFile& operator=(const WeightFile&) = delete;

  const std::string& path() const { return file_.path(); }
  int64_t reserved_bytes() const { return extents_.reserved_bytes(); }
  // Throws StoreFull.
  Extent reserve(int64_t bytes);
  void release(const Extent& extent);

  // Sends it at once.
  std::shared_ptr<Pending> start(IoOp op, StagingRing::Slot buffer, const TileRange& range);
  // Until it is done; throws its error.
  void wait(const Pending& pending);
  // Returns false where nothing is in flight.
  bool wait_for_any();
  // Waits for what is in flight, and gives the file up.
  void close();

 private:
  void finish(const std::vector<TransferDone>& done);

  StoreFile file_;
  Extents extents_{kPageBytes};
  std::vector<std::shared_ptr<Pending>> tags_;  // in flight; null: free
  Transfers transfers_;
};

}  // namespace nspjax
