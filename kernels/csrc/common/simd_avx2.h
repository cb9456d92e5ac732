/* Vectors of eight floats. simd_base.h says what each function returns. */
#pragma once

#include <immintrin.h>

#include "kernel.h"

enum { LANES = 8 };
typedef __m256 vec;
typedef __m256 mask;

INLINE vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void vec_store(float *p, vec v) { _mm256_storeu_ps(p, v); }
INLINE __m256i first_lanes(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE vec vec_load_first(const float *p, int64_t count) { return _mm256_maskload_ps(p, first_lanes(count)); }
INLINE void vec_store_first(float *p, int64_t count, vec v) { _mm256_maskstore_ps(p, first_lanes(count), v); }
INLINE vec vec_set(float x) { return _mm256_set1_ps(x); }
INLINE vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); }
INLINE vec vec_abs(vec a) { return _mm256_andnot_ps(vec_set(-0.0f), a); }
INLINE mask vec_greater(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
INLINE int vec_all_below(vec a, vec b) { return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)) == 0xff; }
INLINE vec vec_only(mask where, vec a) { return _mm256_and_ps(where, a); }
INLINE vec vec_add_where(vec a, mask where, vec b) { return a + vec_only(where, b); }
INLINE vec vec_of_mask(mask where) { return where; }
INLINE vec vec_and(vec a, vec b) { return _mm256_and_ps(a, b); }
INLINE vec vec_choose(mask where, vec a, vec b) { return _mm256_blendv_ps(b, a, where); }
INLINE vec vec_multiply_where(vec a, mask where, vec b) { return vec_choose(where, a * b, a); }
INLINE float vec_sum(vec a) {
    const __m128 four = _mm256_castps256_ps128(a) + _mm256_extractf128_ps(a, 1), two = four + _mm_movehl_ps(four, four);
    return _mm_cvtss_f32(two) + _mm_cvtss_f32(_mm_movehdup_ps(two));
}
INLINE float vec_largest(vec a) {
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)),
                 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

INLINE vec vec_shift_in(vec earlier, vec later, const int n) {
    /* The high half of `earlier` and the low half of `later`: alignr shifts within each 128 bits only. */
    const __m256i high = _mm256_castps_si256(later),
                  middle = _mm256_permute2x128_si256(_mm256_castps_si256(earlier), high, 0x21);
    if (n == 1) return _mm256_castsi256_ps(_mm256_alignr_epi8(high, middle, 12));
    if (n == 2) return _mm256_castsi256_ps(_mm256_alignr_epi8(high, middle, 8));
    if (n == 3) return _mm256_castsi256_ps(_mm256_alignr_epi8(high, middle, 4));
    return later;
}
INLINE vec vec_reversed(vec a) { return _mm256_permutevar8x32_ps(a, _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0)); }

INLINE vec vec_load_bfloat16(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16));
}
INLINE vec vec_load_half(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)); }
INLINE void vec_store_bfloat16(uint16_t *p, vec v) {
    const __m256i bits = _mm256_castps_si256(v), high = _mm256_srli_epi32(bits, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i even =
        _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i rounded = _mm256_blendv_epi8(even, quiet, _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
    _mm_storeu_si128((void *)p, _mm256_castsi256_si128(packed));
}
INLINE void vec_store_half(uint16_t *p, vec v) {
    _mm_storeu_si128((void *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

/* 2^(i/8) for i = 0 to 7: one permute of this register is eight table lookups. */
#define TABLE_OF_POWERS                                                                                              \
    _mm256_setr_ps(0x1p0f, 0x1.172b84p0f, 0x1.306fe0p0f, 0x1.4bfdaep0f, 0x1.6a09e6p0f, 0x1.8ace54p0f, 0x1.ae89fap0f, \
                   0x1.d5818ep0f)

/* (2^r - 1) / r for |r| <= 1/16 */
INLINE vec power_slope(vec r) {
    const vec high = vec_fma(vec_fma(vec_set(0x1.3b2ab6p-7f), r, vec_set(0x1.c6bb7ap-5f)), r, vec_set(0x1.ebfbe0p-3f));
    return vec_fma(high, r, vec_set(0x1.62e430p-1f));
}

/* The same table, where entry i has i << 20 subtracted from its bits: power_of_bits adds i << 20 again. */
INLINE __m256i table_for_sum(void) {
    const __m256i places = _mm256_slli_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), 20);
    return _mm256_sub_epi32(_mm256_castps_si256(TABLE_OF_POWERS), places);
}

/* 2^k for -127 <= k < 128, where the low bits of `bits` are the integer 8 k; 0 for k = -127. */
INLINE vec power_of_bits(__m256i bits) {
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_permutevar8x32_epi32(table_for_sum(), bits), _mm256_slli_epi32(bits, 20)));
}

INLINE vec vec_exp2_decay(vec x, mask *slow) {
    /* The unit in the last place of `magic` is 1/8: the sum is rounded to a multiple of 1/8, whose number of eighths is
       in the low bits. */
    const vec magic = vec_set(0x1.8p20f), bounded = _mm256_max_ps(vec_set(-126.0f), x);
    const vec shifted = bounded + magic, r = bounded - (shifted - magic);
    const __m256i index = _mm256_castps_si256(shifted);
    /* The integer part is added to the exponent bits; the table has the powers of the eighths. */
    const __m256i exponent = _mm256_slli_epi32(_mm256_srai_epi32(index, 3), 23);
    const vec power = _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(_mm256_permutevar8x32_ps(TABLE_OF_POWERS, index)), exponent));
    *slow = vec_greater(x, vec_set(-0.5f));
    return vec_fma(power_slope(r), r * power, power - vec_only(*slow, vec_set(1.0f)));
}

INLINE vec vec_power(vec delta, vec rate, const int far, vec *rest) {
    if (far) delta = _mm256_max_ps(vec_set(-126.0f), delta * rate), rate = vec_set(1.0f);
    const vec magic = vec_set(0x1.8p20f), shifted = vec_fma(delta, rate, magic);
    const vec r = vec_fma(delta, rate, magic - shifted);
    *rest = power_slope(r) * r;
    return power_of_bits(_mm256_castps_si256(shifted));
}

INLINE vec vec_exp(vec x) {
    /* At the bounds the result is already 0 or infinity. min and max return their second operand for NaN. */
    const vec bounded = _mm256_min_ps(vec_set(89.0f), _mm256_max_ps(vec_set(-105.0f), x));
    const vec magic = vec_set(0x1.8p20f), log2e = vec_set(0x1.715476p+0f);
    const vec shifted = vec_fma(bounded, log2e, magic), k = shifted - magic;
    const vec r = vec_fma(bounded, vec_set(0x1.4ae0c0p-26f), vec_fma(bounded, log2e, -k));
    const __m256i index = _mm256_castps_si256(shifted);
    const vec part = _mm256_permutevar8x32_ps(TABLE_OF_POWERS, index);
    /* The exponent in two halves, so that each half is in the range of exponents. */
    const __m256i power = _mm256_srai_epi32(_mm256_sub_epi32(index, _mm256_castps_si256(magic)), 3);
    const __m256i half = _mm256_srai_epi32(power, 1), bias = _mm256_set1_epi32(127);
    const vec first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    const vec second =
        _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(power, half), bias), 23));
    return vec_fma(power_slope(r), r * part, part) * first * second;
}

INLINE vec vec_exp_minus_abs(vec x) {
    const vec magic = vec_set(0x1.8p20f), log2e = vec_set(0x1.715476p+0f);
    const vec bounded = _mm256_max_ps(vec_set(-0x1.601e68p+6f), _mm256_or_ps(x, vec_set(-0.0f))); /* NaN stays NaN */
    const vec shifted = vec_fma(bounded, log2e, magic), r = vec_fma(bounded, log2e, magic - shifted);
    const vec power = power_of_bits(_mm256_castps_si256(shifted));
    return vec_fma(power_slope(r), r * power, power);
}

INLINE void vec_transpose(vec rows[LANES]) {
    vec a[8], b[8];
    UNROLL
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
        a[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    UNROLL
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
    UNROLL
    for (int j = 0; j < 4; j++) {
        rows[j] = _mm256_permute2f128_ps(b[j], b[j + 4], 0x20);
        rows[j + 4] = _mm256_permute2f128_ps(b[j], b[j + 4], 0x31);
    }
}
