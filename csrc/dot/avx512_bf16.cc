// Blocks of a product with AVX-512's VDPBF16PS: 16 sums, two terms each.
//
// w as [k, n]: two of its rows are interleaved on their way into registers, kStep rows of a stretch
// of columns at a time, so that memory is read along rows. w as [n, k]: pairs of terms lie side by
// side already, and a sum is spread over the lanes until the end.
#include <immintrin.h>

#include <algorithm>

#include "base/error.h"
#include "dot/block.h"

namespace nspjax {
namespace {

constexpr int kTile = 32;              // columns of w as [k, n] that are summed at a time
constexpr int kStep = 16;              // rows of it, before the next tile
constexpr int kAheadRows = 2 * kStep;  // prefetched: two steps, the fastest of 1 to 4
constexpr int kPairs = kStep / 2;      // of a step
constexpr int kLanes = 32;             // bf16's in a vector
constexpr int kMostRows = 12;          // with 2 vectors of sums each
constexpr int kColumns = 4;            // of w as [n, k], together
constexpr int kMostRowsAcross = 6;     // with kColumns sums each

using Pairs = __m512bh;

Pairs load_pairs(const void* p) { return reinterpret_cast<Pairs>(_mm512_loadu_si512(p)); }

// Calls fn<R>(row) for blocks of R rows that make up [0, n_rows).
template <int kMost, typename Fn>
void for_row_blocks(int n_rows, const Fn& fn) {
  int row = 0;
  while (n_rows - row >= kMost) {
    fn.template operator()<kMost>(row);
    row += kMost;
  }
  if constexpr (kMost > 1) {
    // the rest, in halves: a handful of sizes, not one for each number
    constexpr int kNext = kMost > 8 ? 8 : kMost > 4 ? 4 : kMost > 2 ? 2 : 1;
    const int rest = n_rows - row;
    for_row_blocks<kNext>(rest, [&]<int R>(int at) { fn.template operator()<R>(row + at); });
  }
}

// ---- w as [k, n] ------------------------------------------------------------------------------

// What a step over a tile works on.
struct Step {
  const uint16_t* w;  // [kStep, n], from the tile's first column
  int64_t n;
  bool prefetch;     // there are rows kAheadRows further down
  const int32_t* x;  // [rows, kPairs], each a pair of bf16's
  float* sums;       // [rows, kTile]
  int32_t* panel;    // [kPairs, kTile]: w's pairs, for the rows that come later
  bool first;        // sums begin at 0
};

enum class From { kWeights, kWeightsToPanel, kPanel };

template <From kFrom>
void load_tile(const Step& step, int pair, Pairs& low, Pairs& high) {
  int32_t* const at = step.panel + pair * kTile;
  if constexpr (kFrom == From::kPanel) {
    low = load_pairs(at);
    high = load_pairs(at + kTile / 2);
    return;
  }
  // lane 2 i takes element i of the one row, lane 2 i + 1 that of the other
  const __m512i interleave_low =
      _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6,
                       37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const __m512i interleave_high = _mm512_add_epi16(interleave_low, _mm512_set1_epi16(16));
  const uint16_t* const even = step.w + 2 * pair * step.n;
  const uint16_t* const odd = even + step.n;
  if (step.prefetch) {
    _mm_prefetch(reinterpret_cast<const char*>(even + kAheadRows * step.n), _MM_HINT_T1);
    _mm_prefetch(reinterpret_cast<const char*>(odd + kAheadRows * step.n), _MM_HINT_T1);
  }
  const __m512i a = _mm512_loadu_si512(even), b = _mm512_loadu_si512(odd);
  const __m512i first = _mm512_permutex2var_epi16(a, interleave_low, b);
  const __m512i second = _mm512_permutex2var_epi16(a, interleave_high, b);
  if constexpr (kFrom == From::kWeightsToPanel) {
    _mm512_store_si512(at, first);
    _mm512_store_si512(at + kTile / 2, second);
  }
  low = reinterpret_cast<Pairs>(first);
  high = reinterpret_cast<Pairs>(second);
}

template <int R, From kFrom>
void add_step(const Step& step, int row) {
  const int32_t* const x = step.x + row * kPairs;
  float* const sums = step.sums + row * kTile;
  __m512 low[R], high[R];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    low[r] = step.first ? _mm512_setzero_ps() : _mm512_load_ps(sums + r * kTile);
    high[r] = step.first ? _mm512_setzero_ps() : _mm512_load_ps(sums + r * kTile + kTile / 2);
  }
  for (int pair = 0; pair < kPairs; ++pair) {
    Pairs w_low, w_high;
    load_tile<kFrom>(step, pair, w_low, w_high);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const auto x_pair = reinterpret_cast<Pairs>(_mm512_set1_epi32(x[r * kPairs + pair]));
      low[r] = _mm512_dpbf16_ps(low[r], x_pair, w_low);
      high[r] = _mm512_dpbf16_ps(high[r], x_pair, w_high);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
    _mm512_store_ps(sums + r * kTile, low[r]);
    _mm512_store_ps(sums + r * kTile + kTile / 2, high[r]);
  }
}

void add_tile(const Step& step, int n_rows) {
  for_row_blocks<kMostRows>(n_rows, [&]<int R>(int row) {
    if (row > 0) {
      add_step<R, From::kPanel>(step, row);
    } else if (R == n_rows) {
      add_step<R, From::kWeights>(step, row);
    } else {
      add_step<R, From::kWeightsToPanel>(step, row);
    }
  });
}

void dot_down(const Dot& dot, const DotBlock& block, DotLine* scratch) {
  const int n_rows = static_cast<int>(block.end_row - block.first_row);
  const int64_t n_columns = block.end_column - block.first_column;
  const int64_t tile_floats = int64_t{n_rows} * kTile;
  auto* const panel = reinterpret_cast<int32_t*>(scratch);
  int32_t* const x = panel + kPairs * kTile;
  float* const sums = scratch[dot_scratch_lines(n_rows, 0)].values;
  const uint16_t* const first_x = dot.x + block.first_row * dot.k;
  for (int64_t k = 0; k < dot.k; k += kStep) {
    for (int r = 0; r < n_rows; ++r)
      std::copy_n(first_x + r * dot.k + k, kStep, reinterpret_cast<uint16_t*>(x + r * kPairs));
    for (int64_t column = 0; column < n_columns; column += kTile) {
      add_tile({.w = dot.w + k * dot.n + block.first_column + column,
                .n = dot.n,
                .prefetch = k + kAheadRows < dot.k,
                .x = x,
                .sums = sums + column / kTile * tile_floats,
                .panel = panel,
                .first = k == 0},
               n_rows);
    }
  }
  for (int r = 0; r < n_rows; ++r) {
    float* const out = dot.out + (block.first_row + r) * dot.n + block.first_column;
    for (int64_t column = 0; column < n_columns; column += kTile) {
      std::copy_n(sums + column / kTile * tile_floats + r * kTile, kTile, out + column);
    }
  }
}

// ---- w as [n, k] ------------------------------------------------------------------------------

template <int R>
void dot_columns(const Dot& dot, int64_t row, int64_t column) {
  const uint16_t* const x = dot.x + row * dot.k;
  const uint16_t* const w = dot.w + column * dot.k;
  __m512 sums[R][kColumns];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) sums[r][c] = _mm512_setzero_ps();
  }
  for (int64_t k = 0; k < dot.k; k += kLanes) {
    Pairs w_pairs[kColumns];
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) w_pairs[c] = load_pairs(w + c * dot.k + k);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const Pairs x_pairs = load_pairs(x + r * dot.k + k);
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c) {
        sums[r][c] = _mm512_dpbf16_ps(sums[r][c], x_pairs, w_pairs[c]);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int c = 0; c < kColumns; ++c) {
      dot.out[(row + r) * dot.n + column + c] = _mm512_reduce_add_ps(sums[r][c]);
    }
  }
}

void dot_across(const Dot& dot, const DotBlock& block) {
  const int n_rows = static_cast<int>(block.end_row - block.first_row);
  for (int64_t column = block.first_column; column < block.end_column; column += kColumns) {
    for_row_blocks<kMostRowsAcross>(
        n_rows, [&]<int R>(int row) { dot_columns<R>(dot, block.first_row + row, column); });
  }
}

}  // namespace

size_t dot_scratch_lines(int64_t rows, int64_t columns) {
  const int64_t floats = kPairs * kTile + (rows + rows % 2) * kPairs + rows * columns;
  return static_cast<size_t>(floats / 16);
}

void dot_block(const Dot& dot, const DotBlock& block, DotLine* scratch) {
  if (dot.transposed) {
    dot_across(dot, block);
  } else {
    dot_down(dot, block, scratch);
  }
}

}  // namespace nspjax
