#include "device/card_run.h"

#include <bit>
#include <cstring>

#include "attention/interface.h"
#include "attention/merge.h"
#include "device/card.h"

namespace nspjax {
namespace {

using namespace kernel;

constexpr StoredType stored_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return kF32;
    case DType::kBF16:
      return kBF16;
    case DType::kF16:
      return kF16;
    case DType::kInt8:
      return kInt8;
    case DType::kInt4:
      return kInt4;
  }
  return static_cast<StoredType>(kStoredTypeCount);  // none
}

// Whether the kernel has the table's types.
constexpr bool has_all_types() {
  for (const DTypeRow& row : kDTypes) {
    const StoredType type = stored_type(row.dtype);
    if (static_cast<uint32_t>(type) != static_cast<uint32_t>(row.dtype) ||
        elements_per_word(type) * row.bits != 32 || kernel::is_quantised(type) != row.is_code) {
      return false;
    }
  }
  return kDTypeCount == kStoredTypeCount;
}
static_assert(has_all_types());

size_t operand_words(int64_t n_heads, int64_t n_queries, int64_t head_dim) {
  return static_cast<size_t>(operand_beats(static_cast<int>(n_heads), static_cast<int>(n_queries),
                                           static_cast<int>(head_dim)) *
                             kBeatWords);
}

size_t result_words(int64_t n_heads, int64_t n_queries, int64_t head_dim) {
  return static_cast<size_t>(result_beats(static_cast<int>(n_heads), static_cast<int>(n_queries),
                                          static_cast<int>(head_dim)) *
                             kBeatWords);
}

uint32_t word(int64_t value) { return static_cast<uint32_t>(value); }

}  // namespace

int64_t heads_a_run(int64_t n_queries, int64_t head_dim) {
  int64_t n = 1;  // always fits
  while (operand_words(n + 1, n_queries, head_dim) * sizeof(uint32_t) <= kMostOperandBytes &&
         result_words(n + 1, n_queries, head_dim) * sizeof(uint32_t) <= kMostResultBytes) {
    ++n;
  }
  return n;
}

std::vector<uint32_t> pack_operands(const CardRun& run, const std::byte* buffer) {
  const AttendPass& pass = run.tiles.pass;
  const TileGeometry& geometry = run.call.geometry;
  const HeadTile& order = geometry.stored();
  const int64_t head_dim = order.head_dim(), row = pass.tiles.region->row;
  const int64_t first_byte = run.tiles.data - buffer + run.first_head * order.bytes();

  std::vector<uint32_t> words(operand_words(run.n_heads, run.n_queries, head_dim));
  words[kOperandMagic] = kMagic;
  words[kRunNumber] = run.number;
  words[kStoredType] = stored_type(order.type());
  words[kHeadDim] = word(head_dim);
  words[kTileTokens] = word(order.tile_tokens());
  words[kHeads] = word(run.n_heads);
  words[kQueries] = word(run.n_queries);
  words[kTiles] = word(run.tiles.end - run.tiles.begin);
  words[kFirstToken] = word(run.tiles.begin * order.tile_tokens());
  words[kTokenBegin] = word(pass.token_begin);
  words[kTokenEnd] = word(pass.token_end);
  words[kScale] = std::bit_cast<uint32_t>(run.call.scale);
  words[kSoftcap] = std::bit_cast<uint32_t>(run.call.softcap);
  words[kFirstBeat] = word(first_byte / kBeatBytes);
  words[kTileBeats] = word(geometry.tile_bytes(row, run.device) / kBeatBytes);
  words[kHeadBeats] = word(order.bytes() / kBeatBytes);

  uint32_t* visible = words.data() + kBeatWords;
  for (int64_t i = 0; i < run.n_queries; ++i) {
    const auto query = static_cast<size_t>(run.first_query + i);
    visible[2 * i] = word(pass.first[query]);
    visible[2 * i + 1] = word(pass.last[query]);
  }
  uint32_t* to = visible + visible_beats(static_cast<int>(run.n_queries)) * kBeatWords;
  const HeadSet heads = geometry.heads(row, run.device);
  for (int64_t i = 0; i < run.n_heads; ++i, to += run.n_queries * head_dim) {
    const int64_t query = heads.head(run.first_head + i) * pass.n_queries() + run.first_query;
    std::memcpy(to, pass.queries.data() + query * run.call.padded_dim,
                static_cast<size_t>(run.n_queries * head_dim) * sizeof(float));
  }
  return words;
}

std::vector<uint32_t> make_results(const CardRun& run) {
  return std::vector<uint32_t>(
      result_words(run.n_heads, run.n_queries, run.call.geometry.shape().head_dim));
}

void add_results(const CardRun& run, std::span<const uint32_t> results, Partial& into) {
  const int64_t head_dim = run.call.geometry.shape().head_dim;
  const uint32_t* from = results.data() + kBeatWords;
  std::vector<float> sums(static_cast<size_t>(head_dim));
  for (int64_t head = run.first_head; head < run.first_head + run.n_heads; ++head) {
    for (int64_t i = 0; i < run.n_queries; ++i, from += kBeatWords + head_dim) {
      const int64_t to = head * run.tiles.pass.n_queries() + run.first_query + i;
      const auto at = static_cast<size_t>(to);
      std::memcpy(sums.data(), from + kBeatWords, sums.size() * sizeof(float));
      merge_partial(into.max[at], into.sum[at], into.acc.data() + to * run.call.padded_dim,
                    std::bit_cast<float>(from[0]), std::bit_cast<float>(from[1]), sums.data(),
                    head_dim);
    }
  }
}

}  // namespace nspjax
