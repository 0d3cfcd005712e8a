// Tokens into float tiles and out again.
//
// Most tokens come in bulk, at prefill: four at a time, the words of a plane by block or by channel
// are transposed 4 x 4, the 16-bit elements of one by token interleaved. One token at a time, or an
// odd width, takes the plain way.
#include <cstring>

#include "base/error.h"
#include "format/head_tile.h"

namespace nspjax {
namespace {

using Vec4 = uint32_t __attribute__((vector_size(16)));

template <typename T>
T load(const std::byte* p) {
  T x;
  std::memcpy(&x, p, sizeof(T));
  return x;
}

template <typename T>
void store(std::byte* p, const T& x) {
  std::memcpy(p, &x, sizeof(T));
}

void transpose(Vec4* x) {
  const Vec4 a = __builtin_shufflevector(x[0], x[1], 0, 4, 1, 5);
  const Vec4 b = __builtin_shufflevector(x[2], x[3], 0, 4, 1, 5);
  const Vec4 c = __builtin_shufflevector(x[0], x[1], 2, 6, 3, 7);
  const Vec4 d = __builtin_shufflevector(x[2], x[3], 2, 6, 3, 7);
  x[0] = __builtin_shufflevector(a, b, 0, 1, 4, 5);
  x[1] = __builtin_shufflevector(a, b, 2, 3, 6, 7);
  x[2] = __builtin_shufflevector(c, d, 0, 1, 4, 5);
  x[3] = __builtin_shufflevector(c, d, 2, 3, 6, 7);
}

// Addresses in a plane of a float tile, of elements of `Element`.
template <typename Element>
class FloatPlane {
 public:
  static constexpr int64_t kPerWord = 4 / int64_t{sizeof(Element)};

  explicit FloatPlane(const PlaneTile& plane)
      : dim_(plane.width),
        words_(plane.channel_words()),
        lanes_(plane.lanes()),
        offset_(plane.offset) {}

  int64_t dim() const { return dim_; }
  int64_t words() const { return words_; }
  bool whole_words() const { return dim_ % kPerWord == 0; }
  int64_t lanes() const { return lanes_; }
  int64_t word_stride() const { return 4 * lanes_; }  // from a channel word to the next, in bytes
  // By block, by channel: the first channel word of a token.
  int64_t lane(int64_t token) const {
    return offset_ + (token / lanes_ * words_ * lanes_ + token % lanes_) * 4;
  }
  // By token: the first channel of a token; the next is 4 bytes on.
  int64_t channel(int64_t token) const {
    return offset_ + token / kPerWord * dim_ * 4 + token % kPerWord * int64_t{sizeof(Element)};
  }

 private:
  int64_t dim_, words_, lanes_, offset_;
};

// Rows of one plane.
template <typename Byte>
struct Rows {
  Byte* first;
  int64_t stride_bytes;
};

template <typename Element>
void pack_lane(const FloatPlane<Element>& plane, const std::byte* row, std::byte* to) {
  const int64_t whole = plane.dim() / FloatPlane<Element>::kPerWord;
  for (int64_t w = 0; w < whole; ++w)
    store(to + w * plane.word_stride(), load<uint32_t>(row + 4 * w));
  if (whole < plane.words()) {
    store(to + whole * plane.word_stride(), uint32_t{load<Element>(row + 4 * whole)});
  }
}

template <typename Element>
void unpack_lane(const FloatPlane<Element>& plane, const std::byte* from, std::byte* row) {
  const int64_t whole = plane.dim() / FloatPlane<Element>::kPerWord;
  for (int64_t w = 0; w < whole; ++w) {
    store(row + 4 * w, load<uint32_t>(from + w * plane.word_stride()));
  }
  if (whole < plane.words()) {
    store(row + 4 * whole, load<Element>(from + whole * plane.word_stride()));
  }
}

// Whether the four tokens from `token` lie side by side.
template <typename Element>
bool four_lanes(const FloatPlane<Element>& plane, int64_t token, int64_t end) {
  return plane.lanes() % 4 == 0 && token % 4 == 0 && token + 4 <= end && plane.whole_words();
}

template <typename Element>
void pack_lanes(const FloatPlane<Element>& plane, const Rows<const std::byte>& rows, int64_t begin,
                int64_t end, std::byte* to) {
  for (int64_t t = begin; t < end;) {
    const std::byte* row = rows.first + (t - begin) * rows.stride_bytes;
    std::byte* words = to + plane.lane(t);
    if (!four_lanes(plane, t, end)) {
      pack_lane(plane, row, words);
      ++t;
      continue;
    }
    int64_t w = 0;
    for (; w + 4 <= plane.words(); w += 4) {
      Vec4 x[4];
      for (int i = 0; i < 4; ++i) x[i] = load<Vec4>(row + i * rows.stride_bytes + 4 * w);
      transpose(x);
      for (int i = 0; i < 4; ++i) store(words + (w + i) * plane.word_stride(), x[i]);
    }
    for (; w < plane.words(); ++w) {
      for (int i = 0; i < 4; ++i) {
        store(words + w * plane.word_stride() + 4 * i,
              load<uint32_t>(row + i * rows.stride_bytes + 4 * w));
      }
    }
    t += 4;
  }
}

template <typename Element>
void unpack_lanes(const FloatPlane<Element>& plane, const std::byte* from, int64_t begin,
                  int64_t end, const Rows<std::byte>& rows) {
  for (int64_t t = begin; t < end;) {
    std::byte* row = rows.first + (t - begin) * rows.stride_bytes;
    const std::byte* words = from + plane.lane(t);
    if (!four_lanes(plane, t, end)) {
      unpack_lane(plane, words, row);
      ++t;
      continue;
    }
    int64_t w = 0;
    for (; w + 4 <= plane.words(); w += 4) {
      Vec4 x[4];
      for (int i = 0; i < 4; ++i) x[i] = load<Vec4>(words + (w + i) * plane.word_stride());
      transpose(x);
      for (int i = 0; i < 4; ++i) store(row + i * rows.stride_bytes + 4 * w, x[i]);
    }
    for (; w < plane.words(); ++w) {
      for (int i = 0; i < 4; ++i) {
        store(row + i * rows.stride_bytes + 4 * w,
              load<uint32_t>(words + w * plane.word_stride() + 4 * i));
      }
    }
    t += 4;
  }
}

// Two 16-bit rows into words of pairs; loops that every compiler turns into unpacks.
void interleave(const std::byte* low, const std::byte* high, int64_t n, std::byte* to) {
  for (int64_t c = 0; c < n; ++c) {
    const uint32_t word = load<uint16_t>(low + 2 * c) | uint32_t{load<uint16_t>(high + 2 * c)}
                                                            << 16;
    store(to + 4 * c, word);
  }
}

template <typename Element>
void pack_channels(const FloatPlane<Element>& plane, const Rows<const std::byte>& rows,
                   int64_t begin, int64_t end, std::byte* to) {
  for (int64_t t = begin; t < end; ++t) {
    const std::byte* row = rows.first + (t - begin) * rows.stride_bytes;
    std::byte* words = to + plane.channel(t);
    if constexpr (sizeof(Element) == 4) {
      std::memcpy(words, row, static_cast<size_t>(4 * plane.dim()));
    } else if (t % 2 == 0 && t + 1 < end) {
      interleave(row, row + rows.stride_bytes, plane.dim(), words);
      ++t;
    } else {
      for (int64_t c = 0; c < plane.dim(); ++c) store(words + 4 * c, load<Element>(row + 2 * c));
    }
  }
}

template <typename Element>
void unpack_channels(const FloatPlane<Element>& plane, const std::byte* from, int64_t begin,
                     int64_t end, const Rows<std::byte>& rows) {
  for (int64_t t = begin; t < end; ++t) {
    std::byte* row = rows.first + (t - begin) * rows.stride_bytes;
    const std::byte* words = from + plane.channel(t);
    for (int64_t c = 0; c < plane.dim(); ++c) {
      store(row + c * int64_t{sizeof(Element)}, load<Element>(words + 4 * c));
    }
  }
}

// The first n tokens.
template <typename Element>
void copy_lanes(const FloatPlane<Element>& plane, const std::byte* from, int64_t n, std::byte* to) {
  const int64_t lanes = plane.lanes(), whole = n / lanes * lanes, rest = n - whole;
  const int64_t begin = plane.lane(0), end = plane.lane(whole);
  std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin));
  for (int64_t w = 0; rest && w < plane.words(); ++w) {
    const int64_t at = end + w * plane.word_stride();
    std::memcpy(to + at, from + at, static_cast<size_t>(4 * rest));
  }
}

template <typename Element>
void copy_channels(const FloatPlane<Element>& plane, const std::byte* from, int64_t n,
                   std::byte* to) {
  constexpr int64_t kPerWord = FloatPlane<Element>::kPerWord;
  const int64_t begin = plane.channel(0), end = plane.channel(n / kPerWord * kPerWord);
  std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin));
  for (int64_t c = 0; n % kPerWord && c < plane.dim(); ++c) {
    store(to + end + 4 * c, load<Element>(from + end + 4 * c));
  }
}

// fn(FloatPlane, by token, i) for each plane, with the tile's element size.
template <class Fn>
void for_each_plane(const HeadTile& tile, const Fn& fn) {
  if (!row_of(tile.type()).appended) {
    fail(ErrorKind::kInvalidArgument, "tokens of an ", dtype_name(tile.type()),
         " tile cannot be moved one by one: convert_head takes the whole tile");
  }
  size_t i = 0;
  for (const PlaneTile& plane : tile.planes()) {
    if (element_bits(tile.type()) == 32) {
      fn(FloatPlane<uint32_t>(plane), plane.by_token(), i++);
    } else {
      fn(FloatPlane<uint16_t>(plane), plane.by_token(), i++);
    }
  }
}

}  // namespace

void pack_head(const HeadTile& tile, const HeadRows& rows, int64_t begin, int64_t end,
               std::byte* to) {
  for_each_plane(tile, [&](const auto& plane, bool by_token, size_t i) {
    const Rows<const std::byte> from{rows.plane[i], rows.stride_bytes};
    by_token ? pack_channels(plane, from, begin, end, to) : pack_lanes(plane, from, begin, end, to);
  });
}

void unpack_head(const HeadTile& tile, const std::byte* from, int64_t begin, int64_t end,
                 const MutableHeadRows& rows) {
  for_each_plane(tile, [&](const auto& plane, bool by_token, size_t i) {
    const Rows<std::byte> to{rows.plane[i], rows.stride_bytes};
    by_token ? unpack_channels(plane, from, begin, end, to)
             : unpack_lanes(plane, from, begin, end, to);
  });
}

void copy_head_tokens(const HeadTile& tile, const std::byte* from, int64_t n, std::byte* to) {
  for_each_plane(tile, [&](const auto& plane, bool by_token, size_t) {
    by_token ? copy_channels(plane, from, n, to) : copy_lanes(plane, from, n, to);
  });
}

}  // namespace nspjax
