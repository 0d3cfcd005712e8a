// A device whose drive has a card beside it: tiles lie in a file, are read into the card's memory,
// and are attended over there by the kernel of hls_kernels/. The host attends over tails and pinned
// tiles, and adds up.
//
// Nothing that was read comes to the host for attention, so checksums of tiles are not compared
// there; what is fetched, saved or checked still passes through the host, which compares them.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "device/attend_call.h"
#include "device/card.h"
#include "device/file_device.h"
#include "device/host_attention.h"

namespace nspjax {

struct CardRun;

class CardDevice final : public FileDevice {
 public:
  // Throws as FileDevice, and Accelerator.
  CardDevice(const CardSpec& spec, const std::shared_ptr<Card>& card, const std::string& file_name,
             const HostBudget& budget, std::unique_ptr<IoQueue> queue,
             std::vector<std::string>& warnings);

  DeviceInfo info() const override;
  bool has_processor() const override { return true; }
  void check_cache(const TileGeometry& geometry) const override;
  void write(std::span<const TileWrite> writes, ThreadPool& workers) override;
  void attend(const AttendCall& call, int64_t index, ThreadPool& workers) override;
  void close() override;

 private:
  CardDevice(const CardSpec& spec, const std::shared_ptr<Card>& card, std::byte* buffer,
             const std::string& file_name, const HostBudget& budget, std::unique_ptr<IoQueue> queue,
             std::vector<std::string>& warnings);
  void run(const CardRun& run, Partial& into);
  // Throws Accelerator where the card failed before.
  void check_usable();
  [[noreturn]] void give_up(const std::string& why);

  std::shared_ptr<Card> card_;
  std::byte* buffer_;  // where tiles are read into
  // From anywhere on: the card's memory may have results of another store's runs.
  std::atomic<uint32_t> next_run_ = std::random_device()();
  std::mutex mutex_;
  std::string lost_;    // why the card is not used any more: its memory may have changed
  ThreadPool runners_;  // each waits for a run of its own
};

}  // namespace nspjax
