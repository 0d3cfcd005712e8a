// What host and kernel exchange through the card's memory: one run of the
// attention kernel.
//
// The kernel has three arguments, pointers into the card's memory: `kv`, the
// buffer that drives write tiles into; `operands`, what a run is asked;
// `results`, what came of it. Everything else is in `operands`, so a run is
// started without setting an argument. All is cut into beats, the words of the
// memory port.
//
//   operands  header | visible [ceil(n_queries / 8)] | queries [n_heads][n_queries][head_dim / 16]
//   results   header | [n_heads][n_queries](statistics | sums [head_dim / 16])
//
// visible: words 2i and 2i + 1 are the tokens first <= j < last that query i
// sees. Queries and sums are float32. A statistics beat has max and sum in its
// first two words; sums are not divided by sum. A query that saw no token has
// max -inf and sum 0; one that did has at least the lowest float as max, also
// where all scores are -inf, and then sum 0. The header of the results is
// written last.
//
// Tiles are the engine's: head h of tile t is at kv[first_beat + t * tile_beats
// + h * head_beats], inside it lies what csrc/format/head_tile.h says, all
// tokens valid. Tile t's first token has the position first_token + t *
// tile_tokens.
#pragma once

#include <cstdint>

namespace nspjax::kernel {

inline constexpr char kName[] = "nspjax_attention";
inline constexpr int kBeatBytes = 64;  // 512 bits
inline constexpr int kBeatWords = 16;

inline constexpr std::uint32_t kMagic = 0x3150534eu;  // "NSP1": this layout
inline constexpr int kBlockTokens = 128;
inline constexpr int kMostHeadDim = 256;     // and a multiple of 16
inline constexpr int kMostQueries = 64;      // of one head, in one run
inline constexpr int kLeastTileTokens = 16;  // a power of two up to 1024
inline constexpr int kMostTileTokens = 1024;

// Words of the operands' header.
enum OperandWord : int {
  kOperandMagic,
  kRunNumber,
  kStoredType,  // StoredType
  kHeadDim,
  kTileTokens,
  kHeads,
  kQueries,
  kTiles,
  kFirstToken,
  kTokenBegin,  // what any query sees: blocks outside are not read
  kTokenEnd,
  kScale,    // float bits, of q . k
  kSoftcap,  // float bits; 0: none
  kFirstBeat,
  kTileBeats,
  kHeadBeats,
};

// The numbers of csrc/format/dtype.h; csrc/device/card_run.cc compares them.
enum StoredType : std::uint32_t { kF32, kBF16, kF16, kInt8, kInt4 };
constexpr std::uint32_t kStoredTypeCount = 5;

constexpr bool is_quantised(StoredType type) {
  switch (type) {
    case kF32:
    case kBF16:
    case kF16:
      return false;
    case kInt8:
    case kInt4:
      return true;
  }
  return false;
}

constexpr int elements_per_word(StoredType type) {
  switch (type) {
    case kF32:
      return 1;
    case kBF16:
    case kF16:
      return 2;
    case kInt8:
      return 4;
    case kInt4:
      return 8;
  }
  return 0;
}

// Words of the results' header; the others are 0.
enum ResultWord : int {
  kResultMagic,
  kResultRunNumber,  // the operands'
  kStatus,
  kBeatsRead,   // of kv
  kScoreSlots,  // of the loops over K: what the cycle model counts
  kValueSlots,  // and over V
};

enum Status : std::uint32_t {
  kDone = 1,
  kBadOperands = 2,  // magic, type or a size that the kernel does not have;
                     // nothing was computed
};

constexpr int visible_beats(int n_queries) { return (n_queries + 7) / 8; }
constexpr int operand_beats(int n_heads, int n_queries, int head_dim) {
  return 1 + visible_beats(n_queries) + n_heads * n_queries * (head_dim / kBeatWords);
}
constexpr int result_beats(int n_heads, int n_queries, int head_dim) {
  return 1 + n_heads * n_queries * (1 + head_dim / kBeatWords);
}

}  // namespace nspjax::kernel
