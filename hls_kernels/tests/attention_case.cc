#include "attention_case.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "base/align.h"
#include "format/numbers.h"
#include "tests/check.h"

namespace nspjax::testing {
namespace {

constexpr std::uint32_t kRunNumberOfTest = 41;
// Strides and a beginning that no other number explains.
constexpr int kFirstBeatOfTest = 5, kHeadGapBeats = 1, kTileGapBeats = 3;

DType float_type(DType type) { return row_of(type).appended ? type : DType::kF32; }

// float32 to a row's element.
void store(float x, DType dtype, std::byte* to) {
  const uint32_t bits =
      with_dtype(dtype, [&]<DType kDType>() { return Element<kDType>::encode(x); });
  std::memcpy(to, &bits, static_cast<size_t>(size_bytes(dtype)));
}

int head_beats(const HeadTile& tile) {
  return static_cast<int>(tile.bytes()) / kernel::kBeatBytes + kHeadGapBeats;
}

}  // namespace

AttentionCase::AttentionCase(const Sizes& of, unsigned seed)
    : visible(static_cast<size_t>(of.n_queries), {of.first_token, of.first_token + of.n_tokens}),
      sizes(of),
      scale(1.0f / std::sqrt(static_cast<float>(of.head_dim))),
      tile_(of.type, of.head_dim, of.tile_tokens),
      n_tiles_(static_cast<int>(ceil_div(of.n_tokens, of.tile_tokens))) {
  const auto n_elements =
      static_cast<size_t>(of.n_heads * of.n_tokens) * static_cast<size_t>(of.head_dim);
  k_.resize(n_elements);
  v_.resize(n_elements);
  kv.resize(head_begin(n_tiles_, 0));
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  queries.resize(static_cast<size_t>(of.n_heads * of.n_queries * of.head_dim));
  for (float& x : queries) x = normal(random);
  for (int head = 0; head < of.n_heads; ++head)
    fill_head(head, seed + 17 * static_cast<unsigned>(head));
}

size_t AttentionCase::head_begin(int tile, int head) const {
  const int beats = head_beats(tile_);
  return static_cast<size_t>(kFirstBeatOfTest + tile * (sizes.n_heads * beats + kTileGapBeats) +
                             head * beats);
}

// Random rows, packed and converted by the engine's code. Behind the last token: what must not
// count.
void AttentionCase::fill_head(int head, unsigned seed) {
  const DType dtype = float_type(sizes.type);
  const int64_t dim = sizes.head_dim, tokens = sizes.tile_tokens,
                row_bytes = dim * size_bytes(dtype);
  const HeadTile floats(dtype, dim, tokens), f32(DType::kF32, dim, tokens);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const float never[] = {std::numeric_limits<float>::infinity(), std::nanf("")};
  for (int tile = 0; tile < n_tiles_; ++tile) {
    const int n = std::min(sizes.tile_tokens, sizes.n_tokens - tile * sizes.tile_tokens);
    std::vector<std::byte> k(static_cast<size_t>(tokens * row_bytes)), v(k.size());
    for (int64_t i = 0; i < tokens * dim; ++i) {
      const bool valid = i < n * dim;
      store(valid ? normal(random) : never[i % 2], dtype, k.data() + i * size_bytes(dtype));
      store(valid ? normal(random) : never[i % 2], dtype, v.data() + i * size_bytes(dtype));
    }
    std::vector<std::byte> packed(static_cast<size_t>(floats.bytes()));
    pack_head(floats, {k.data(), v.data(), row_bytes}, 0, tokens, packed.data());
    auto* stored = reinterpret_cast<std::byte*>(kv.data() + head_begin(tile, head));
    convert_head(floats, packed.data(), tile_, stored);
    std::vector<std::byte> as_f32(static_cast<size_t>(f32.bytes()));
    convert_head(tile_, stored, f32, as_f32.data());
    const auto at = static_cast<size_t>((head * sizes.n_tokens + tile * sizes.tile_tokens) * dim);
    unpack_head(f32, as_f32.data(), 0, n,
                {reinterpret_cast<std::byte*>(k_.data() + at),
                 reinterpret_cast<std::byte*>(v_.data() + at), dim * 4});
  }
}

std::vector<kernel::Beat> AttentionCase::operands() const {
  std::vector<kernel::Beat> beats(
      static_cast<size_t>(kernel::operand_beats(sizes.n_heads, sizes.n_queries, sizes.head_dim)));
  kernel::Beat& header = beats[0];
  int begin = std::numeric_limits<int>::max(), end = 0;
  for (const Range& range : visible) {
    if (range.first >= range.last) continue;
    begin = std::min(begin, range.first);
    end = std::max(end, range.last);
  }
  header[kernel::kOperandMagic] = kernel::kMagic;
  header[kernel::kRunNumber] = kRunNumberOfTest;
  header[kernel::kStoredType] = static_cast<std::uint32_t>(sizes.type);
  header[kernel::kHeadDim] = static_cast<std::uint32_t>(sizes.head_dim);
  header[kernel::kTileTokens] = static_cast<std::uint32_t>(sizes.tile_tokens);
  header[kernel::kHeads] = static_cast<std::uint32_t>(sizes.n_heads);
  header[kernel::kQueries] = static_cast<std::uint32_t>(sizes.n_queries);
  header[kernel::kTiles] = static_cast<std::uint32_t>(n_tiles_);
  header[kernel::kFirstToken] = static_cast<std::uint32_t>(sizes.first_token);
  header[kernel::kTokenBegin] = static_cast<std::uint32_t>(begin);
  header[kernel::kTokenEnd] = static_cast<std::uint32_t>(end);
  header[kernel::kScale] = std::bit_cast<std::uint32_t>(scale);
  header[kernel::kSoftcap] = std::bit_cast<std::uint32_t>(sizes.softcap);
  header[kernel::kFirstBeat] = kFirstBeatOfTest;
  header[kernel::kHeadBeats] = static_cast<std::uint32_t>(head_beats(tile_));
  header[kernel::kTileBeats] = static_cast<std::uint32_t>(head_begin(1, 0) - head_begin(0, 0));
  for (size_t i = 0; i < visible.size(); ++i) {
    beats[1 + i / 8][i % 8 * 2] = static_cast<std::uint32_t>(visible[i].first);
    beats[1 + i / 8][i % 8 * 2 + 1] = static_cast<std::uint32_t>(visible[i].last);
  }
  std::memcpy(&beats[static_cast<size_t>(1 + kernel::visible_beats(sizes.n_queries))][0],
              queries.data(), queries.size() * sizeof(float));
  return beats;
}

std::vector<kernel::Beat> AttentionCase::run(std::span<const kernel::Beat> with) const {
  std::vector<kernel::Beat> results(
      static_cast<size_t>(kernel::result_beats(sizes.n_heads, sizes.n_queries, sizes.head_dim) + 1),
      kernel::Beat(0xdeadbeefu));
  nspjax_attention(kv.data(), with.data(), results.data());
  check(results[0][kernel::kResultMagic] == kernel::kMagic, "the results' magic");
  check(results[0][kernel::kResultRunNumber] == kRunNumberOfTest, "the run number");
  check(results.back()[0] == 0xdeadbeefu, "nothing is written behind the results");
  return results;
}

Result AttentionCase::results_of(std::span<const kernel::Beat> results, int head, int query) const {
  const int beats = 1 + sizes.head_dim / kernel::kBeatWords;
  const kernel::Beat* at =
      &results[static_cast<size_t>(1 + (head * sizes.n_queries + query) * beats)];
  Result result{std::bit_cast<float>((*at)[0]), std::bit_cast<float>((*at)[1]),
                std::vector<float>(static_cast<size_t>(sizes.head_dim))};
  std::memcpy(result.sums.data(), at + 1, result.sums.size() * sizeof(float));
  return result;
}

std::vector<Result> AttentionCase::results() const {
  const auto beats = run(operands());
  check(beats[0][kernel::kStatus] == kernel::kDone, "the kernel is done");
  std::vector<Result> all;
  for (int head = 0; head < sizes.n_heads; ++head) {
    for (int i = 0; i < sizes.n_queries; ++i) all.push_back(results_of(beats, head, i));
  }
  return all;
}

void AttentionCase::check_against_oracle() const {
  const auto all = results();
  const int dim = sizes.head_dim;
  for (size_t i = 0; i < all.size(); ++i) {
    const size_t head = i / static_cast<size_t>(sizes.n_queries);
    const Range& range = visible[i % static_cast<size_t>(sizes.n_queries)];
    const int begin = std::max(range.first - sizes.first_token, 0);
    const int end = std::min(range.last - sizes.first_token, sizes.n_tokens);
    if (begin >= end) {
      check(all[i] == Result{-std::numeric_limits<float>::infinity(), 0.0f,
                             std::vector<float>(static_cast<size_t>(dim))},
            "a query that sees nothing");
      continue;
    }
    const float* q = queries.data() + i * static_cast<size_t>(dim);
    const auto row = [&](const std::vector<float>& rows, int t) {
      return rows.data() + (head * static_cast<size_t>(sizes.n_tokens) + static_cast<size_t>(t)) *
                               static_cast<size_t>(dim);
    };
    std::vector<double> scores(static_cast<size_t>(end - begin));
    double max = -std::numeric_limits<double>::infinity();
    for (int t = begin; t < end; ++t) {
      double z = 0;
      for (int d = 0; d < dim; ++d) z += double{q[d]} * double{row(k_, t)[d]};
      z *= double{scale};
      if (sizes.softcap > 0.0f) z = double{sizes.softcap} * std::tanh(z / double{sizes.softcap});
      scores[static_cast<size_t>(t - begin)] = z;
      max = std::max(max, z);
    }
    double sum = 0;
    std::vector<double> sums(static_cast<size_t>(dim));
    for (int t = begin; t < end; ++t) {
      const double weight = std::exp(scores[static_cast<size_t>(t - begin)] - max);
      sum += weight;
      for (int d = 0; d < dim; ++d) sums[static_cast<size_t>(d)] += weight * double{row(v_, t)[d]};
    }
    // Negated comparisons: NaN fails.
    check(!!(std::abs(double{all[i].max} - max) < 1e-5), "max");
    check(!!(std::abs(double{all[i].sum} / sum - 1.0) < 2e-5), "sum");
    for (size_t d = 0; d < sums.size(); ++d) {
      const double got = double{all[i].sums[d]} / double{all[i].sum};
      check(!!(std::abs(got - sums[d] / sum) < 2e-5), "a sum of values");
    }
  }
}

}  // namespace nspjax::testing
