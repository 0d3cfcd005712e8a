// What is answered when there is no card to answer any more. Every call of XRT returns, runs are
// done; that nothing was computed is seen in the results.
#pragma once

#include <string>

#include "xrt_emulator/protocol.h"

namespace nspjax::xrt_emulator {

// The body of a reply. An xclbin cannot be loaded any more, the rest seems to work.
std::string stand_in_reply(Api api);

}  // namespace nspjax::xrt_emulator
