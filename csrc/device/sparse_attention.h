// Attention of one query token a row that scores all tokens by the sketches in host memory and
// reads V where the scores say that it matters (attention/choose.h).
//
// With w the softmax's weights, R the tokens whose V is read, and m the mean of what a tile has
// beside them:
//
//   out = sum over R of w v  +  sum over tiles of (sum of w outside R) m
//
// Tokens of the tail have K and V at hand, as they were appended: they are in R. So the answer
// depends on how many those are, but not on which tiles are pinned. A block of V that several rows
// share is read once for those that want it at about the same time.
#pragma once

#include "base/thread_pool.h"
#include "device/attend_call.h"

namespace nspjax {

void attend_sparsely(Device& device, const AttendCall& call, int64_t device_index,
                     ThreadPool& workers);

}  // namespace nspjax
