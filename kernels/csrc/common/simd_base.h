/* Vectors of four floats, in the compilers' vector extension: NEON on aarch64, SSE2 on x86-64, any other elsewhere.

   For all simd_*.h: NaN stays NaN in every function. vec_fma rounds once, except in this file on a processor without
   that instruction. The error of vec_exp and vec_exp2_decay is at most 2 units in the last place.

   vec_power returns a power p and a rest q near 0 with p (1 + q) = 2^x and x = delta rate, for -126 < x < 127, or with
   `far` for any x < 127. For 2^x near 1, p is 1, and the small change q h has its own digits. */
#pragma once

#if defined __aarch64__
#include <arm_neon.h>
#endif

#include "kernel.h"

/* A vector of lanes of a and b by number, where the lanes of b follow those of a. gcc has clang's builtin since 12. */
#if defined __clang__ || __GNUC__ >= 12
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (mask){__VA_ARGS__})
#endif

enum { LANES = 4 };
typedef float vec __attribute__((vector_size(16)));
typedef int32_t mask __attribute__((vector_size(16)));
typedef uint16_t vec_halves __attribute__((vector_size(8)));
typedef uint32_t vec_bits __attribute__((vector_size(16)));

INLINE vec vec_load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void vec_store(float *p, vec v) { memcpy(p, &v, sizeof v); }
/* The first `count` < LANES lanes; the others are zero. Memory after them is not read. */
INLINE vec vec_load_first(const float *p, int64_t count) {
    vec v = {0};
    for (int64_t i = 0; i < count; i++) v[i] = p[i];
    return v;
}
/* Stores the first `count` < LANES lanes. */
INLINE void vec_store_first(float *p, int64_t count, vec v) {
    for (int64_t i = 0; i < count; i++) p[i] = v[i];
}
INLINE vec vec_set(float x) { return (vec){x, x, x, x}; }

/* a b + c */
INLINE vec vec_fma(vec a, vec b, vec c) {
#if defined __aarch64__
    return vfmaq_f32(c, a, b);
#else
    return a * b + c;
#endif
}

INLINE vec vec_only(mask where, vec a) { return (vec)(where & (mask)a); }
INLINE vec vec_choose(mask where, vec a, vec b) { return (vec)((where & (mask)a) | (~where & (mask)b)); }
/* The larger of both; b where a or b is NaN. */
INLINE vec vec_max(vec a, vec b) { return vec_choose(a > b, a, b); }
INLINE vec vec_abs(vec a) { return (vec)((mask)a & 0x7fffffff); }
INLINE mask vec_greater(vec a, vec b) { return a > b; }
INLINE int vec_all_below(vec a, vec b) {
    const mask below = a < b;
    return (below[0] & below[1] & below[2] & below[3]) != 0;
}
/* a, plus b in the lanes of the mask */
INLINE vec vec_add_where(vec a, mask where, vec b) { return a + vec_only(where, b); }
/* a, times b in the lanes of the mask */
INLINE vec vec_multiply_where(vec a, mask where, vec b) { return vec_choose(where, a * b, a); }
/* For vec_and: all bits are set in the lanes of the mask, and no bits in other lanes. */
INLINE vec vec_of_mask(mask where) { return (vec)where; }
INLINE vec vec_and(vec a, vec b) { return (vec)((mask)a & (mask)b); }
INLINE float vec_sum(vec a) { return (a[0] + a[2]) + (a[1] + a[3]); }
/* The largest lane, of lanes that are not NaN. */
INLINE float vec_largest(vec a) {
    const float even = a[0] > a[2] ? a[0] : a[2], odd = a[1] > a[3] ? a[1] : a[3];
    return even > odd ? even : odd;
}

/* The last n <= 3 lanes of `earlier`, then the first LANES - n lanes of `later`. */
INLINE vec vec_shift_in(vec earlier, vec later, const int n) {
    if (n == 1) return SHUFFLE(earlier, later, 3, 4, 5, 6);
    if (n == 2) return SHUFFLE(earlier, later, 2, 3, 4, 5);
    if (n == 3) return SHUFFLE(earlier, later, 1, 2, 3, 4);
    return later;
}
INLINE vec vec_reversed(vec a) { return SHUFFLE(a, a, 3, 2, 1, 0); }

INLINE vec vec_load_bfloat16(const uint16_t *p) {
    vec_halves halves;
    memcpy(&halves, p, sizeof halves);
    return (vec)(__builtin_convertvector(halves, vec_bits) << 16);
}
#if defined __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
/* The same bits as below: BFCVTN rounds to even, and keeps the upper bits of a NaN. */
INLINE void vec_store_bfloat16(uint16_t *p, vec v) { vst1_bf16((bfloat16_t *)p, vcvt_bf16_f32(v)); }
#else
INLINE void vec_store_bfloat16(uint16_t *p, vec v) {
    const vec_bits bits = (vec_bits)v, high = bits >> 16, even = (bits + 0x7fff + (high & 1)) >> 16;
    const vec_bits rounded = (vec_bits)vec_choose(v == v, (vec)even, (vec)(high | 0x40));
    const vec_halves halves = __builtin_convertvector(rounded, vec_halves);
    memcpy(p, &halves, sizeof halves);
}
#endif
#if defined __aarch64__
INLINE vec vec_load_half(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
INLINE void vec_store_half(uint16_t *p, vec v) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
#else
INLINE vec vec_load_half(const uint16_t *p) {
    return (vec){float_of_half(p[0]), float_of_half(p[1]), float_of_half(p[2]), float_of_half(p[3])};
}
INLINE void vec_store_half(uint16_t *p, vec v) {
    for (int i = 0; i < LANES; i++) p[i] = half_of_float(v[i]);
}
#endif

/* (2^r - 1) / r for |r| <= 1/2 */
INLINE vec power_slope(vec r) {
    /* Three pairs of terms: FMLA overwrites its addend, so each coefficient that is added is copied first. */
    const vec square = r * r, low = vec_fma(vec_set(0x1.ebfbdep-3f), r, vec_set(0x1.62e430p-1f));
    const vec middle = vec_fma(vec_set(0x1.3b2ba0p-7f), r, vec_set(0x1.c6af6ep-5f));
    const vec high = vec_fma(vec_set(0x1.4308fap-13f), r, vec_set(0x1.5f07b4p-10f));
    return vec_fma(vec_fma(high, square, middle), square, low);
}

#if defined __ARM_FEATURE_SVE
#if defined __clang__
#define FEXPA(out, in) __asm__("fexpa %z0.s, %z1.s" : "=w"(out) : "w"(in))
#else
/* gcc has no name of an operand's SVE register: the instruction is encoded from the number in the name, such as v5. */
__asm__(".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
        ".set number_of_v\\n, \\n\n"
        ".endr");
#define FEXPA(out, in) __asm__(".inst 0x04a0b800 | number_of_%1 << 5 | number_of_%0" : "=w"(out) : "w"(in))
#endif

/* x = delta rate; 2^x is the power returned times 2^r, with |r| <= 1/128; -127 < x < 127. FEXPA reads the power from a
   table: bits 5 to 0 of its operand are the number of 64ths, bits 13 to 6 the exponent with its bias. It fills SVE's
   registers, which begin with a vec, whatever their length. */
INLINE vec split_power(vec delta, vec rate, vec *r) {
    /* The unit in the last place of `magic` is 1/64; the bias of 127 is in `magic`. */
    const vec magic = vec_set(0x1.803f8p17f), shifted = vec_fma(delta, rate, magic);
    vec power;
    FEXPA(power, shifted);
    *r = vec_fma(delta, rate, magic - shifted);
    return power;
}
/* (2^r - 1) / r for |r| <= 1/128 */
INLINE vec step_slope(vec r) { return vec_fma(vec_set(0x1.ebfbe0p-3f), r, vec_set(0x1.62e430p-1f)); }
#else
/* x = delta rate; 2^x is the power returned times 2^r, with |r| <= 1/2; -127 < x < 127. */
INLINE vec split_power(vec delta, vec rate, vec *r) {
    /* The unit in the last place of `magic` is 1: the sum is rounded to an integer, which is in the low bits. The bias
       of the exponent, 127, is in `magic`. */
    const vec magic = vec_set(0x1.8000fep23f), shifted = vec_fma(delta, rate, magic);
    *r = vec_fma(delta, rate, magic - shifted);
    return (vec)((mask)shifted << 23);
}
INLINE vec step_slope(vec r) { return power_slope(r); }
#endif

/* For x < 127: 2^x, or 2^x - 1 in the lanes with x > -1/2, which are stored in `slow`: for 2^x near 1 the difference
   has more correct digits. */
INLINE vec vec_exp2_decay(vec x, mask *slow) {
    vec r;
    const vec power = split_power(vec_choose(x < vec_set(-126.0f), vec_set(-126.0f), x), vec_set(1.0f), &r);
    *slow = vec_greater(x, vec_set(-0.5f));
    return vec_fma(step_slope(r), r * power, power - vec_only(*slow, vec_set(1.0f)));
}

INLINE vec vec_power(vec delta, vec rate, const int far, vec *rest) {
    if (far) {
        const vec x = delta * rate;
        delta = vec_choose(x < vec_set(-126.0f), vec_set(-126.0f), x), rate = vec_set(1.0f);
    }
    vec r;
    const vec power = split_power(delta, rate, &r);
    *rest = step_slope(r) * r;
    return power;
}

/* e^x for any x */
INLINE vec vec_exp(vec x) {
    /* At the bounds the result is already 0 or infinity. */
    const vec above = vec_choose(x < vec_set(-105.0f), vec_set(-105.0f), x);
    const vec bounded = vec_choose(above > vec_set(89.0f), vec_set(89.0f), above);
    const vec magic = vec_set(0x1.8p23f), shifted = vec_fma(bounded, vec_set(0x1.715476p+0f), magic),
              k = shifted - magic;
    /* ln 2 in two parts; the product of k and the first part is exact without a fused multiply-add. */
    const vec rest = vec_fma(k, vec_set(-0x1.7f7d1cp-20f), vec_fma(k, vec_set(-0x1.62e400p-1f), bounded));
    const vec r = rest * vec_set(0x1.715476p+0f);
    /* The exponent in two halves, so that each half is in the range of exponents. */
    const mask power = (mask)shifted - (mask)magic, half = power >> 1;
    return vec_fma(power_slope(r), r, vec_set(1.0f)) * (vec)((half + 127) << 23) * (vec)((power - half + 127) << 23);
}

/* e^-|x|, and 0 where |x| > 88.03, which is 127 ln 2. */
INLINE vec vec_exp_minus_abs(vec x) {
    /* The bias of the exponent, 127, is in `magic`. */
    const vec magic = vec_set(0x1.8000fep23f), log2e = vec_set(0x1.715476p+0f);
    const vec bounded = vec_max(vec_set(-0x1.601e68p+6f), (vec)((mask)x | (mask)vec_set(-0.0f))); /* NaN stays NaN */
    const vec shifted = vec_fma(bounded, log2e, magic), k = shifted - magic;
#if defined __aarch64__
    const vec r = vec_fma(bounded, log2e, -k);
#else
    /* Without a fused multiply-add the product must be exact before the subtraction: ln 2 in two parts. */
    const vec rest = k * vec_set(-0x1.7f7d1cp-20f) + (k * vec_set(-0x1.62e400p-1f) + bounded);
    const vec r = rest * log2e;
#endif
    const vec power = (vec)((mask)shifted << 23);
    return vec_fma(power_slope(r), r * power, power);
}

INLINE void vec_transpose(vec rows[LANES]) {
    const vec a = SHUFFLE(rows[0], rows[1], 0, 4, 1, 5), b = SHUFFLE(rows[2], rows[3], 0, 4, 1, 5);
    const vec c = SHUFFLE(rows[0], rows[1], 2, 6, 3, 7), d = SHUFFLE(rows[2], rows[3], 2, 6, 3, 7);
    rows[0] = SHUFFLE(a, b, 0, 1, 4, 5);
    rows[1] = SHUFFLE(a, b, 2, 3, 6, 7);
    rows[2] = SHUFFLE(c, d, 0, 1, 4, 5);
    rows[3] = SHUFFLE(c, d, 2, 3, 6, 7);
}
