// The attention kernel in C simulation against a float64 oracle, on exactly sized heap arrays (a
// read beyond one is seen by AddressSanitizer).
#include <bit>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <limits>
#include <thread>

#include "attention_case.h"
#include "format/numbers.h"
#include "tests/check.h"

namespace nspjax::testing {
namespace {

constexpr int kHeadDims[] = {16, 64, 80, 128, 256};
constexpr int kTiles[] = {16, 32, 64, 128, 256, 1024};
constexpr int kQueryCounts[] = {1, 4, 5, 8, 3, 64};

void every_type_and_size() {
  int i = 0;
  for (const DTypeRow& row : kDTypes) {
    const DType type = row.dtype;
    for (const int head_dim : kHeadDims) {
      for (const int tile_tokens : kTiles) {
        const int n_queries = kQueryCounts[i % 6], n_heads = 1 + i % 3;
        const Sizes sizes{
            type, head_dim, tile_tokens, n_heads, n_queries, 1 + 37 * (++i) % 450, 1000 * (i % 2)};
        AttentionCase(sizes).check_against_oracle();
      }
    }
  }
}

void every_length() {
  for (const int n_tokens : {1, 2, 15, 16, 17, 127, 128, 129, 1001, 4097}) {
    for (const DType type : {DType::kF16, DType::kInt8}) {
      AttentionCase({type, 64, 256, 2, 5, n_tokens}).check_against_oracle();
    }
  }
  AttentionCase({DType::kBF16, 64, 512, 1, 1, 69'999}).check_against_oracle();
  AttentionCase({DType::kF16, 128, 128, 1, 8, 70'000}).check_against_oracle();
}

// Queries that see their own part of the tokens each, and one that sees nothing.
void windows() {
  for (const DTypeRow& row : kDTypes) {
    const DType type = row.dtype;
    AttentionCase with({type, 64, 128, 2, 6, 896, 256});
    with.visible = {{256, 1152}, {300, 301}, {511, 513}, {1024, 1152}, {700, 600}, {0, 5000}};
    with.check_against_oracle();
    for (Range& range : with.visible) range = {600, 700};
    with.visible[3] = {0, 0};
    with.check_against_oracle();
    const auto tile_beats = static_cast<std::uint32_t>(with.tile().bytes() / kernel::kBeatBytes);
    check(with.run(with.operands())[0][kernel::kBeatsRead] == 2 * 2 * tile_beats,
          "only the two tiles that are seen are read");
    for (Range& range : with.visible) range = {7, 7};
    check(with.run(with.operands())[0][kernel::kBeatsRead] == 0, "nothing is seen, nothing read");
    with.check_against_oracle();
  }
}

void softcap() {
  for (const float softcap : {0.5f, 5.0f, 50.0f}) {
    AttentionCase({DType::kF16, 128, 128, 2, 5, 300, 0, softcap}).check_against_oracle();
  }
}

// Whatever a query does not see: to the last bit the same.
void masked_elements_add_nothing() {
  for (const DTypeRow& row : kDTypes) {
    const DType type = row.dtype;
    AttentionCase with({type, 80, 64, 1, 5, 192});
    with.visible = {{0, 192}, {0, 70}, {70, 192}, {65, 66}, {0, 64}};
    const auto before = with.results();
    // token 69, which queries 1 does and the others but 0 do not see
    const std::uint32_t words[] = {0x7fc07fc0u, 0x7f807f80u, 0xff80ff80u};
    const auto elements = static_cast<int>(with.tile().elements_per_word());
    const auto bits = element_bits(type);
    const std::uint32_t keep =
        bits == 32 ? 0u : ~(((1u << bits) - 1u) << element_shift(bits, 69 % elements));
    auto* tile = reinterpret_cast<std::uint32_t*>(
        &with.kv[5 + 1 * static_cast<size_t>(with.tile().bytes() / 64 + 1 + 3)]);
    std::uint32_t* k = tile + 5;  // lane 5 of every channel word
    std::uint32_t* v = tile + with.tile().v_offset() / 4 + 5 / elements * 80;
    for (int d = 0; d < 80; ++d) {
      const std::uint32_t word = words[d % 3];
      if (d < with.tile().channel_words()) k[d * 64] = word;
      v[d] = (v[d] & keep) | (word & ~keep);
    }
    const auto after = with.results();
    check(before[2] != before[0], "the queries differ");
    for (const size_t i : {3u, 4u}) check(before[i] == after[i], "what is masked adds nothing");
    if (!is_quantised(type)) check(!(before[1] == after[1]), "what is seen does count");
  }
}

// A query's bits do not depend on the others that are with it.
void alone_or_with_others() {
  AttentionCase with({DType::kBF16, 64, 128, 1, 7, 500});
  const auto together = with.results();
  for (int i = 0; i < 7; ++i) {
    AttentionCase alone = with;
    alone.sizes.n_queries = 1;
    alone.visible = {with.visible[static_cast<size_t>(i)]};
    alone.queries.assign(with.queries.begin() + i * 64, with.queries.begin() + (i + 1) * 64);
    check(alone.results()[0] == together[static_cast<size_t>(i)], "alone as with others");
  }
}

// All finite numbers of 16 bits are kept, subnormal ones too: V of one token comes out as it is.
void sixteen_bit_numbers() {
  for (const DType type : {DType::kBF16, DType::kF16}) {
    AttentionCase with({type, 256, 16, 1, 1, 1});
    auto* v = reinterpret_cast<std::uint32_t*>(&with.kv[5]) + with.tile().v_offset() / 4;
    for (std::uint32_t high = 0; high < 256; ++high) {
      for (std::uint32_t d = 0; d < 256; ++d) v[d] = high << 8 | d;
      const auto got = with.results()[0].sums;
      for (std::uint32_t d = 0; d < 256; ++d) {
        const auto bits = static_cast<std::uint16_t>(high << 8 | d);
        const float want =
            with_dtype(type, [&]<DType kType>() { return Element<kType>::decode(bits); });
        check(got[d] == want || std::isnan(want), "a 16-bit number");
        check(std::isnan(got[d]) == std::isnan(want), "a NaN");
      }
    }
  }
}

void bad_operands() {
  const AttentionCase with({DType::kF16, 64, 64, 1, 4, 100});
  const std::pair<int, std::uint32_t> bad[] = {
      {kernel::kOperandMagic, 0},    {kernel::kStoredType, 5},
      {kernel::kHeadDim, 0},         {kernel::kHeadDim, 72},
      {kernel::kHeadDim, 272},       {kernel::kTileTokens, 8},
      {kernel::kTileTokens, 96},     {kernel::kTileTokens, 2048},
      {kernel::kQueries, 0},         {kernel::kQueries, 65},
      {kernel::kTiles, 0x80000000u}, {kernel::kFirstToken, 0x7fffffffu},
      {kernel::kHeads, 0x80000000u}, {kernel::kTileTokens, 0},
  };
  for (const auto& [word, value] : bad) {
    auto operands = with.operands();
    operands[0][static_cast<size_t>(word)] = value;
    const auto results = with.run(std::span(operands).first(1));
    check(results[0][kernel::kStatus] == kernel::kBadOperands, "bad operands are seen");
    for (size_t i = 1; i < results.size(); ++i) {
      check(results[i][0] == 0xdeadbeefu, "and nothing is computed");
    }
  }
}

void several_at_once() {
  const AttentionCase with({DType::kInt4, 64, 64, 2, 4, 300});
  const auto want = with.results();
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&] { check(with.results() == want, "beside other runs"); });
  }
  for (auto& thread : threads) thread.join();
}

}  // namespace
}  // namespace nspjax::testing

int main() {
  using namespace nspjax::testing;
  every_type_and_size();
  every_length();
  windows();
  softcap();
  masked_elements_add_nothing();
  alone_or_with_others();
  sixteen_bit_numbers();
  bad_operands();
  several_at_once();
  return 0;
}
