// A card that was opened and has our kernel.
#pragma once

#include <xrt/xrt_device.h>
#include <xrt/xrt_kernel.h>

#include <memory>

#include "device/card.h"

namespace nspjax {

struct LoadedCard {
  xrt::device device;
  xrt::uuid xclbin;
  xrt::kernel kernel;
  CardInfo info;
};

// One for all stores of the process on a card, until the last of them is closed: what XRT's handles
// of one card share is not counted everywhere, so that closing or loading one may break another.
// Throws Accelerator.
std::shared_ptr<LoadedCard> load_card(const CardSpec& spec);

}  // namespace nspjax
