// The FPGA's attention kernel in C simulation, for tests.
#pragma once

#include "bindings/head_tile.h"

namespace nspjax {

using WordArray = nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// kv: the card's memory, uint8. operands, results: words, as hls_kernels/attention/interface.h has
// them. Throws InvalidArgument where operands that the kernel would take ask for more than is
// there.
nb::object simulate_attention_kernel(const TileArray& kv, const WordArray& operands);

}  // namespace nspjax
