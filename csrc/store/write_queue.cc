#include "store/write_queue.h"

#include <algorithm>
#include <utility>

#include "store/lane.h"

namespace nspjax {
namespace {

void run_writeback(Lane& lane, Writeback& write, bool exclusive) {
  lane.has_device_access();
  const TileGeometry& geometry = write.cache.geometry();
  try {
    std::vector<NewTiles> runs;
    for (const TilesToWrite& tiles : write.tiles) {
      runs.push_back({*tiles.region, tiles.begin, tiles.begin + std::ssize(tiles.data),
                      [&](int64_t device, int64_t tile, std::byte* to) {
                        const TailTile& data = tiles.data[static_cast<size_t>(tile - tiles.begin)];
                        pack_tail_tile(geometry, tiles.row, device, tile, data->data(), to);
                      },
                      tiles.begin + tiles.n_full});
    }
    lane.store_tiles(*write.cache.runs, runs);
    if (exclusive) lane.on_all_devices([](Device& device, int64_t) { device.finish_writes(); });
  } catch (...) {
    write.error = std::current_exception();
  }
}

}  // namespace

std::shared_ptr<const Writeback> WriteQueue::post(Lane& lane, const CacheView& cache,
                                                  std::vector<TilesToWrite> tiles, bool exclusive) {
  const auto write = std::make_shared<Writeback>(Writeback{cache, std::move(tiles)});
  write->job = lane.post([&lane, write, exclusive] { run_writeback(lane, *write, exclusive); });
  writes_.push_back(write);
  return write;
}

std::shared_ptr<const Writeback> WriteQueue::take_done(const Lane& lane) {
  if (writes_.empty() || writes_.front()->job > lane.n_done()) return nullptr;
  const auto write = std::move(writes_.front());
  writes_.pop_front();
  if (write->error && !error_) error_ = write->error;
  return write;
}

std::vector<std::shared_ptr<const Writeback>> WriteQueue::of(int32_t cache) const {
  std::vector<std::shared_ptr<const Writeback>> writes;
  std::ranges::copy_if(writes_, std::back_inserter(writes),
                       [cache](const auto& write) { return write->cache.id == cache; });
  return writes;
}

void WriteQueue::throw_error() {
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

}  // namespace nspjax
