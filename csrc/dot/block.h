// A product in blocks, each computed by one thread: on CPUs that can.
#pragma once

#include <cstddef>

#include "dot/dot.h"

namespace nspjax {

struct DotBlock {
  int64_t first_row, end_row;        // of out, at most kDotBlockRows
  int64_t first_column, end_column;  // multiples of kDotMultiple, at most kDotBlockColumns
};

inline constexpr int64_t kDotBlockRows = 48;
// Rows of w are read in stretches of so many columns: long ones, for the sake of the prefetcher.
inline constexpr int64_t kDotBlockColumns = 2048;

// A cache line of scratch memory.
struct alignas(64) DotLine {
  float values[16];
};

// How many lines a block of so many rows and columns needs.
size_t dot_scratch_lines(int64_t rows, int64_t columns);

// What `dot` does when all is checked; at least one thread.
void dot_blocks(const Dot& dot, int n_threads, const Schedule& schedule);

// Needs AVX512-BF16.
void dot_block(const Dot& dot, const DotBlock& block, DotLine* scratch);

}  // namespace nspjax
