// The structure of the accelerator: how much it does side by side, how much it keeps on the chip.
// nspjax/sim/attention_kernel.py computes cycles and resources from these numbers.
#pragma once

#include <hls_vector.h>

#include "interface.h"

#ifndef NSPJAX_KERNEL_GROUP
#define NSPJAX_KERNEL_GROUP 4
#endif

namespace nspjax::kernel {

// Queries that are attended side by side, a pack: a K or V element that is fetched from a block is
// multiplied for all of them. Best is the number of query heads to a KV head.
constexpr int kGroup = NSPJAX_KERNEL_GROUP;
constexpr int kMostPacks = (kMostQueries + kGroup - 1) / kGroup;

// Slots of a compute loop between two additions to the same sum, at least. A slot takes two cycles,
// so an addition may take eight.
constexpr int kLeastSlots = 4;
// Sums or maxima that take turns where every cycle has a term, for the same reason.
constexpr int kStrands = 8;

constexpr int kBlockBeats = kBlockTokens / kBeatWords;          // of 16 tokens' scores
constexpr int kMostHeadBeats = kMostHeadDim / kBeatWords;       // of 16 channels
constexpr int kMostBlockBeats = kBlockTokens * kMostHeadBeats;  // K or V of a block, float32

// Blocks on the chip. K: one is read while one is used. V: it is read right after its K and waits
// for its weights meanwhile.
constexpr int kKBlocks = 2;
constexpr int kVBlocks = 3;
// A pack's scores wait until the largest of the block is known, and the next pack's follow.
constexpr int kScoreDepth = 2 * kBlockTokens;

using Beat = hls::vector<std::uint32_t, kBeatWords>;
using Block = Beat[kMostBlockBeats];
using Lanes = hls::vector<float, kBeatWords>;

// One number for each query of a pack.
struct Group {
  float query[kGroup];
};

// And whether the query sees the token that they are of.
struct SeenGroup {
  float query[kGroup];
  bool seen[kGroup];
};

// 16 numbers for each query of a pack.
struct GroupLanes {
  Lanes query[kGroup];
};

}  // namespace nspjax::kernel
