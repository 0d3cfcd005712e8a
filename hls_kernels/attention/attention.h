// The attention kernel of a SmartSSD: see ../README.md for its structure, interface.h for what it
// reads and writes.
#pragma once

#include "structure.h"

#ifdef __SYNTHESIS__
#include <hls_burst_maxi.h>
#endif

namespace nspjax::kernel {

// In C simulation plain memory.
#ifdef __SYNTHESIS__
using KVPort = hls::burst_maxi<Beat>;
#else
using KVPort = const Beat*;
#endif

}  // namespace nspjax::kernel

// Pointers to 64-byte aligned memory. In C simulation it may be called by several threads at once;
// it throws std::bad_alloc.
extern "C" void nspjax_attention(nspjax::kernel::KVPort kv, const nspjax::kernel::Beat* operands,
                                 nspjax::kernel::Beat* results);
