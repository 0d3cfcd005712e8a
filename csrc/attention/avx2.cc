// The vector kernel with AVX2, FMA and F16C.
#include <immintrin.h>

#include "attention/simd_attend.h"

namespace nspjax {
namespace {

struct Avx2 {
  using Vector = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kAccumulators = 8;  // of 16 registers

  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector set(float x) { return _mm256_set1_ps(x); }
  static Vector load(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, Vector x) { _mm256_storeu_ps(p, x); }
  static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  static Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
  static Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
  static Vector divide(Vector a, Vector b) { return _mm256_div_ps(a, b); }
  static Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
  static Vector max(Vector a, Vector b) { return _mm256_max_ps(a, b); }
  static Vector round(Vector x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Vector absolute(Vector x) { return _mm256_andnot_ps(set(-0.0f), x); }
  static Vector with_sign_of(Vector x, Vector sign) {
    return _mm256_or_ps(x, _mm256_and_ps(sign, set(-0.0f)));
  }
  // n is a whole number >= -126
  static Vector times_power_of_two(Vector x, Vector n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return multiply(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }
  static Vector zero_where_less(Vector x, Vector a, Vector b) {
    return _mm256_andnot_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ), x);
  }
  // Lanes [from, to) of x, `other` elsewhere.
  static Vector only(Vector x, int from, int to, float other) {
    return _mm256_blendv_ps(set(other), x, _mm256_andnot_ps(lanes_below(from), lanes_below(to)));
  }
  static Vector lanes_below(int n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane));
  }
  static float lowest(Vector x) { return _mm256_cvtss_f32(x); }
  static float max_of(Vector x) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
  }
  static float sum_of(Vector x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }

  // Lane i of the result: the sum of x[i]'s lanes, in one order for all i.
  static Vector sum_each(const Vector* x) {
    const Vector a = sum_four(x), b = sum_four(x + 4);
    return add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  }

 private:
  // In each 128-bit lane: the sums of that lane of x[0], x[1], x[2], x[3].
  static Vector sum_four(const Vector* x) {
    const Vector a = add(_mm256_unpacklo_ps(x[0], x[1]), _mm256_unpackhi_ps(x[0], x[1]));
    const Vector b = add(_mm256_unpacklo_ps(x[2], x[3]), _mm256_unpackhi_ps(x[2], x[3]));
    const __m256d c = _mm256_castps_pd(a), d = _mm256_castps_pd(b);
    return add(_mm256_castpd_ps(_mm256_unpacklo_pd(c, d)),
               _mm256_castpd_ps(_mm256_unpackhi_pd(c, d)));
  }
};

// The first n < 8 of a 16-bit array, without reading beyond them.
__m128i load_16_bit(const uint16_t* p, int n) {
  alignas(16) uint16_t buffer[8] = {};
  for (int i = 0; i < n; ++i) buffer[i] = p[i];
  return _mm_load_si128(reinterpret_cast<const __m128i*>(buffer));
}

struct LoadF32 {
  using Element = float;
  static __m256 all(const float* p) { return _mm256_loadu_ps(p); }
  static __m256 some(const float* p, int n) {
    return _mm256_maskload_ps(p, _mm256_castps_si256(Avx2::lanes_below(n)));
  }
};

struct LoadBF16 {
  using Element = uint16_t;
  static __m256 widen(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  static __m256 all(const uint16_t* p) {
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static __m256 some(const uint16_t* p, int n) { return widen(load_16_bit(p, n)); }
};

struct LoadF16 {
  using Element = uint16_t;
  static __m256 all(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static __m256 some(const uint16_t* p, int n) { return _mm256_cvtph_ps(load_16_bit(p, n)); }
};

}  // namespace

KernelSet avx2_kernels() {
  return {"avx2", SimdAttention<Avx2, LoadF32>::attend_tile,
          SimdAttention<Avx2, LoadBF16>::attend_tile, SimdAttention<Avx2, LoadF16>::attend_tile};
}

}  // namespace nspjax
