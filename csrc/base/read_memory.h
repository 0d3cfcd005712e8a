// The read loop that kernels are compared with.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nspjax {

// The sum of the 64-bit words of `bytes` (a multiple of 4096) at p, with the widest vectors that
// this CPU has: as fast as memory can be read by one thread.
uint64_t sum_memory(const std::byte* p, int64_t bytes);

}  // namespace nspjax
