#include "store/tile_scan.h"

#include <algorithm>

#include "device/tile_checksums.h"

namespace nspjax {

TileScan::TileScan(const TileGeometry& geometry, std::span<const TileSpan> spans, Device& device,
                   int64_t device_index, const TileScanOptions& options, ThreadPool& workers,
                   Visit visit)
    : geometry_(geometry),
      spans_(spans),
      device_(device),
      device_index_(device_index),
      options_(options),
      visit_(std::move(visit)),
      tasks_(workers) {
  options_.verify = options_.verify && !device.in_memory();
  for (size_t i = 0; i < spans.size(); ++i) {
    for (const TileRead& read :
         plan_reads(geometry, spans[i], spans[i].end, device_index, options.read_bytes)) {
      ranges_.push_back(read.range);
      arrivals_.push_back({i, read.begin, read.end});
      bytes_read_ += read.range.bytes;
    }
  }
}

void TileScan::run(std::span<const TileRange> next) {
  for (size_t i = 0; i < spans_.size(); ++i) {
    const Region& region = *spans_[i].region;
    if (geometry_.tile_bytes(region.row, device_index_) == 0) continue;
    for (int64_t t = spans_[i].begin; t < std::min(spans_[i].end, region.pinned_tiles); ++t) {
      tasks_.run([this, i, t, &region] {
        visit_(i, t, pinned_tile(geometry_, region, device_index_, t));
      });
    }
  }
  device_.scan(ranges_, next, *this);
  tasks_.wait();
  if (!next.empty()) device_.read_ahead(next);  // into the buffers that are free now
}

void TileScan::ready(size_t index, std::shared_ptr<const std::byte> data) {
  const Arrival& arrival = arrivals_[index];
  const int64_t stride = geometry_.segment_tiles();
  for (int64_t begin = arrival.begin; begin < arrival.end;) {
    const int64_t end = std::min(round_down(begin, stride) + stride, arrival.end);
    tasks_.run([this, &arrival, begin, end, data] { visit_read(arrival, begin, end, data.get()); });
    begin = end;
  }
}

// Tiles [begin, end) of what was read into `data`.
void TileScan::visit_read(const Arrival& arrival, int64_t begin, int64_t end,
                          const std::byte* data) const {
  const Region& region = *spans_[arrival.span].region;
  const int64_t tile_bytes = geometry_.tile_bytes(region.row, device_index_);
  for (int64_t t = begin; t < end; ++t) {
    const std::byte* tile = data + (t - arrival.begin) * tile_bytes;
    if (options_.verify) {
      check_tile(device_, device_index_, geometry_, region, t, tile);
    }
    visit_(arrival.span, t, tile);
  }
}

}  // namespace nspjax
