// Planes of every order against the addresses that format/head_tile.h writes down, worked out here
// element by element; and what runs of planes need on devices and in host memory.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <iterator>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "format/derive.h"
#include "format/fingerprint.h"
#include "format/numbers.h"
#include "format/pack.h"
#include "format/plan.h"

namespace nspjax::testing {
namespace {

constexpr DType kFloats[] = {DType::kF32, DType::kBF16, DType::kF16};
constexpr DType kCodes[] = {DType::kInt8, DType::kInt4};

// Where an element of a plane lies: its word, counted from the plane's first, and its first bit.
struct Place {
  int64_t word;
  int64_t shift;
};

Place place_of(const Plane& plane, int64_t bits, int64_t tile_tokens, int64_t token,
               int64_t channel) {
  const int64_t per_word = 32 / bits;
  int64_t word = 0, e = 0;
  if (plane.order == Order::kByToken) {
    word = token / per_word * plane.width + channel;
    e = token % per_word;
  } else {
    const int64_t lanes = plane.order == Order::kByBlock && tile_tokens > 64 ? 64 : tile_tokens;
    const int64_t words_a_token = (plane.width + per_word - 1) / per_word;
    word = token / lanes * words_a_token * lanes + channel / per_word * lanes + token % lanes;
    e = channel % per_word;
  }
  return {word, e / 2 * bits + e % 2 * 16};
}

uint32_t word_at(const std::byte* data, int64_t bytes, int64_t word) {
  uint32_t value;
  std::memcpy(&value, data + bytes + 4 * word, 4);
  return value;
}

// A plane's words and its scales, in bytes, from what a tile has to hold.
int64_t words_bytes(const Plane& plane, int64_t bits, int64_t tile_tokens) {
  int64_t last = 0;
  for (int64_t t = 0; t < tile_tokens; ++t) {
    for (const int64_t c : {int64_t{0}, plane.width - 1}) {
      last = std::max(last, place_of(plane, bits, tile_tokens, t, c).word);
    }
  }
  return (4 * (last + 1) + 63) / 64 * 64;
}
int64_t scales_bytes(const Plane& plane, int64_t tile_tokens) {
  return (4 * (plane.order == Order::kByToken ? tile_tokens : plane.width) + 63) / 64 * 64;
}

using Values = std::vector<std::vector<std::byte>>;  // [plane][tokens, width]

Values random_values(const PageRun& run, DType dtype, int64_t n_tokens) {
  std::mt19937 random(static_cast<unsigned>(run.width() * n_tokens));
  std::normal_distribution<float> normal;
  Values values;
  for (size_t i = 0; i < run.n_planes; ++i) {
    auto& bytes =
        values.emplace_back(static_cast<size_t>(n_tokens * run.width() * size_bytes(dtype)));
    for (size_t at = 0; at < bytes.size(); at += static_cast<size_t>(size_bytes(dtype))) {
      const float x = normal(random);
      const uint32_t bits =
          with_dtype(dtype, [&]<DType kType>() { return Element<kType>::encode(x); });
      std::memcpy(&bytes[at], &bits, static_cast<size_t>(size_bytes(dtype)));
    }
  }
  return values;
}

uint32_t bits_of(const std::vector<std::byte>& values, DType dtype, int64_t index) {
  uint32_t bits = 0;
  std::memcpy(&bits, &values[static_cast<size_t>(index * size_bytes(dtype))],
              static_cast<size_t>(size_bytes(dtype)));
  return bits;
}

float value_of(const std::vector<std::byte>& values, DType dtype, int64_t index) {
  float x;
  to_f32(values.data(), dtype, index, 1, &x);
  return x;
}

std::vector<PageRun> runs_of(int64_t width, DType stored, int64_t tile_tokens) {
  return {keys_and_values(1, width, stored), latent(width, stored),
          keys_by_channel(1, width, stored, tile_tokens)};
}

// fn(run, tokens in a tile)
void for_each_run(const std::function<void(const PageRun&, int64_t)>& fn) {
  for (const int64_t width : {1, 5, 64, 130}) {
    for (const int64_t tile_tokens : {16, 64, 256}) {
      for (const PageRun& run : runs_of(width, DType::kF32, tile_tokens)) fn(run, tile_tokens);
    }
  }
}

HeadRows rows_of(const Values& values, int64_t stride_bytes, int64_t token) {
  HeadRows rows{.plane = {}, .stride_bytes = stride_bytes};
  for (size_t i = 0; i < values.size(); ++i)
    rows.plane[i] = values[i].data() + token * stride_bytes;
  return rows;
}

// Tokens come in pieces, and lie where they should; what comes out is what went in.
void test_float_tiles() {
  for_each_run([](const PageRun& run, int64_t tile_tokens) {
    for (const DType type : kFloats) {
      const HeadTile tile(run, type, tile_tokens);
      const Values values = random_values(run, type, tile_tokens);
      const int64_t stride = run.width() * size_bytes(type), bits = element_bits(type);
      std::vector<std::byte> data(static_cast<size_t>(tile.bytes()), std::byte{0xff});
      const int64_t cuts[] = {0, 1, 6, 7, tile_tokens};
      for (size_t i = 0; i + 1 < std::size(cuts); ++i) {
        pack_head(tile, rows_of(values, stride, cuts[i]), cuts[i], cuts[i + 1], data.data());
      }
      int64_t begin = 0;
      for (size_t i = 0; i < run.n_planes; ++i) {
        for (int64_t t = 0; t < tile_tokens; ++t) {
          for (int64_t c = 0; c < run.width(); ++c) {
            const Place place = place_of(run.plane[i], bits, tile_tokens, t, c);
            const uint32_t word = word_at(data.data(), begin, place.word);
            const uint32_t mask = bits == 32 ? ~0u : (1u << bits) - 1;
            check((word >> place.shift & mask) == bits_of(values[i], type, t * run.width() + c),
                  "an element is where it should be");
          }
        }
        begin += words_bytes(run.plane[i], bits, tile_tokens);
      }
      check(tile.bytes() == begin, "nothing else is in the tile");

      Values out = values;
      for (auto& plane : out) std::ranges::fill(plane, std::byte{0});
      MutableHeadRows into{.plane = {}, .stride_bytes = stride};
      for (size_t i = 0; i < run.n_planes; ++i) into.plane[i] = out[i].data() + 3 * stride;
      unpack_head(tile, data.data(), 3, tile_tokens, into);
      for (size_t i = 0; i < run.n_planes; ++i) {
        check(std::equal(out[i].begin() + 3 * stride, out[i].end(), values[i].begin() + 3 * stride),
              "as they went in");
      }

      std::vector<std::byte> copy(data.size(), std::byte{0});
      copy_head_tokens(tile, data.data(), 7, copy.data());
      for (size_t i = 0; i < run.n_planes; ++i) into.plane[i] = out[i].data();
      unpack_head(tile, copy.data(), 0, tile_tokens, into);
      for (size_t i = 0; i < run.n_planes; ++i) {
        check(std::equal(out[i].begin(), out[i].begin() + 7 * stride, values[i].begin()),
              "the first tokens are copied");
        check(std::all_of(out[i].begin() + 7 * stride, out[i].end(),
                          [](std::byte b) { return b == std::byte{0}; }),
              "and no others");
      }
    }
  });
}

// A code times its series' scale is within half a scale of what it stands for.
void test_codes() {
  for_each_run([](const PageRun& run, int64_t tile_tokens) {
    const HeadTile floats(run, DType::kF32, tile_tokens);
    const Values values = random_values(run, DType::kF32, tile_tokens);
    std::vector<std::byte> data(static_cast<size_t>(floats.bytes()));
    pack_head(floats, rows_of(values, 4 * run.width(), 0), 0, tile_tokens, data.data());
    for (const DType type : kCodes) {
      const HeadTile tile(run, type, tile_tokens);
      const int64_t bits = element_bits(type);
      std::vector<std::byte> codes(static_cast<size_t>(tile.bytes()));
      convert_head(floats, data.data(), tile, codes.data());
      int64_t begin = 0, scales = 0;
      for (const Plane& plane : run.planes()) scales += words_bytes(plane, bits, tile_tokens);
      for (size_t i = 0; i < run.n_planes; ++i) {
        const Plane& plane = run.plane[i];
        for (int64_t t = 0; t < tile_tokens; ++t) {
          for (int64_t c = 0; c < run.width(); ++c) {
            const Place place = place_of(plane, bits, tile_tokens, t, c);
            const uint32_t word = word_at(codes.data(), begin, place.word) >> place.shift;
            const int32_t code = static_cast<int32_t>(word << (32 - bits)) >> (32 - bits);
            const uint32_t scale =
                word_at(codes.data(), scales, plane.order == Order::kByToken ? t : c);
            const float step = std::bit_cast<float>(scale << 16);
            const float got =
                std::bit_cast<float>(scale & 0xffff0000u) + step * static_cast<float>(code);
            const float want = value_of(values[i], DType::kF32, t * run.width() + c);
            check(std::abs(got - want) <= 0.5001f * step + 1e-6f, "the nearest code");
          }
        }
        begin += words_bytes(plane, bits, tile_tokens);
        scales += scales_bytes(plane, tile_tokens);
      }
      check(tile.bytes() == scales, "words, then scales");
    }
  });
}

// A token with such an element in any plane has NaN for its scale where a token has one.
void test_not_finite() {
  constexpr int64_t kTokens = 16, kWidth = 8;
  for (const PageRun& run : runs_of(kWidth, DType::kInt8, kTokens)) {
    const HeadTile floats(run, DType::kF32, kTokens), tile(run, DType::kInt8, kTokens);
    Values values = random_values(run, DType::kF32, kTokens);
    const float odd = std::numeric_limits<float>::infinity();
    std::memcpy(&values[0][4 * 3 * kWidth], &odd, 4);  // of token 3, in the first plane only
    std::vector<std::byte> data(static_cast<size_t>(floats.bytes()));
    std::vector<std::byte> codes(static_cast<size_t>(tile.bytes()));
    pack_head(floats, rows_of(values, 4 * kWidth, 0), 0, kTokens, data.data());
    convert_head(floats, data.data(), tile, codes.data());
    int64_t scales = static_cast<int64_t>(run.n_planes) * kTokens * kWidth;
    for (const Plane& plane : run.planes()) {
      const bool by_token = plane.order == Order::kByToken;
      for (int64_t i = 0; i < (by_token ? kTokens : kWidth); ++i) {
        const float scale = std::bit_cast<float>(word_at(codes.data(), scales, i) << 16);
        check(std::isnan(scale) == (by_token && i == 3), "that token's scale and no other");
      }
      scales += scales_bytes(plane, kTokens);
    }
  }
}

// The planes of SparF: what a page has of a tile of 16-bit keys by channel.
void test_channels_of_a_page() {
  for (const int64_t tile_tokens : {256, 512, 1024}) {
    const PageRun run = keys_by_channel(1, 128, DType::kBF16, tile_tokens);
    const HeadTile tile(run, DType::kBF16, tile_tokens);
    check(tile.bytes() == tile_tokens * 128 * 2, "no more than the keys");
    for (int64_t c = 0; c < 128; ++c) {
      for (const int64_t t : {int64_t{0}, tile_tokens - 1}) {
        const int64_t page = 4 * place_of(run.plane[0], 16, tile_tokens, t, c).word / kPageBytes;
        check(page == c / (2048 / tile_tokens), "2 channels of 1024 tokens, 8 of 256");
      }
    }
  }
}

// All rows' tokens through tails and tiles of a run on several devices, as a store does it.
void test_rows_on_devices() {
  constexpr int64_t kRows = 3, kTokens = 16;
  for (const int64_t n_devices : {1, 2, 3}) {
    for (const DType stored : {DType::kBF16, DType::kInt8}) {
      for (const PageRun& run : {latent(576, stored), keys_by_channel(5, 24, stored, 0)}) {
        const CacheFormat format{kRows, 40, DType::kBF16, {run}};
        const TileGeometry geometry(format, run, n_devices, kTokens, 1 << 20);
        const auto row_elements = kTokens * run.heads() * run.width();
        std::vector<std::byte> tokens(static_cast<size_t>(2 * row_elements), std::byte{0x3f});
        std::vector<std::byte> out(tokens.size());
        for (size_t i = 0; i < tokens.size(); i += 4) tokens[i] = static_cast<std::byte>(i / 4);
        for (int64_t row = 0; row < kRows; ++row) {
          int64_t n_heads = 0;
          for (int64_t device = 0; device < n_devices; ++device) {
            const HeadSet heads = geometry.heads(row, device);
            n_heads += heads.count;
            if (heads.count == 0) continue;
            const int64_t bytes = geometry.tile_bytes(row, device);
            check(bytes % kPageBytes == 0 && bytes >= heads.count * geometry.stored().bytes(),
                  "whole pages");
            AlignedBuffer tile(bytes), tail(heads.count * geometry.tail().bytes());
            pack_tail(geometry, heads, {{tokens.data()}, 0}, 0, 5, tail.data());
            pack_tile(geometry, heads, tail.data(),
                      {{tokens.data() + 5 * run.heads() * run.width() * 2}, 5}, 0, bytes,
                      tile.data());
            unpack_tile(geometry, heads, tile.data(), 0, kTokens, {{out.data()}, 0});
          }
          check(n_heads == run.heads(), "each head on one device");
          for (int64_t i = 0; i < row_elements; ++i) {
            const float got = value_of(out, DType::kBF16, i),
                        want = value_of(tokens, DType::kBF16, i);
            check(is_quantised(stored) ? std::abs(got - want) < 0.02f : got == want, "round trip");
          }
          std::ranges::fill(out, std::byte{0});
        }
      }
    }
  }
}

// Keys by channel that are made of a stored tile of K and V are those that are made of the tokens.
void test_derived_tiles() {
  for (const int64_t width : {1, 5, 64, 130}) {
    for (const int64_t tile_tokens : {16, 64, 256}) {
      for (const DType stored :
           {DType::kBF16, DType::kF16, DType::kF32, DType::kInt8, DType::kInt4}) {
        const CacheShape shape{2, 512, 3, width, DType::kBF16, stored, 0, true};
        const auto runs = geometries_of(shape.format(), 2, tile_tokens, 1 << 20);
        check(runs.size() == 2 && runs[1].tile_tokens() == tile_tokens, "two runs of like tiles");
        const Values tokens =
            random_values(keys_and_values(3, 3 * width, stored), DType::kBF16, tile_tokens);
        for (int64_t row = 0; row < 2; ++row) {
          for (int64_t device = 0; device < 2; ++device) {
            const HeadSet heads = runs[0].heads(row, device);
            const auto size = [&](size_t run) { return runs[run].tile_bytes(row, device); };
            AlignedBuffer kv(size(0)), derived(size(1)), keys(size(1));
            pack_tile(runs[0], heads, nullptr, {{tokens[0].data(), tokens[1].data()}, 0}, 0,
                      size(0), kv.data());
            std::fill(derived.data(), derived.data() + size(1), std::byte{0xee});
            derive_tile(runs[0], runs[1], row, device, kv.data(), derived.data());
            pack_tile(runs[1], heads, nullptr, {{tokens[0].data()}, 0}, 0, size(1), keys.data());
            for (int64_t i = 0; i < heads.count; ++i) {
              const std::byte* got = derived.data() + i * runs[1].stored().bytes();
              const std::byte* want = keys.data() + i * runs[1].stored().bytes();
              const PlaneTile& plane = runs[1].stored().planes()[0];
              check(std::equal(got, got + 4 * plane.channel_words() * tile_tokens, want), "words");
              check(!is_quantised(stored) || std::equal(got + plane.scales_offset,
                                                        got + plane.scales_offset + 4 * plane.width,
                                                        want + plane.scales_offset),
                    "scales");
            }
            const int64_t end = heads.count * runs[1].stored().bytes();
            check(std::all_of(derived.data() + end, derived.data() + size(1),
                              [](std::byte b) { return b == std::byte{0}; }),
                  "padding");
          }
        }
      }
    }
  }
  CacheFormat format = CacheShape{2, 512, 3, 64, DType::kBF16, DType::kBF16, 0, true}.format();
  format.runs[1].tile_tokens = 128;
  check_throws(ErrorKind::kInvalidArgument, [&] { geometries_of(format, 1, 64, 1 << 20); });
}

// Runs add up: the room of each, and the tails of those that have tokens of their own.
void test_plans() {
  const HostBudget budget = split_host_memory(64 << 20, 2, 2 << 20);
  const auto needs_of = [&](std::vector<PageRun> runs) {
    return plan_caches({4, 4096, DType::kBF16, std::move(runs)}, 3, 2, budget, budget.cache_bytes,
                       64);
  };
  const PageRun kv = keys_and_values(8, 128, DType::kBF16);
  const PageRun channels = keys_by_channel(8, 128, DType::kBF16, 1024);
  const CacheNeeds plain = needs_of({kv}), both = needs_of({kv, channels});
  constexpr int64_t kPlane =
      3 * 4 * 4096 * 4 * 128 * 2;  // of a device, which has 4 heads of each row
  check(plain.device_bytes == std::vector<int64_t>{2 * kPlane, 2 * kPlane}, "K and V");
  check(both.device_bytes == std::vector<int64_t>{3 * kPlane, 3 * kPlane}, "and K once more");
  check(both.tail_bytes == plain.tail_bytes, "from the same tails");
  check(plain.tail_bytes == 3 * 4 * 64 * 8 * 128 * 2 * 2, "a tile of every row and layer");
  check(plain.fits_host && both.fits_host == (4 * 1024 * 128 * 2 <= budget.slot_bytes),
        "a tile by channel has to fit a staging buffer, too");

  const CacheNeeds latents = needs_of({latent(576, DType::kInt8)});
  constexpr int64_t kTile = (64 * 576 + 64 * 4 + 4095) / 4096 * 4096;  // codes, a scale a token
  check(latents.device_bytes == std::vector<int64_t>{3 * 2 * 64 * kTile, 3 * 2 * 64 * kTile},
        "two of the four rows' latents on each device");
  check(latents.tail_bytes == 3 * 4 * 64 * 576 * 2, "as appended");

  PageRun unequal = kv;
  unequal.plane[1].width = 64;
  check_throws(ErrorKind::kInvalidArgument, [&] { needs_of({unequal}); });
}

// Prefix files that were written by earlier builds have these.
void test_fingerprints() {
  const auto of = [](int64_t heads, int64_t dim, DType dtype, DType stored, int64_t tile_tokens) {
    return layout_fingerprint(
        TileGeometry({3, 300, heads, dim, dtype, stored}, 1, tile_tokens, 1 << 20));
  };
  check(of(3, 64, DType::kF32, DType::kF32, 16) == 1765879752u, "f32");
  check(of(2, 24, DType::kBF16, DType::kInt4, 64) == 2711226345u, "bf16 as int4");
  check(of(1, 80, DType::kF16, DType::kInt8, 32) == 2100260404u, "f16 as int8");

  const auto of_run = [](const PageRun& run) {
    return layout_fingerprint(TileGeometry({1, 256, DType::kBF16, {run}}, run, 1, 256, 1 << 20));
  };
  PageRun keys = keys_by_channel(1, 64, DType::kBF16, 256);
  const uint32_t by_channel = of_run(keys);
  keys.plane[0].order = Order::kByBlock;
  check(of_run(keys) != by_channel, "another order, another fingerprint");
}

}  // namespace
}  // namespace nspjax::testing

int main() {
  using namespace nspjax::testing;
  test_float_tiles();
  test_codes();
  test_not_finite();
  test_channels_of_a_page();
  test_rows_on_devices();
  test_derived_tiles();
  test_plans();
  test_fingerprints();
}
