// Tokens into float tiles and out again.
//
// Most tokens come in bulk, at prefill: four at a time, K's words are transposed 4 x 4, V's 16-bit
// elements interleaved. One token at a time, or an odd head_dim, takes the plain way.
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

// Addresses in a float tile of elements of `Element`.
template <typename Element>
class FloatTile {
 public:
  static constexpr int64_t kPerWord = 4 / int64_t{sizeof(Element)};

  explicit FloatTile(const HeadTile& tile)
      : dim_(tile.head_dim()),
        words_(tile.channel_words()),
        lanes_(tile.lanes()),
        v_offset_(tile.v_offset()) {}

  int64_t dim() const { return dim_; }
  int64_t words() const { return words_; }
  bool whole_words() const { return dim_ % kPerWord == 0; }
  int64_t lanes() const { return lanes_; }
  int64_t word_stride() const { return 4 * lanes_; }  // from a channel word to the next, in bytes
  // The first channel word of a token.
  int64_t k(int64_t token) const { return (token / lanes_ * words_ * lanes_ + token % lanes_) * 4; }
  // The first channel of a token; the next is 4 bytes on.
  int64_t v(int64_t token) const {
    return v_offset_ + token / kPerWord * dim_ * 4 + token % kPerWord * int64_t{sizeof(Element)};
  }

 private:
  int64_t dim_, words_, lanes_, v_offset_;
};

template <typename Element>
void pack_k_token(const FloatTile<Element>& tile, const std::byte* row, std::byte* to) {
  const int64_t whole = tile.dim() / FloatTile<Element>::kPerWord;
  for (int64_t w = 0; w < whole; ++w)
    store(to + w * tile.word_stride(), load<uint32_t>(row + 4 * w));
  if (whole < tile.words()) {
    store(to + whole * tile.word_stride(), uint32_t{load<Element>(row + 4 * whole)});
  }
}

template <typename Element>
void unpack_k_token(const FloatTile<Element>& tile, const std::byte* from, std::byte* row) {
  const int64_t whole = tile.dim() / FloatTile<Element>::kPerWord;
  for (int64_t w = 0; w < whole; ++w) {
    store(row + 4 * w, load<uint32_t>(from + w * tile.word_stride()));
  }
  if (whole < tile.words()) {
    store(row + 4 * whole, load<Element>(from + whole * tile.word_stride()));
  }
}

// Whether the four tokens from `token` lie side by side in K.
template <typename Element>
bool four_lanes(const FloatTile<Element>& tile, int64_t token, int64_t end) {
  return tile.lanes() % 4 == 0 && token % 4 == 0 && token + 4 <= end && tile.whole_words();
}

template <typename Element>
void pack_k(const FloatTile<Element>& tile, const HeadRows& rows, int64_t begin, int64_t end,
            std::byte* to) {
  for (int64_t t = begin; t < end;) {
    const std::byte* row = rows.k + (t - begin) * rows.stride_bytes;
    std::byte* words = to + tile.k(t);
    if (!four_lanes(tile, t, end)) {
      pack_k_token(tile, row, words);
      ++t;
      continue;
    }
    int64_t w = 0;
    for (; w + 4 <= tile.words(); w += 4) {
      Vec4 x[4];
      for (int i = 0; i < 4; ++i) x[i] = load<Vec4>(row + i * rows.stride_bytes + 4 * w);
      transpose(x);
      for (int i = 0; i < 4; ++i) store(words + (w + i) * tile.word_stride(), x[i]);
    }
    for (; w < tile.words(); ++w) {
      for (int i = 0; i < 4; ++i) {
        store(words + w * tile.word_stride() + 4 * i,
              load<uint32_t>(row + i * rows.stride_bytes + 4 * w));
      }
    }
    t += 4;
  }
}

template <typename Element>
void unpack_k(const FloatTile<Element>& tile, const std::byte* from, int64_t begin, int64_t end,
              const MutableHeadRows& rows) {
  for (int64_t t = begin; t < end;) {
    std::byte* row = rows.k + (t - begin) * rows.stride_bytes;
    const std::byte* words = from + tile.k(t);
    if (!four_lanes(tile, t, end)) {
      unpack_k_token(tile, words, row);
      ++t;
      continue;
    }
    int64_t w = 0;
    for (; w + 4 <= tile.words(); w += 4) {
      Vec4 x[4];
      for (int i = 0; i < 4; ++i) x[i] = load<Vec4>(words + (w + i) * tile.word_stride());
      transpose(x);
      for (int i = 0; i < 4; ++i) store(row + i * rows.stride_bytes + 4 * w, x[i]);
    }
    for (; w < tile.words(); ++w) {
      for (int i = 0; i < 4; ++i) {
        store(row + i * rows.stride_bytes + 4 * w,
              load<uint32_t>(words + w * tile.word_stride() + 4 * i));
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
void pack_v(const FloatTile<Element>& tile, const HeadRows& rows, int64_t begin, int64_t end,
            std::byte* to) {
  for (int64_t t = begin; t < end; ++t) {
    const std::byte* row = rows.v + (t - begin) * rows.stride_bytes;
    std::byte* words = to + tile.v(t);
    if constexpr (sizeof(Element) == 4) {
      std::memcpy(words, row, static_cast<size_t>(4 * tile.dim()));
    } else if (t % 2 == 0 && t + 1 < end) {
      interleave(row, row + rows.stride_bytes, tile.dim(), words);
      ++t;
    } else {
      for (int64_t c = 0; c < tile.dim(); ++c) store(words + 4 * c, load<Element>(row + 2 * c));
    }
  }
}

template <typename Element>
void unpack_v(const FloatTile<Element>& tile, const std::byte* from, int64_t begin, int64_t end,
              const MutableHeadRows& rows) {
  for (int64_t t = begin; t < end; ++t) {
    std::byte* row = rows.v + (t - begin) * rows.stride_bytes;
    const std::byte* words = from + tile.v(t);
    for (int64_t c = 0; c < tile.dim(); ++c) {
      store(row + c * int64_t{sizeof(Element)}, load<Element>(words + 4 * c));
    }
  }
}

template <typename Element>
void copy_tokens(const FloatTile<Element>& tile, const std::byte* from, int64_t n, std::byte* to) {
  const int64_t lanes = tile.lanes(), whole = n / lanes * lanes, rest = n - whole;
  std::memcpy(to, from, static_cast<size_t>(tile.k(whole)));
  for (int64_t w = 0; rest && w < tile.words(); ++w) {
    const int64_t at = tile.k(whole) + w * tile.word_stride();
    std::memcpy(to + at, from + at, static_cast<size_t>(4 * rest));
  }
  constexpr int64_t kPerWord = FloatTile<Element>::kPerWord;
  const int64_t v_begin = tile.v(0), v_end = tile.v(n / kPerWord * kPerWord);
  std::memcpy(to + v_begin, from + v_begin, static_cast<size_t>(v_end - v_begin));
  for (int64_t c = 0; n % kPerWord && c < tile.dim(); ++c) {
    store(to + v_end + 4 * c, load<Element>(from + v_end + 4 * c));
  }
}

// fn(FloatTile) for the tile's element size.
template <class Fn>
void with_float_tile(const HeadTile& tile, const Fn& fn) {
  if (!row_of(tile.type()).appended) {
    fail(ErrorKind::kInvalidArgument, "tokens of an ", dtype_name(tile.type()),
         " tile cannot be moved one by one: convert_head takes the whole tile");
  }
  if (element_bits(tile.type()) == 32) {
    fn(FloatTile<uint32_t>(tile));
  } else {
    fn(FloatTile<uint16_t>(tile));
  }
}

}  // namespace

void pack_head(const HeadTile& tile, const HeadRows& rows, int64_t begin, int64_t end,
               std::byte* to) {
  with_float_tile(tile, [&](const auto& addresses) {
    pack_k(addresses, rows, begin, end, to);
    pack_v(addresses, rows, begin, end, to);
  });
}

void unpack_head(const HeadTile& tile, const std::byte* from, int64_t begin, int64_t end,
                 const MutableHeadRows& rows) {
  with_float_tile(tile, [&](const auto& addresses) {
    unpack_k(addresses, from, begin, end, rows);
    unpack_v(addresses, from, begin, end, rows);
  });
}

void copy_head_tokens(const HeadTile& tile, const std::byte* from, int64_t n, std::byte* to) {
  with_float_tile(tile, [&](const auto& addresses) { copy_tokens(addresses, from, n, to); });
}

}  // namespace nspjax
