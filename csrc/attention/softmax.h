// Scores of a block of tokens to softmax weights, with the statistics that go along; for the files
// of an instruction set, see vector_kernel.h.
#pragma once

#include "attention/tile_view.h"

namespace nspjax {

template <class Simd>
class BlockSoftmax {
  using Vector = typename Simd::Vector;
  static constexpr int kWidth = Simd::kWidth;

 public:
  // weights [QB, kBlockTokens]: q . k of the block's tokens, in whole vectors that cover
  // [block.begin, block.end), on return e^(score - max) of the tokens that a query sees and 0 for
  // the others. Updates max and sum; correction[i] is by what the earlier acc is to be multiplied.
  // All queries' maxima come first: they wait for one another's latencies, not for their own.
  template <int QB>
  static void update(const TileAttention& a, int query, const Block& block, const Seen* seen,
                     float* weights, float* correction) {
    float new_max[QB];
    for (int i = 0; i < QB; ++i) {
      if (seen[i].none()) continue;
      const float most = mask(a, block, seen[i], weights + i * kBlockTokens);
      new_max[i] = most > a.max[query + i] ? most : a.max[query + i];
    }
    for (int i = 0; i < QB; ++i) {
      float* to = weights + i * kBlockTokens;
      correction[i] =
          seen[i].none() ? clear(block, to) : exponentiate(a, query + i, block, new_max[i], to);
    }
  }

 private:
  // q . k -> scores, -inf for what the query does not see; returns the largest number of them.
  static float mask(const TileAttention& a, const Block& block, const Seen& seen, float* weights) {
    Vector most = Simd::set(kLowestMax);
    for (int t = block.begin / kWidth * kWidth; t < block.end; t += kWidth) {
      Vector score = Simd::multiply(Simd::load(weights + t), Simd::set(a.scale));
      if (a.softcap > 0.0f) score = capped(score, a.softcap);
      score = Simd::only(score, seen.begin - t, seen.end - t, -__builtin_inff());
      Simd::store(weights + t, score);
      most = Simd::max(score, most);
    }
    return Simd::max_of(most);
  }

  static float clear(const Block& block, float* weights) {
    for (int t = block.begin / kWidth * kWidth; t < block.end; t += kWidth) {
      Simd::store(weights + t, Simd::zero());
    }
    return 1.0f;
  }

  static float exponentiate(const TileAttention& a, int query, const Block& block, float new_max,
                            float* weights) {
    Vector sum = Simd::zero();
    for (int t = block.begin / kWidth * kWidth; t < block.end; t += kWidth) {
      const Vector weight = exp(Simd::subtract(Simd::load(weights + t), Simd::set(new_max)));
      Simd::store(weights + t, weight);
      sum = Simd::add(sum, weight);
    }
    const float old_max = a.max[query];
    const float correction =
        new_max == old_max ? 1.0f : Simd::lowest(exp(Simd::set(old_max - new_max)));
    a.max[query] = new_max;
    a.sum[query] = a.sum[query] * correction + Simd::sum_of(sum);
    return correction;
  }

  // e^x for x <= 0 or NaN, 0 below the smallest normal number: as 2^(x log2(e)), with Cephes'
  // polynomial of exp2f. There the fraction is exact and the range needs no reduction in two steps;
  // that x log2(e) is rounded costs a weight of e^-20 its last two bits.
  static Vector exp(Vector x) {
    const Vector lowest = Simd::set(-126.0f);
    const Vector y = Simd::multiply(x, Simd::set(1.44269504088896341f));
    const Vector clamped = Simd::max(lowest, y);  // y where that is NaN
    const Vector n = Simd::round(clamped);
    const Vector r = Simd::subtract(clamped, n);
    Vector p = Simd::set(1.535336188319500e-4f);
    p = Simd::multiply_add(p, r, Simd::set(1.339887440266574e-3f));
    p = Simd::multiply_add(p, r, Simd::set(9.618437357674640e-3f));
    p = Simd::multiply_add(p, r, Simd::set(5.550332471162809e-2f));
    p = Simd::multiply_add(p, r, Simd::set(2.402264791363012e-1f));
    p = Simd::multiply_add(p, r, Simd::set(6.931472028550421e-1f));
    p = Simd::multiply_add(p, r, Simd::set(1.0f));
    return Simd::zero_where_less(Simd::times_power_of_two(p, n), y, lowest);
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
