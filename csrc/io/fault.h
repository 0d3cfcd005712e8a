// Faults for tests: an IoQueue around another that makes some of its operations fail.
#pragma once

#include <memory>
#include <string_view>

#include "io/io_queue.h"

namespace nspjax {

// spec: "OP:KIND[:after=N][:times=M]" with OP read or write, KIND eio, enospc, short or late. The
// first N operations of that kind succeed; the next M (1) fail (eio, enospc) or do not begin until
// somebody waits and nothing else is in flight (late), or all the next transfer only half of what
// was asked (short). An empty spec returns the queue itself.
std::unique_ptr<IoQueue> with_fault(std::unique_ptr<IoQueue> queue, std::string_view spec);

}  // namespace nspjax
