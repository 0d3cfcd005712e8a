// Full tiles from one stored type to another.
//
// Planes of all orders are the same to this file: each is a set of series that share a scale (a
// token's channels in a plane by token, a channel's tokens in the others), P neighbouring series to
// a run of words.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/align.h"
#include "base/error.h"
#include "format/head_tile.h"
#include "format/numbers.h"

namespace nspjax {
namespace {

// A plane of a tile, and its scales.
struct Section {
  DType type;
  bool by_token;  // a series is a token, not a channel
  int64_t n_series;
  int64_t length;  // of a series
  int64_t word_base;
  int64_t group_stride;  // in words: from a group of P series to the next
  int64_t run;           // so many elements of a series lie side by side,
  int64_t run_stride;    // and the next run begins so many words on
  int64_t scale_base;

  int64_t per_word() const { return 32 / element_bits(type); }
  int64_t n_groups() const { return ceil_div(n_series, per_word()); }
};

Section section_of(const PlaneTile& plane) {
  const int64_t width = plane.width, tokens = plane.tile_tokens, lanes = plane.lanes();
  Section section{.type = plane.type,
                  .by_token = plane.by_token(),
                  .n_series = width,
                  .length = tokens,
                  .word_base = plane.offset / 4,
                  .group_stride = lanes,
                  .run = lanes,
                  .run_stride = lanes * plane.channel_words(),
                  .scale_base = plane.scales_offset / 4};
  if (section.by_token) {
    section.n_series = tokens;
    section.length = section.group_stride = section.run = section.run_stride = width;
  }
  return section;
}

uint32_t load_word(const std::byte* data, int64_t index) {
  uint32_t word;
  std::memcpy(&word, data + 4 * index, 4);
  return word;
}

void store_word(std::byte* data, int64_t index, uint32_t word) {
  std::memcpy(data + 4 * index, &word, 4);
}

struct Scale {
  float scale;
  float offset;
};

Scale scale_of(uint32_t word) {
  return {std::bit_cast<float>(word << 16), std::bit_cast<float>(word & 0xffff0000u)};
}

uint32_t word_of(Scale scale) {
  return std::bit_cast<uint32_t>(scale.offset) | std::bit_cast<uint32_t>(scale.scale) >> 16;
}

float rounded_to_bf16(float x) { return bf16_to_f32(f32_to_bf16(x)); }

// The next bf16 not below x >= 0.
float up_to_bf16(float x) {
  return std::bit_cast<float>((std::bit_cast<uint32_t>(x) + 0xffffu) & 0xffff0000u);
}

template <DType kType>
void read_series(const Section& section, const std::byte* data, int64_t series, float* x) {
  const auto as_f32 = [&] {
    if constexpr (is_quantised(kType)) {
      const Scale scale = scale_of(load_word(data, section.scale_base + series));
      return
          [=](uint32_t bits) { return scale.offset + scale.scale * Element<kType>::decode(bits); };
    } else {
      return [](uint32_t bits) { return Element<kType>::decode(bits); };
    }
  }();
  const int64_t per_word = section.per_word();
  const int shift = element_shift(element_bits(kType), series % per_word);
  int64_t word = section.word_base + series / per_word * section.group_stride;
  for (int64_t i = 0; i < section.length; i += section.run, word += section.run_stride) {
    for (int64_t j = 0; j < section.run; ++j) x[i + j] = as_f32(load_word(data, word + j) >> shift);
  }
}

constexpr float kMost = std::numeric_limits<float>::max();

bool is_finite(float x) { return std::abs(x) <= kMost; }

// Of a series' finite elements; least > most if there are none.
struct Extent {
  float least = kMost;
  float most = -kMost;
  bool all_finite = true;
};

Extent extent_of(const float* x, int64_t n) {
  Extent extent;
  for (int64_t i = 0; i < n; ++i) {
    const bool finite = is_finite(x[i]);
    extent.least = finite && x[i] < extent.least ? x[i] : extent.least;
    extent.most = finite && x[i] > extent.most ? x[i] : extent.most;
    extent.all_finite &= finite;
  }
  return extent;
}

// The scale with which codes from -2^(bits - 1) to 2^(bits - 1) - 1 reach everything between.
Scale choose_scale(float least, float most, int bits) {
  if (least > most) return {0.0f, 0.0f};
  const auto below = static_cast<float>(1 << (bits - 1)), above = below - 1.0f;
  const float at = below / (below + above);
  // an offset beyond the largest bf16 would be infinite
  const float offset =
      std::clamp(rounded_to_bf16(least + at * most - at * least), -0x1.fep127f, 0x1.fep127f);
  // half of each, since the whole may be infinite
  const float reach =
      std::max((offset * 0.5f - least * 0.5f) / below, (most * 0.5f - offset * 0.5f) / above);
  return {up_to_bf16(std::max(0.0f, 2.0f * reach)), offset};
}

// x as elements of the type, in steps of the scale from its offset where it is a code.
template <DType kType>
void encode_series(const float* x, int64_t n, [[maybe_unused]] Scale scale, uint32_t* elements) {
  if constexpr (is_quantised(kType)) {
    const float inverse =
        scale.scale >= std::numeric_limits<float>::min() ? 1.0f / scale.scale : 0.0f;
    for (int64_t i = 0; i < n; ++i) {
      elements[i] = Element<kType>::encode((x[i] - scale.offset) * inverse);
    }
  } else {
    for (int64_t i = 0; i < n; ++i) elements[i] = Element<kType>::encode(x[i]);
  }
}

// The series' scale, and in `odd` [tile_tokens] which tokens have something that is not finite.
// Planes by channel come first, so that a token of one by token knows.
Scale scale_series(const Section& section, int64_t series, const float* x, std::vector<bool>& odd) {
  const Extent extent = extent_of(x, section.length);
  if (section.by_token) {
    const auto token = static_cast<size_t>(series);
    odd[token] = odd[token] || !extent.all_finite;
    if (odd[token]) return {std::nanf(""), std::nanf("")};
  } else if (!extent.all_finite) {
    for (size_t i = 0; i < odd.size(); ++i) odd[i] = odd[i] || !is_finite(x[i]);
  }
  const auto bits = static_cast<int>(element_bits(section.type));
  return choose_scale(extent.least, extent.most, bits);
}

void convert_section(const Section& from, const std::byte* data, const Section& to, std::byte* into,
                     std::vector<bool>& odd) {
  const auto bits = static_cast<int>(element_bits(to.type));
  const auto length = static_cast<size_t>(to.length);
  std::vector<float> x(length);
  std::vector<uint32_t> elements(length), words(length);
  for (int64_t group = 0; group < to.n_groups(); ++group) {
    std::fill(words.begin(), words.end(), 0u);
    for (int64_t e = 0; e < to.per_word(); ++e) {
      const int64_t series = group * to.per_word() + e;
      if (series >= to.n_series) break;
      with_dtype(from.type,
                 [&]<DType kType>() { read_series<kType>(from, data, series, x.data()); });
      Scale scale{};
      if (is_quantised(to.type)) {
        scale = scale_series(to, series, x.data(), odd);
        store_word(into, to.scale_base + series, word_of(scale));
      }
      with_dtype(to.type, [&]<DType kType>() {
        encode_series<kType>(x.data(), to.length, scale, elements.data());
      });
      const int shift = element_shift(bits, e);
      for (size_t i = 0; i < length; ++i) words[i] |= elements[i] << shift;
    }
    int64_t word = to.word_base + group * to.group_stride;
    for (int64_t i = 0; i < to.length; i += to.run, word += to.run_stride) {
      std::memcpy(into + 4 * word, words.data() + i, static_cast<size_t>(4 * to.run));
    }
  }
}

}  // namespace

void convert_head(const HeadTile& from, const std::byte* data, const HeadTile& to,
                  std::byte* into) {
  const std::span<const PlaneTile> planes = from.planes(), targets = to.planes();
  if (from.head_dim() != to.head_dim() || from.tile_tokens() != to.tile_tokens() ||
      planes.size() != targets.size()) {
    fail(ErrorKind::kInvalidArgument, "convert_head from [", from.tile_tokens(), ", ",
         from.head_dim(), "] to [", to.tile_tokens(), ", ", to.head_dim(),
         "]: give tiles of one size");
  }
  if (from.type() == to.type()) {
    std::memcpy(into, data, static_cast<size_t>(to.bytes()));
    return;
  }
  std::vector<bool> odd(static_cast<size_t>(to.tile_tokens()));
  for (const bool by_token : {false, true}) {
    for (size_t i = 0; i < planes.size(); ++i) {
      if (targets[i].by_token() != by_token) continue;
      convert_section(section_of(planes[i]), data, section_of(targets[i]), into, odd);
    }
  }
}

}  // namespace nspjax
