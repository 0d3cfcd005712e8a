// Attention over the tiles that a device delivers: on the host's CPU, but for what the device's own
// processor does.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "device/attend_call.h"
#include "device/device.h"

namespace nspjax {

// (max, sum, acc) of [heads on the device, queries of a pass]; acc has padded_dim floats each.
struct Partial {
  std::vector<float> max, sum, acc;
};

// Tiles [begin, end) of a pass, as they came from the device.
struct ArrivedTiles {
  const AttendPass& pass;
  int64_t begin;
  int64_t end;
  const std::byte* data;
};

// Adds attention over such tiles to a partial. Called by any worker.
using AttendArrived = std::function<void(const ArrivedTiles&, Partial&)>;

// Rows are read in runs of whole tiles and attended over in segments. Workers turn each segment
// into partial results, which are added up in token order, so neither timing nor the number of
// threads nor the other rows can be seen in the result. Pinned tiles and tails are attended over
// here; what arrives from the device by `attend_arrived`, where there is one.
void attend_on_host(Device& device, const AttendCall& call, int64_t device_index,
                    ThreadPool& workers, AttendArrived attend_arrived = nullptr);

// How many segments the tiles [begin, end) of a row are.
int64_t count_segments(const TileGeometry& geometry, int64_t begin, int64_t end);

}  // namespace nspjax
