// Vectors of AVX-512 (F, BW, VL, DQ), for each file that is compiled with it or more.
#pragma once

#include <immintrin.h>

#include "attention/tile_view.h"

namespace nspjax {
namespace {

struct Avx512 {
  using Vector = __m512;
  using Words = __m512i;
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
  // b where one of them is NaN
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

  static Words zero_words() { return _mm512_setzero_si512(); }
  static Words set_words(int32_t x) { return _mm512_set1_epi32(x); }
  static Words load_words(const uint32_t* p) { return _mm512_loadu_si512(p); }
  // The first n, without touching what lies beyond them; 0 for the others.
  static Words load_words(const uint32_t* p, int n) {
    return _mm512_maskz_loadu_epi32(lanes_below(n), p);
  }
  static Words masked(Words x, uint32_t bits) {
    return _mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(bits)));
  }
  // Lanes [from, to) of x, 0 elsewhere.
  static Words only(Words x, int from, int to) {
    return _mm512_maskz_mov_epi32(static_cast<__mmask16>(lanes_below(to) & ~lanes_below(from)), x);
  }
  static Vector as_floats(Words x) { return _mm512_castsi512_ps(x); }
  static Vector lower_bf16(Words x) { return as_floats(_mm512_slli_epi32(x, 16)); }
  static Vector upper_bf16(Words x) { return as_floats(masked(x, 0xffff0000u)); }
  static Vector lower_f16(Words x) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(x)); }
  static Vector upper_f16(Words x) { return lower_f16(_mm512_srli_epi32(x, 16)); }
  static Vector to_float(Words x) { return _mm512_cvtepi32_ps(x); }
  // Whole numbers within 16 bits.
  static void store_16(int16_t* p, Vector x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x)));
  }
  template <int kBits>
  static Words left_16(Words x) {
    return kBits == 0 ? x : _mm512_slli_epi16(x, kBits);
  }
  template <int kBits>
  static Words right_16(Words x) {
    return _mm512_srai_epi16(x, kBits);
  }
  // sum + the products of the halves of a's and b's lanes
  static Words add_pair_products(Words sum, Words a, Words b) {
#ifdef __AVX512VNNI__
    return _mm512_dpwssd_epi32(sum, a, b);
#else
    return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
  }
  template <int QB>
  static void prefetch(const uint32_t* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p) + kPrefetchBytes<QB>, _MM_HINT_T1);
  }
};

}  // namespace
}  // namespace nspjax
