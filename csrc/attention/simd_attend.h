// The vector kernel, once for all instruction sets.
//
// `Simd` has the width and the operations, `Load` turns stored elements into float32 vectors. Both
// are in anonymous namespaces of the file that is compiled for the instruction set, so what is
// instantiated here stays in that file. For the same reason nothing here calls the standard
// library: the linker could keep a copy with instructions that an older CPU has not.
//
// Scores: K is read row by row; kWidth accumulators hold QB queries x kWidth / QB tokens, and one
// transposing reduction turns them into kWidth scores. Whatever QB is, a score is summed in the
// same order. Values: QB queries x DC vectors of acc stay in registers over a block of tokens.
#pragma once

#include "attention/kernel.h"

namespace nspjax {

template <class Simd, class Load>
class SimdAttention {
 public:
  static void attend_tile(const TileAttention& a) {
    alignas(64) float weights[kMostQueries * kBlockTokens] = {};
    for (int block = a.begin / kBlockTokens * kBlockTokens; block < a.end; block += kBlockTokens) {
      const int begin = block < a.begin ? a.begin - block : 0;
      const int end = block + kBlockTokens < a.end ? kBlockTokens : a.end - block;
      int query = 0;
      for (; query + 8 <= a.n_queries; query += 8) attend<8>(a, query, block, begin, end, weights);
      for (; query + 4 <= a.n_queries; query += 4) attend<4>(a, query, block, begin, end, weights);
      for (; query + 2 <= a.n_queries; query += 2) attend<2>(a, query, block, begin, end, weights);
      for (; query < a.n_queries; ++query) attend<1>(a, query, block, begin, end, weights);
    }
  }

 private:
  using Vector = typename Simd::Vector;
  using Element = typename Load::Element;
  static constexpr int kWidth = Simd::kWidth;
  static constexpr int kMostQueries = 8;

  // QB queries over the tokens [begin, end) of the block that begins at tile token `block`.
  template <int QB>
  static void attend(const TileAttention& a, int query, int block, int begin, int end,
                     float* weights) {
    const int32_t position = a.first_token + block;
    bool visible = false;
    for (int i = query; i < query + QB; ++i) {
      visible |= a.first[i] < position + end && a.last[i] > position + begin;
    }
    if (!visible) return;
    scores<QB>(a, query, block, begin, end, weights);
    float correction[QB];
    for (int i = 0; i < QB; ++i) {
      int from = a.first[query + i] - position, to = a.last[query + i] - position;
      from = from < begin ? begin : from;
      to = to > end ? end : to;
      correction[i] = softmax(a, query + i, from, to, weights + i * kBlockTokens);
    }
    values<QB>(a, query, block, begin, end, weights, correction);
  }

  // weights[i, t] = q_i . k_t for t in [begin, end), computed in groups of tokens that start at
  // multiples of the group; the rest of such a group gets copies of the last token's score.
  template <int QB>
  static void scores(const TileAttention& a, int query, int block, int begin, int end,
                     float* weights) {
    constexpr int kTokens = kWidth / QB > 0 ? kWidth / QB : 1;
    constexpr int kQueries = kWidth / kTokens;  // of QB, in one go
    static_assert(kQueries == QB);
    const int whole = a.head_dim / kWidth * kWidth;
    const int rest = a.head_dim - whole;
    const auto* keys = reinterpret_cast<const Element*>(a.data) + int64_t{block} * a.head_dim;
    const float* q = a.queries + int64_t{query} * a.padded_dim;
    for (int t = begin / kTokens * kTokens; t < end; t += kTokens) {
      const Element* k[kTokens];
      for (int j = 0; j < kTokens; ++j) {
        const int token = t + j < begin ? begin : t + j < end ? t + j : end - 1;
        k[j] = keys + int64_t{token} * a.head_dim;
      }
      Vector dot[kWidth];
      for (int i = 0; i < kWidth; ++i) dot[i] = Simd::zero();
      for (int d = 0; d < whole; d += kWidth) {
        Vector loaded[kTokens];
        for (int j = 0; j < kTokens; ++j) loaded[j] = Load::all(k[j] + d);
        multiply_add<QB, kTokens>(dot, loaded, q + d, a.padded_dim);
      }
      if (rest) {
        Vector loaded[kTokens];
        for (int j = 0; j < kTokens; ++j) loaded[j] = Load::some(k[j] + whole, rest);
        multiply_add<QB, kTokens>(dot, loaded, q + whole, a.padded_dim);
      }
      alignas(64) float sums[kWidth];
      Simd::store(sums, Simd::sum_each(dot));
      for (int i = 0; i < QB; ++i) {
        for (int j = 0; j < kTokens; ++j) {
          weights[i * kBlockTokens + t + j] = sums[i * kTokens + j];
        }
      }
    }
  }

  template <int QB, int kTokens>
  static void multiply_add(Vector* dot, const Vector* k, const float* q, int stride) {
    for (int i = 0; i < QB; ++i) {
      const Vector qi = Simd::load(q + i * stride);
      for (int j = 0; j < kTokens; ++j) {
        dot[i * kTokens + j] = Simd::multiply_add(qi, k[j], dot[i * kTokens + j]);
      }
    }
  }

  // Scores -> weights e^(score - max) of the tokens [from, to), 0 for the others of the block;
  // updates max and sum; returns by what the earlier acc is to be multiplied.
  static float softmax(const TileAttention& a, int query, int from, int to, float* weights) {
    Vector most = Simd::set(-__builtin_inff());
    for (int t = 0; t < kBlockTokens; t += kWidth) {
      Vector score = Simd::load(weights + t);
      if (a.softcap > 0.0f) score = capped(score, a.softcap);
      score = Simd::only(score, from - t, to - t, -__builtin_inff());
      Simd::store(weights + t, score);
      most = Simd::max(most, score);
    }
    const float block_max = Simd::max_of(most);
    const float old_max = a.max[query];
    const float new_max = block_max > old_max ? block_max : old_max;
    if (new_max == -__builtin_inff()) {
      for (int t = 0; t < kBlockTokens; ++t) weights[t] = 0.0f;
      return 1.0f;
    }
    Vector sum = Simd::zero();
    for (int t = 0; t < kBlockTokens; t += kWidth) {
      const Vector weight = exp(Simd::subtract(Simd::load(weights + t), Simd::set(new_max)));
      Simd::store(weights + t, weight);
      sum = Simd::add(sum, weight);
    }
    const float correction = Simd::lowest(exp(Simd::set(old_max - new_max)));
    a.max[query] = new_max;
    a.sum[query] = a.sum[query] * correction + Simd::sum_of(sum);
    return correction;
  }

  // acc[i] = acc[i] * correction[i] + sum over t of weights[i, t] v_t
  template <int QB>
  static void values(const TileAttention& a, int query, int block, int begin, int end,
                     const float* weights, const float* correction) {
    constexpr int kVectors = Simd::kAccumulators / QB;  // of acc, in registers
    const int whole = a.head_dim / kWidth * kWidth;
    const int rest = a.head_dim - whole;
    int d = 0;
    for (; d + kVectors * kWidth <= whole; d += kVectors * kWidth) {
      value_columns<QB, kVectors>(a, query, block, begin, end, weights, correction, d,
                                  [](const Element* v) { return Load::all(v); });
    }
    for (; d < whole; d += kWidth) {
      value_columns<QB, 1>(a, query, block, begin, end, weights, correction, d,
                           [](const Element* v) { return Load::all(v); });
    }
    if (rest) {
      value_columns<QB, 1>(a, query, block, begin, end, weights, correction, d,
                           [rest](const Element* v) { return Load::some(v, rest); });
    }
  }

  template <int QB, int DC, class LoadVector>
  static void value_columns(const TileAttention& a, int query, int block, int begin, int end,
                            const float* weights, const float* correction, int d, LoadVector load) {
    float* out = a.acc + int64_t{query} * a.padded_dim + d;
    Vector acc[QB][DC];
    for (int i = 0; i < QB; ++i) {
      const Vector keep = Simd::set(correction[i]);
      for (int j = 0; j < DC; ++j) {
        acc[i][j] = Simd::multiply(Simd::load(out + i * a.padded_dim + j * kWidth), keep);
      }
    }
    const Element* v = reinterpret_cast<const Element*>(a.data + a.tile->v_offset()) + int64_t{block + begin} * a.head_dim + d;
    for (int t = begin; t < end; ++t, v += a.head_dim) {
      Vector loaded[DC];
      for (int j = 0; j < DC; ++j) loaded[j] = load(v + j * kWidth);
      for (int i = 0; i < QB; ++i) {
        const Vector weight = Simd::set(weights[i * kBlockTokens + t]);
        for (int j = 0; j < DC; ++j) {
          acc[i][j] = Simd::multiply_add(weight, loaded[j], acc[i][j]);
        }
      }
    }
    for (int i = 0; i < QB; ++i) {
      for (int j = 0; j < DC; ++j) {
        Simd::store(out + i * a.padded_dim + j * kWidth, acc[i][j]);
      }
    }
  }

  // Cephes' expf, for x <= 0: 2^n times a polynomial; 0 below the smallest normal number.
  static Vector exp(Vector x) {
    const Vector lowest = Simd::set(-87.33654f);
    const Vector clamped = Simd::max(x, lowest);
    const Vector n = Simd::round(Simd::multiply(clamped, Simd::set(1.44269504088896341f)));
    Vector r = Simd::multiply_add(n, Simd::set(-0.693359375f), clamped);
    r = Simd::multiply_add(n, Simd::set(2.12194440e-4f), r);
    Vector p = Simd::set(1.9875691500e-4f);
    p = Simd::multiply_add(p, r, Simd::set(1.3981999507e-3f));
    p = Simd::multiply_add(p, r, Simd::set(8.3334519073e-3f));
    p = Simd::multiply_add(p, r, Simd::set(4.1665795894e-2f));
    p = Simd::multiply_add(p, r, Simd::set(1.6666665459e-1f));
    p = Simd::multiply_add(p, r, Simd::set(5.0000001201e-1f));
    p = Simd::multiply_add(p, Simd::multiply(r, r), Simd::add(r, Simd::set(1.0f)));
    return Simd::zero_where_less(Simd::times_power_of_two(p, n), x, lowest);
  }

  // softcap * tanh(x / softcap), through e^(-2 |x / softcap|)
  static Vector capped(Vector x, float softcap) {
    const Vector y = Simd::multiply(x, Simd::set(1.0f / softcap));
    const Vector e = exp(Simd::multiply(Simd::absolute(y), Simd::set(-2.0f)));
    const Vector one = Simd::set(1.0f);
    const Vector tanh = Simd::divide(Simd::subtract(one, e), Simd::add(one, e));
    return Simd::multiply(Simd::with_sign_of(tanh, y), Simd::set(softcap));
  }
};

}  // namespace nspjax
