#include "weights/weight_file.h"

#include <algorithm>
#include <utility>

#include "base/align.h"

namespace nspjax {
namespace {

StoreFile open_in(const std::string& directory) {
  std::vector<std::string> said;  // by the KV cache's file beside it
  return open_store_file(directory, "nspjax.weights", "a model's weights", said);
}

}  // namespace

WeightFile::WeightFile(const std::string& directory, std::unique_ptr<IoQueue> queue)
    : file_(open_in(directory)), transfers_(file_.data, std::move(queue)) {}

WeightFile::~WeightFile() {
  try {
    close();
  } catch (const Error&) {
    // Nobody is there to be told; whoever opens the file next empties it.
  }
}

Extent WeightFile::reserve(int64_t bytes) {
  const int64_t free = file_.free_bytes();
  if (free < bytes) {
    fail(ErrorKind::kStoreFull, file_.path(), " has room for ", bytes_text(free),
         " more, and the weight needs ", bytes_text(bytes),
         ": free some, add a directory, or keep more weights resident");
  }
  return file_.reserve(extents_, bytes);
}

void WeightFile::release(const Extent& extent) {
  extents_.release(extent);
  file_.lock.punch_hole(extent.offset, extent.bytes);
}

std::shared_ptr<WeightFile::Pending> WeightFile::start(IoOp op, StagingRing::Slot buffer,
                                                       const TileRange& range) {
  auto pending = std::make_shared<Pending>(Pending{std::move(buffer), range});
  const auto free = std::ranges::find(tags_, nullptr);
  const auto tag = static_cast<size_t>(free - tags_.begin());
  if (free == tags_.end()) tags_.emplace_back();
  tags_[tag] = pending;
  transfers_.start({op, pending->buffer.get(), range.bytes, range.offset, tag});
  finish(transfers_.poll());
  return pending;
}

void WeightFile::wait(const Pending& pending) {
  while (!pending.done) finish(transfers_.wait());
  if (pending.error) throw Error(*pending.error);
}

bool WeightFile::wait_for_any() {
  if (transfers_.in_flight() == 0) return false;
  finish(transfers_.wait());
  return true;
}

void WeightFile::finish(const std::vector<TransferDone>& done) {
  for (const TransferDone& transfer : done) {
    const auto pending = std::exchange(tags_[transfer.tag], nullptr);
    pending->done = true;
    pending->error = transfer.error;
  }
}

void WeightFile::close() {
  if (!file_.is_open()) return;
  while (wait_for_any()) continue;
  file_.close();
}

}  // namespace nspjax
