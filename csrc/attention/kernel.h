// The attention of some queries over tokens of one tile and KV head: what every kernel computes.
//
// Online softmax with float32 accumulation: (max, sum, acc) go in, are updated with the tokens, and
// come out. A kernel handles a query in the same order of additions whichever others are with it,
// and wherever the visible tokens begin: masked tokens add exactly nothing.
//
// What is not a number goes where softmax's plain arithmetic takes it: a NaN or +inf among the
// scores makes NaN of all the query's channels, and so do scores that are all -inf; in V it stays
// in its channel, and 0 times an infinity is NaN. The sum carries it, maxima pass NaN over.
//
// Accuracy is float32's, with these exceptions. avx512_bf16 reads subnormal numbers of K as 0 in a
// bf16 tile: VDPBF16PS does. In int8 and int4 tiles the vector kernels round scaled queries and
// scaled weights to 16 bits of their largest, far below the error of the codes; and a query with an
// infinity may be NaN there where a softcap would bound its scores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "format/dtype.h"
#include "format/head_tile.h"

namespace nspjax {

// Queries and accumulators are padded to this many floats: no kernel's vectors are longer.
inline constexpr int64_t kPadFloats = 16;
// Softmax statistics are updated once for each block of this many tokens of a tile: first all of
// the block's K is read, then all of its V. Memory sees long runs, which its prefetchers follow:
// of tiles of 256 tokens, blocks of 64 read a third less with one thread (bench/kernel.py).
inline constexpr int kBlockTokens = 256;

// So that `max` is -inf where nothing was seen, and nowhere else: a score can be -inf, too.
inline constexpr float kLowestMax = std::numeric_limits<float>::lowest();

struct TileAttention {
  // [n_queries, padded_dim], scaled by a power of two at most, so that bf16 queries stay exact; 0
  // beyond head_dim
  const float* queries;
  float scale;  // of q . k
  int n_queries;
  int head_dim;
  int padded_dim;        // a multiple of kPadFloats
  const int32_t* first;  // [n_queries]: query i sees the tokens first[i] <= j < last[i]
  const int32_t* last;
  const HeadTile* tile;   // how the data lies
  const std::byte* data;  // tile->bytes() bytes, 64-byte aligned
  int32_t first_token;    // the position of the tile's first token in its row
  int begin;              // of the tile's tokens, those that any query may see; all of them valid
  int end;
  float softcap;  // 0: none
  float* max;     // [n_queries], -inf to begin with, at least kLowestMax when tokens were seen
  float* sum;     // [n_queries], 0
  float* acc;     // [n_queries, padded_dim], 0
};

using TileKernel = void (*)(const TileAttention&);

// The first half of it, for tokens [begin, end) of one block of kBlockTokens: weights
// [n_queries, stride] get e^(score - max), 0 for what a query does not see, and (max, sum) are of
// these tokens alone. `data` needs K only; `acc` is not used.
using WeighKernel = void (*)(const TileAttention&, float* weights, int stride);

// The second half, for tokens whose V lies apart: acc = acc + weights . V.
struct WeightedValues {
  const std::byte* words;   // V's words of the tokens; the first token begins one
  const std::byte* scales;  // of the same tokens, of codes only
  int n_tokens;             // 1 to kBlockTokens; scales are read to the next multiple of 16
  int n_queries;
  int head_dim;
  int padded_dim;        // a multiple of kPadFloats
  const float* weights;  // [n_queries, stride]
  int stride;
  float* acc;  // [n_queries, padded_dim]
};
using ValuesKernel = void (*)(const WeightedValues&);

struct TypeKernels {
  TileKernel attend;
  WeighKernel weigh;
  ValuesKernel add_values;
};

// Kernels for each stored type, in the order of kDTypes.
struct KernelSet {
  std::string_view name;
  TypeKernels kernels[kDTypeCount];

  const TypeKernels& of(DType type) const;
};

// make.operator()<type>() are a type's kernels.
template <class Make>
constexpr KernelSet kernels_of_all_types(std::string_view name, const Make& make) {
  const auto all = [&]<size_t... kIndex>(std::index_sequence<kIndex...>) {
    return KernelSet{name, {make.template operator()<kDTypes[kIndex].dtype>()...}};
  };
  return all(std::make_index_sequence<kDTypeCount>());
}

// Those that this CPU runs, the best first.
std::vector<KernelSet> available_kernels();
// name: one of them, or "auto". Throws InvalidArgument.
KernelSet find_kernel(std::string_view name);

KernelSet scalar_kernels();
#ifdef NSPJAX_X86
KernelSet avx2_kernels();
KernelSet avx512_kernels();
KernelSet avx512_bf16_kernels();
#endif

}  // namespace nspjax
