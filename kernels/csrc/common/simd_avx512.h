/* Vectors of sixteen floats. simd_base.h says what each function returns. */
#pragma once

#include <immintrin.h>

#include "kernel.h"

enum { LANES = 16 };
typedef __m512 vec;
typedef __mmask16 mask;

INLINE vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void vec_store(float *p, vec v) { _mm512_storeu_ps(p, v); }
INLINE vec vec_load_first(const float *p, int64_t count) {
    return _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), p);
}
INLINE void vec_store_first(float *p, int64_t count, vec v) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << count) - 1), v);
}
INLINE vec vec_set(float x) { return _mm512_set1_ps(x); }
INLINE vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }
INLINE vec vec_abs(vec a) { return _mm512_abs_ps(a); }
INLINE mask vec_greater(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
INLINE int vec_all_below(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ) == 0xffff; }
INLINE vec vec_add_where(vec a, mask where, vec b) { return _mm512_mask_add_ps(a, where, a, b); }
INLINE vec vec_multiply_where(vec a, mask where, vec b) { return _mm512_mask_mul_ps(a, where, a, b); }
INLINE vec vec_only(mask where, vec a) { return _mm512_maskz_mov_ps(where, a); }
INLINE vec vec_of_mask(mask where) { return (vec)_mm512_movm_epi32(where); }
INLINE vec vec_and(vec a, vec b) { return _mm512_and_ps(a, b); }
INLINE vec vec_choose(mask where, vec a, vec b) { return _mm512_mask_mov_ps(b, where, a); }
INLINE float vec_sum(vec a) { return _mm512_reduce_add_ps(a); }
INLINE float vec_largest(vec a) { return _mm512_reduce_max_ps(a); }

INLINE vec vec_shift_in(vec earlier, vec later, const int n) {
    const __m512i low = _mm512_castps_si512(earlier), high = _mm512_castps_si512(later);
    if (n == 1) return _mm512_castsi512_ps(_mm512_alignr_epi32(high, low, 15));
    if (n == 2) return _mm512_castsi512_ps(_mm512_alignr_epi32(high, low, 14));
    if (n == 3) return _mm512_castsi512_ps(_mm512_alignr_epi32(high, low, 13));
    return later;
}
INLINE vec vec_reversed(vec a) {
    return _mm512_permutexvar_ps(_mm512_setr_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), a);
}

INLINE vec vec_load_bfloat16(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
}
INLINE vec vec_load_half(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
INLINE void vec_store_bfloat16(uint16_t *p, vec v) {
    const __m512i bits = _mm512_castps_si512(v), high = _mm512_srli_epi32(bits, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i even =
        _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
    const __m512i rounded = _mm512_mask_mov_epi32(even, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), quiet);
    _mm256_storeu_si256((void *)p, _mm512_cvtepi32_epi16(rounded));
}
INLINE void vec_store_half(uint16_t *p, vec v) {
    _mm256_storeu_si256((void *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

/* 2^(i/16) for i = 0 to 15: one permute of this register is sixteen table lookups. */
#define TABLE_OF_POWERS                                                                                              \
    _mm512_setr_ps(0x1p0f, 0x1.0b5586p0f, 0x1.172b84p0f, 0x1.2387a6p0f, 0x1.306fe0p0f, 0x1.3dea64p0f, 0x1.4bfdaep0f, \
                   0x1.5ab07ep0f, 0x1.6a09e6p0f, 0x1.7a1148p0f, 0x1.8ace54p0f, 0x1.9c4918p0f, 0x1.ae89fap0f,         \
                   0x1.c199bep0f, 0x1.d5818ep0f, 0x1.ea4afap0f)

/* x = k + r, where k is a multiple of 1/16: returns 2^k and stores r. The unit in the last place of `magic` is 1/16. */
INLINE vec split_power(vec x, vec *r) {
    const vec magic = vec_set(0x1.8p19f), shifted = x + magic, k = shifted - magic;
    *r = x - k;
    return _mm512_scalef_ps(_mm512_permutexvar_ps(_mm512_castps_si512(shifted), TABLE_OF_POWERS), k);
}

/* (2^r - 1) / r for |r| <= 1/32 */
INLINE vec power_slope(vec r) {
    return vec_fma(vec_fma(vec_set(0x1.c6b08ep-5f), r, vec_set(0x1.ebff92p-3f)), r, vec_set(0x1.62e430p-1f));
}

INLINE vec vec_exp2_decay(vec x, mask *slow) {
    vec r;
    const vec power = split_power(x, &r);
    *slow = vec_greater(x, vec_set(-0.5f));
    const vec base = _mm512_mask_sub_ps(power, *slow, power, vec_set(1.0f));
    return vec_fma(power_slope(r), r * power, base);
}

/* The same table, where entry i has i << 19 subtracted from its bits: vec_power adds i << 19 again. */
INLINE __m512i table_for_sum(void) {
    const __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_sub_epi32(_mm512_castps_si512(TABLE_OF_POWERS), _mm512_slli_epi32(places, 19));
}

INLINE vec vec_power(vec delta, vec rate, const int far, vec *rest) {
    vec r, power;
    if (far) power = split_power(delta * rate, &r);
    else {
        /* The integer part is added to the exponent bits. */
        const vec magic = vec_set(0x1.8p19f), shifted = vec_fma(delta, rate, magic);
        const __m512i bits = _mm512_castps_si512(shifted), exponent = _mm512_slli_epi32(bits, 19);
        r = vec_fma(delta, rate, magic - shifted);
        power = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_permutexvar_epi32(bits, table_for_sum()), exponent));
    }
    *rest = power_slope(r) * r;
    return power;
}

INLINE vec vec_exp(vec x) {
    /* At the bounds the result is already 0 or infinity, and no step overflows to NaN. min and max return their second
       operand for NaN. */
    const vec bounded = _mm512_min_ps(vec_set(200.0f), _mm512_max_ps(vec_set(-200.0f), x));
    const vec magic = vec_set(0x1.8p19f), log2e = vec_set(0x1.715476p+0f);
    const vec shifted = vec_fma(bounded, log2e, magic), k = shifted - magic;
    const vec r = vec_fma(bounded, vec_set(0x1.4ae0c0p-26f), vec_fma(bounded, log2e, -k));
    const vec part = _mm512_permutexvar_ps(_mm512_castps_si512(shifted), TABLE_OF_POWERS);
    return _mm512_scalef_ps(vec_fma(power_slope(r), r * part, part), k);
}

INLINE vec vec_exp_minus_abs(vec x) {
    const vec magic = vec_set(0x1.8p19f), log2e = vec_set(0x1.715476p+0f);
    const vec bounded = _mm512_max_ps(vec_set(-104.0f), _mm512_or_ps(x, vec_set(-0.0f))); /* NaN stays NaN */
    const vec shifted = vec_fma(bounded, log2e, magic), k = shifted - magic, r = vec_fma(bounded, log2e, -k);
    const vec part = _mm512_permutexvar_ps(_mm512_castps_si512(shifted), TABLE_OF_POWERS);
    return _mm512_scalef_ps(vec_fma(power_slope(r), r * part, part), k);
}

INLINE void vec_transpose(vec rows[LANES]) {
    /* Four rounds; each exchanges halves between rows at distances of 1, 2, 4 and 8. */
    vec a[16], b[16];
    UNROLL
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        a[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    UNROLL
    for (int i = 0; i < 16; i += 4) {
        b[i] = _mm512_shuffle_ps(a[i], a[i + 2], 0x44);
        b[i + 1] = _mm512_shuffle_ps(a[i], a[i + 2], 0xee);
        b[i + 2] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0x44);
        b[i + 3] = _mm512_shuffle_ps(a[i + 1], a[i + 3], 0xee);
    }
    UNROLL
    for (int i = 0; i < 16; i += 8) UNROLL
    for (int j = 0; j < 4; j++) {
        a[i + j] = _mm512_shuffle_f32x4(b[i + j], b[i + j + 4], 0x88);
        a[i + j + 4] = _mm512_shuffle_f32x4(b[i + j], b[i + j + 4], 0xdd);
    }
    UNROLL
    for (int j = 0; j < 8; j++) {
        rows[j] = _mm512_shuffle_f32x4(a[j], a[j + 8], 0x88);
        rows[j + 8] = _mm512_shuffle_f32x4(a[j], a[j + 8], 0xdd);
    }
}
