#include "device/card_device.h"

#include <algorithm>
#include <cstring>

#include "attention/interface.h"
#include "device/card_run.h"
#include "device/pci_topology.h"

namespace nspjax {

CardDevice::CardDevice(const CardSpec& spec, const std::shared_ptr<Card>& card,
                       const std::string& file_name, const HostBudget& budget,
                       std::unique_ptr<IoQueue> queue, std::vector<std::string>& warnings)
    : CardDevice(spec, card, card->map_buffer(budget.slots * budget.slot_bytes), file_name, budget,
                 std::move(queue), warnings) {}

CardDevice::CardDevice(const CardSpec& spec, const std::shared_ptr<Card>& card, std::byte* buffer,
                       const std::string& file_name, const HostBudget& budget,
                       std::unique_ptr<IoQueue> queue, std::vector<std::string>& warnings)
    : FileDevice(concat("xrt:", spec.index), spec.path, file_name, budget, std::move(queue),
                 warnings, std::shared_ptr<std::byte>(card, buffer)),
      card_(card),
      buffer_(buffer),
      runners_(card->concurrent_runs()) {
  if (on_same_switch("/sys", spec.path, card->info().address) == false) {
    warnings.push_back(concat(spec.path, " is not on the drive of card ", spec.index, " (",
                              card->info().address, "): what is read crosses the host's link; ",
                              "give a directory on the card's own drive"));
  }
}

void CardDevice::close() {
  FileDevice::close();
  card_->close();
}

DeviceInfo CardDevice::info() const {
  DeviceInfo info = FileDevice::info();
  info.kind = "xrt";
  return info;
}

void CardDevice::check_cache(const TileGeometry& geometry) const {
  const int64_t head_dim = geometry.shape().head_dim, tile_tokens = geometry.tile_tokens();
  if (head_dim % kernel::kBeatWords != 0 || head_dim > kernel::kMostHeadDim) {
    fail(ErrorKind::kInvalidArgument, "head_dim is ", head_dim, ": the cards' kernel has multiples",
         " of ", kernel::kBeatWords, " up to ", kernel::kMostHeadDim,
         "; keep this cache in a directory or in memory:");
  }
  if (geometry.sketch()) {
    fail(ErrorKind::kInvalidArgument, "a cache with a sketch is attended over by the host, and a ",
         "card attends itself; keep this cache in a directory or in memory:");
  }
  if (tile_tokens < kernel::kLeastTileTokens) {
    fail(ErrorKind::kInvalidArgument, "interval_tokens is ", tile_tokens,
         ": the cards' kernel needs tiles of ", kernel::kLeastTileTokens, " tokens at least");
  }
}

// Packing goes back and forth, and ends with a checksum; over PCIe the host writes fast only what
// it writes in order, and reads slowly.
void CardDevice::write(std::span<const TileWrite> writes, ThreadPool& workers) {
  std::vector<TileWrite> in_order;
  for (const TileWrite& write : writes) {
    in_order.push_back({write.range, [&write](std::byte* to) {
                          const AlignedBuffer packed(write.range.bytes);
                          write.pack(packed.data());
                          std::memcpy(to, packed.data(), static_cast<size_t>(write.range.bytes));
                        }});
  }
  FileDevice::write(in_order, workers);
}

void CardDevice::check_usable() {
  std::lock_guard lock(mutex_);
  if (!lost_.empty()) fail(ErrorKind::kAccelerator, lost_);
}

void CardDevice::give_up(const std::string& why) {
  {
    std::lock_guard lock(mutex_);
    if (lost_.empty()) lost_ = why;
  }
  fail(ErrorKind::kAccelerator, why);
}

// The card's own threads, not the workers: they do little but wait.
void CardDevice::attend(const AttendCall& call, int64_t index, ThreadPool&) {
  attend_on_host(*this, call, index, runners_, [&](const ArrivedTiles& tiles, Partial& into) {
    const int64_t n_heads = call.geometry.heads(tiles.pass.tiles.region->row, index).count;
    const int64_t n_queries = tiles.pass.n_queries();
    for (int64_t q = 0; q < n_queries; q += kernel::kMostQueries) {
      const int64_t queries = std::min<int64_t>(kernel::kMostQueries, n_queries - q);
      const int64_t stride = heads_a_run(queries, call.geometry.shape().head_dim);
      for (int64_t h = 0; h < n_heads; h += stride) {
        run({call, index, tiles, h, std::min(stride, n_heads - h), q, queries, next_run_++}, into);
      }
    }
  });
}

void CardDevice::run(const CardRun& run, Partial& into) {
  const std::vector<uint32_t> operands = pack_operands(run, buffer_);
  std::vector<uint32_t> results = make_results(run);
  check_usable();
  card_->run(std::as_bytes(std::span(operands)), std::as_writable_bytes(std::span(results)));
  if (results[kernel::kResultMagic] != kernel::kMagic ||
      results[kernel::kResultRunNumber] != run.number) {
    give_up(concat(info().spec, " ended run ", run.number,
                   " without its results: the card was reset or lost; see dmesg and ",
                   "`xbutil examine`, then close the store and open it again"));
  }
  if (results[kernel::kStatus] != kernel::kDone) {
    fail(ErrorKind::kAccelerator, info().spec, " refused run ", run.number, " with status ",
         results[kernel::kStatus],
         ": the kernel in the xclbin is of another version than this nspjax; build it anew");
  }
  add_results(run, results, into);
}

}  // namespace nspjax
