// The vector kernels with AVX-512's dot products of pairs: VDPBF16PS for bf16's scores, VPDPWSSD
// for codes.
//
// VDPBF16PS takes bf16 queries. A query that is one, as usual, is one term; any other is the sum of
// three, exactly. In a call with both the first kind gets two terms of 0, which add nothing.
// Several terms make NaN of an infinite element of K, where one product may give an infinity: such
// scores are computed again. V stays with float32 weights: to round them to bf16 would cost
// accuracy, to split them saves no time.
#include "attention/avx512_simd.h"
#include "attention/vector_kernels.h"

namespace nspjax {
namespace {

class BF16PairScores {
  using Words = __m512i;

  template <int kTerms>
  struct Dot {
    using Sum = __m512;
    using Query = int32_t;
    static constexpr int kQueryElements = 1;
    int term_stride;

    static Sum zero() { return _mm512_setzero_ps(); }
    static Words split(Words words) { return words; }
    Sum add(Sum sum, Words words, const int32_t* q) const {
      for (int i = 0; i < kTerms; ++i) {
        const Words pair = _mm512_set1_epi32(q[i * term_stride]);
        sum = _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(words),
                               reinterpret_cast<__m512bh>(pair));
      }
      return sum;
    }
  };

  // A prepared query: whether it needs all terms, then three times its channels in pairs.
  static constexpr int kHeader = 16;

 public:
  static int prepared_words(const TileView& tile) { return kHeader + tile.padded_dim / 2 * 3; }

  static void prepare(const TileAttention& a, const TileView& tile, int query, int32_t* into) {
    const float* q = a.queries + int64_t{query} * tile.padded_dim;
    __mmask16 inexact = 0;
    for (int d = 0; d < tile.padded_dim; d += 16) {
      const __m512 rest = store_term(_mm512_loadu_ps(q + d), term(tile, into, 0) + d / 2);
      const __mmask16 some = _mm512_cmp_ps_mask(rest, _mm512_setzero_ps(), _CMP_NEQ_UQ);
      inexact = static_cast<__mmask16>(inexact | some);
      store_term(store_term(rest, term(tile, into, 1) + d / 2), term(tile, into, 2) + d / 2);
    }
    into[0] = inexact;
  }

  static int32_t* term(const TileView& tile, int32_t* prepared, int i) {
    return prepared + kHeader + i * (tile.padded_dim / 2);
  }

  // The nearest bf16; returns what is left of x.
  static __m512 store_term(__m512 x, int32_t* to) {
    const __m256i term = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), term);
    const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(term), 16);
    return _mm512_sub_ps(x, _mm512_castsi512_ps(wide));
  }

  template <int QB>
  static void run(const TileAttention& a, const TileView& tile, int query, const int32_t* prepared,
                  const Block& block, float* weights) {
    const int stride = prepared_words(tile);
    int32_t inexact = 0;
    for (int i = 0; i < QB; ++i) inexact |= prepared[i * stride];
    const auto store = [weights](int i, int t, __m512 sum) {
      _mm512_storeu_ps(weights + i * kBlockTokens + t, sum);
    };
    const int term_stride = tile.padded_dim / 2;
    if (inexact) {
      BlockScores<Avx512, Dot<3>, QB>::run(tile, block, {term_stride}, prepared + kHeader, stride,
                                           0, tile.channel_words, store);
      for (int i = 0; i < QB; ++i) {
        replace_nan(a, tile, query + i, prepared + i * stride, block, weights + i * kBlockTokens);
      }
    } else {
      BlockScores<Avx512, Dot<1>, QB>::run(tile, block, {term_stride}, prepared + kHeader, stride,
                                           0, tile.channel_words, store);
    }
  }

 private:
  // Scores that are NaN by what they are without the others' terms: in one term, or in float32.
  [[gnu::noinline]] static void replace_nan(const TileAttention& a, const TileView& tile, int query,
                                            const int32_t* prepared, const Block& block,
                                            float* weights) {
    const int begin = block.begin / 16 * 16;
    __mmask16 some = 0;
    for (int t = begin; t < block.end; t += 16) some |= nan_lanes(weights + t);
    if (!some) return;
    alignas(64) float again[kBlockTokens];
    if (prepared[0]) {
      FloatScores<Avx512, FloatElements<Avx512, DType::kBF16>>::run<1>(a, tile, query, nullptr,
                                                                       block, again);
    } else {
      BlockScores<Avx512, Dot<1>, 1>::run(
          tile, block, {0}, prepared + kHeader, 0, 0, tile.channel_words,
          [&again](int, int t, __m512 sum) { _mm512_storeu_ps(again + t, sum); });
    }
    for (int t = begin; t < block.end; t += 16) {
      _mm512_mask_storeu_ps(weights + t, nan_lanes(weights + t), _mm512_loadu_ps(again + t));
    }
  }
  static __mmask16 nan_lanes(const float* p) {
    const __m512 x = _mm512_loadu_ps(p);
    return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  }
};

using BF16Values = FloatValues<Avx512, FloatElements<Avx512, DType::kBF16>>;

constexpr KernelSet with_pair_scores() {
  KernelSet kernels = vector_kernels<Avx512>("avx512_bf16");
  kernels.kernels[static_cast<size_t>(DType::kBF16)] =
      VectorKernel<Avx512, BF16PairScores, BF16Values>::all();
  return kernels;
}

}  // namespace

KernelSet avx512_bf16_kernels() {
  static constexpr KernelSet kKernels = with_pair_scores();
  return kKernels;
}

}  // namespace nspjax
