// Attention on the host's CPU over the tiles that a device delivers.
#pragma once

#include <cstdint>

#include "device/attend_call.h"
#include "device/device.h"

namespace nspjax {

// Rows are scanned in segments of whole tiles. Workers turn each into partial results, which are
// added up in token order, so neither timing nor the number of threads nor the other rows can be
// seen in the result.
void attend_on_host(Device& device, const AttendCall& call, int64_t device_index,
                    int64_t extent_offset, ThreadPool& workers);

}  // namespace nspjax
