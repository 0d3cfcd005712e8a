#include "device/file_device.h"

#include <algorithm>

namespace nspjax {

FileDevice::FileDevice(std::string spec, const std::string& directory, const std::string& file_name,
                       const HostBudget& budget, std::unique_ptr<IoQueue> queue,
                       std::vector<std::string>& warnings, std::shared_ptr<std::byte> staging)
    : spec_(std::move(spec)),
      file_(open_store_file(directory, file_name, "the KV cache", warnings)),
      staging_(budget.slots, budget.slot_bytes, staging),
      transfers_(file_.data, std::move(queue)) {
  // a card's memory is not the kernel's to pin
  if (!staging) registered_ = transfers_.register_arena(staging_.arena());
}

FileDevice::~FileDevice() {
  try {
    close();
  } catch (const Error&) {
    // Nobody is there to be told; whoever opens the file next empties it.
  }
}

void FileDevice::close() {
  if (!file_.is_open()) return;
  while (transfers_.in_flight() > 0) complete(true);  // into buffers that are ours still
  reads_.clear();
  writes_.clear();
  file_.close();
}

DeviceInfo FileDevice::info() const {
  return {spec_,
          "file",
          file_.path(),
          file_.direct,
          std::string(transfers_.queue_name()),
          registered_,
          extents_.reserved_bytes(),
          available_bytes()};
}

int64_t FileDevice::available_bytes() const {
  if (!file_.is_open()) return 0;
  const int64_t written = file_.lock.allocated_bytes() - kPageBytes;
  const int64_t promised = std::max<int64_t>(0, extents_.reserved_bytes() - written);
  return std::max<int64_t>(0, file_.free_bytes() - promised);
}

Extent FileDevice::reserve(int64_t bytes) { return file_.reserve(extents_, bytes); }

void FileDevice::release(const Extent& extent) {
  const TileRange range{extent.offset, extent.bytes};
  forget_reads(range);
  settle_writes(range);
  extents_.release(extent);
  file_.lock.punch_hole(extent.offset, extent.bytes);
}

void FileDevice::start(IoOp op, std::byte* data, const TileRange& range,
                       std::variant<Reads::iterator, Writes::iterator> what) {
  if (free_tags_.empty()) {
    free_tags_.push_back(tags_.size());
    tags_.emplace_back();
  }
  const size_t tag = free_tags_.back();
  free_tags_.pop_back();
  tags_[tag] = what;
  transfers_.start({op, data, range.bytes, range.offset, tag});
}

void FileDevice::complete(bool wait) {
  const bool waits = wait && transfers_.in_flight() > 0;
  for (const TransferDone& done : waits ? transfers_.wait() : transfers_.poll()) {
    const auto what = *std::exchange(tags_[done.tag], std::nullopt);
    free_tags_.push_back(done.tag);
    if (const auto* read = std::get_if<Reads::iterator>(&what)) {
      finish_transfer(*read, done.error);
    } else {
      finish_write(std::get<Writes::iterator>(what), done.error);
    }
  }
}

}  // namespace nspjax
