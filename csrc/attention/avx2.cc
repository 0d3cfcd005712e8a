// The vector kernels with AVX2, FMA and F16C.
#include <immintrin.h>

#include "attention/vector_kernels.h"

namespace nspjax {
namespace {

struct Avx2 {
  using Vector = __m256;
  using Words = __m256i;
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
  // b where one of them is NaN
  static Vector max(Vector a, Vector b) { return _mm256_max_ps(a, b); }
  static Vector round(Vector x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Vector absolute(Vector x) { return _mm256_andnot_ps(set(-0.0f), x); }
  static Vector with_sign_of(Vector x, Vector sign) {
    return _mm256_or_ps(x, _mm256_and_ps(sign, set(-0.0f)));
  }
  // n is a whole number >= -126, or x is NaN
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

  static Words zero_words() { return _mm256_setzero_si256(); }
  static Words set_words(int32_t x) { return _mm256_set1_epi32(x); }
  static Words load_words(const uint32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  // The first n, without touching what lies beyond them; 0 for the others.
  static Words load_words(const uint32_t* p, int n) {
    return _mm256_maskload_epi32(reinterpret_cast<const int*>(p),
                                 _mm256_castps_si256(lanes_below(n)));
  }
  static Words masked(Words x, uint32_t bits) {
    return _mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(bits)));
  }
  // Lanes [from, to) of x, 0 elsewhere.
  static Words only(Words x, int from, int to) {
    const Vector keep = _mm256_andnot_ps(lanes_below(from), lanes_below(to));
    return _mm256_and_si256(x, _mm256_castps_si256(keep));
  }
  static Vector as_floats(Words x) { return _mm256_castsi256_ps(x); }
  static Vector lower_bf16(Words x) { return as_floats(_mm256_slli_epi32(x, 16)); }
  static Vector upper_bf16(Words x) { return as_floats(masked(x, 0xffff0000u)); }
  static Vector lower_f16(Words x) {
    const Words low = masked(x, 0xffffu);
    const Words packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
  }
  static Vector upper_f16(Words x) { return lower_f16(_mm256_srli_epi32(x, 16)); }
  static Vector to_float(Words x) { return _mm256_cvtepi32_ps(x); }
  // Whole numbers within 16 bits.
  static void store_16(int16_t* p, Vector x) {
    const Words whole = _mm256_cvtps_epi32(x);
    const Words packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(whole, whole), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
  template <int kBits>
  static Words left_16(Words x) {
    return kBits == 0 ? x : _mm256_slli_epi16(x, kBits);
  }
  template <int kBits>
  static Words right_16(Words x) {
    return _mm256_srai_epi16(x, kBits);
  }
  // sum + the products of the halves of a's and b's lanes
  static Words add_pair_products(Words sum, Words a, Words b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
  }
  template <int QB>
  static void prefetch(const uint32_t* p) {
    _mm_prefetch(reinterpret_cast<const char*>(p) + kPrefetchBytes<QB>, _MM_HINT_T1);
  }
};

}  // namespace

KernelSet avx2_kernels() {
  static constexpr KernelSet kKernels = vector_kernels<Avx2>("avx2");
  return kKernels;
}

}  // namespace nspjax
