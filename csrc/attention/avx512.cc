// The vector kernel with AVX-512 (F, BW, VL, DQ).
#include <immintrin.h>

#include "attention/simd_attend.h"

namespace nspjax {
namespace {

struct Avx512 {
  using Vector = __m512;
  static constexpr int kWidth = 16;
  static constexpr int kAccumulators = 16;  // of 32 registers

  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector set(float x) { return _mm512_set1_ps(x); }
  static Vector load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, Vector x) { _mm512_storeu_ps(p, x); }
  static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  static Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
  static Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  static Vector divide(Vector a, Vector b) { return _mm512_div_ps(a, b); }
  static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
  static Vector max(Vector a, Vector b) { return _mm512_max_ps(a, b); }
  static Vector round(Vector x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Vector absolute(Vector x) { return _mm512_abs_ps(x); }
  static Vector with_sign_of(Vector x, Vector sign) {
    return _mm512_or_ps(x, _mm512_and_ps(sign, _mm512_set1_ps(-0.0f)));
  }
  static Vector times_power_of_two(Vector x, Vector n) { return _mm512_scalef_ps(x, n); }
  static Vector zero_where_less(Vector x, Vector a, Vector b) {
    return _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), zero());
  }
  // Lanes [from, to) of x, `other` elsewhere.
  static Vector only(Vector x, int from, int to, float other) {
    const auto keep = static_cast<__mmask16>(lanes_below(to) & ~lanes_below(from));
    return _mm512_mask_mov_ps(set(other), keep, x);
  }
  static __mmask16 lanes_below(int n) {
    return static_cast<__mmask16>(n <= 0 ? 0u : n >= 16 ? 0xffffu : (1u << n) - 1u);
  }
  static float lowest(Vector x) { return _mm512_cvtss_f32(x); }
  static float max_of(Vector x) { return _mm512_reduce_max_ps(x); }
  static float sum_of(Vector x) { return _mm512_reduce_add_ps(x); }

  // Lane i of the result: the sum of x[i]'s lanes, in one order for all i.
  static Vector sum_each(const Vector* x) {
    Vector quarter[4];
    for (int i = 0; i < 4; ++i) quarter[i] = sum_four(x + 4 * i);
    const Vector a = sum_halves(quarter[0], quarter[1]);
    const Vector b = sum_halves(quarter[2], quarter[3]);
    return add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  }

 private:
  // In each 128-bit lane: the sums of that lane of x[0], x[1], x[2], x[3].
  static Vector sum_four(const Vector* x) {
    const Vector a = add(_mm512_unpacklo_ps(x[0], x[1]), _mm512_unpackhi_ps(x[0], x[1]));
    const Vector b = add(_mm512_unpacklo_ps(x[2], x[3]), _mm512_unpackhi_ps(x[2], x[3]));
    const __m512d c = _mm512_castps_pd(a), d = _mm512_castps_pd(b);
    return add(_mm512_castpd_ps(_mm512_unpacklo_pd(c, d)),
               _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)));
  }
  static Vector sum_halves(Vector a, Vector b) {
    return add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  }
};

struct LoadF32 {
  using Element = float;
  static __m512 all(const float* p) { return _mm512_loadu_ps(p); }
  static __m512 some(const float* p, int n) {
    return _mm512_maskz_loadu_ps(Avx512::lanes_below(n), p);
  }
};

struct LoadBF16 {
  using Element = uint16_t;
  static __m512 widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  static __m512 all(const uint16_t* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static __m512 some(const uint16_t* p, int n) {
    return widen(_mm256_maskz_loadu_epi16(Avx512::lanes_below(n), p));
  }
};

struct LoadF16 {
  using Element = uint16_t;
  static __m512 all(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static __m512 some(const uint16_t* p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(Avx512::lanes_below(n), p));
  }
};

}  // namespace

KernelSet avx512_kernels() {
  return {"avx512", SimdAttention<Avx512, LoadF32>::attend_tile,
          SimdAttention<Avx512, LoadBF16>::attend_tile,
          SimdAttention<Avx512, LoadF16>::attend_tile};
}

}  // namespace nspjax
