/* Integer products of one block: LANES rows of weights with 32 inputs of 8 bits. Lanes are rows.

   A `bytes` register holds four columns of LANES rows, one row in each 32 bits; eight such registers are a block.
   `ints` holds a sum for each row. block_product returns the exact sums for any weights and for inputs of -127 to 127;
   `offset` is -offset_of(bits) times the sum of the inputs. `bits` is 8 or 4, as the block was loaded by block_of_8 or
   block_of_4. */
#pragma once

#if defined __SSE2__
#include <emmintrin.h>
#endif

#include "quantized.h"
#include "simd.h"

enum { PARTS = TILE_ROWS / LANES, PER_BLOCK = BLOCK_COLUMNS / 4 };

/* What some instruction sets add to the weights, so that they have no sign. */
INLINE int32_t offset_of(const int64_t bits) { return bits == 4 ? 8 : 128; }

/* Four inputs as one integer. */
INLINE int32_t four_of(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return four;
}

#if defined __AVX512BW__
typedef __m512i bytes;
typedef __m512i ints;

INLINE vec vec_of_ints(ints v) { return _mm512_cvtepi32_ps(v); }

INLINE void block_of_4(bytes *block, const int8_t *at) {
    const __m512i low = _mm512_set1_epi8(15);
    UNROLL
    for (int j = 0; j < PER_BLOCK / 2; j++) {
        const __m512i both = _mm512_loadu_si512(at + j * 64);
        block[2 * j] = _mm512_and_si512(both, low);
        block[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
}

#if defined __AVX512VNNI__
/* One factor of VPDPBUSD has no sign: the weights, which get an offset that the sum of the inputs takes away again. */
INLINE void block_of_8(bytes *block, const int8_t *at) {
    UNROLL
    for (int j = 0; j < PER_BLOCK; j++)
        block[j] = _mm512_xor_si512(_mm512_loadu_si512(at + j * 64), _mm512_set1_epi8((char)0x80));
}

INLINE ints block_product(const bytes *block, const int8_t *x, int32_t offset, const int bits) {
    (void)bits;
    ints even = _mm512_set1_epi32(offset), odd = _mm512_setzero_si512();
    UNROLL
    for (int j = 0; j < PER_BLOCK; j += 2) {
        even = _mm512_dpbusd_epi32(even, block[j], _mm512_set1_epi32(four_of(x + 4 * j)));
        odd = _mm512_dpbusd_epi32(odd, block[j + 1], _mm512_set1_epi32(four_of(x + 4 * j + 4)));
    }
    return _mm512_add_epi32(even, odd);
}

#else
INLINE void block_of_8(bytes *block, const int8_t *at) {
    UNROLL
    for (int j = 0; j < PER_BLOCK; j++) block[j] = _mm512_loadu_si512(at + j * 64);
}

INLINE ints block_product(const bytes *block, const int8_t *x, int32_t offset, const int bits) {
    const __m512i ones = _mm512_set1_epi16(1);
    ints total = _mm512_setzero_si512();
    __m512i pairs = _mm512_setzero_si512();
    UNROLL
    for (int j = 0; j < PER_BLOCK; j++) {
        __m512i inputs = _mm512_set1_epi32(four_of(x + 4 * j));
        if (bits == 4) { /* at most 2 * 15 * 127 for each pair: eight pairs fit 16 bits */
            pairs = _mm512_add_epi16(pairs, _mm512_maddubs_epi16(block[j], inputs));
        } else { /* |w| times the input with the sign of w, at most 2 * 128 * 127 for a pair: nothing saturates */
            inputs = _mm512_mask_sub_epi8(inputs, _mm512_movepi8_mask(block[j]), _mm512_setzero_si512(), inputs);
            const __m512i sums = _mm512_maddubs_epi16(_mm512_abs_epi8(block[j]), inputs);
            total = _mm512_add_epi32(total, _mm512_madd_epi16(sums, ones));
        }
    }
    return bits == 4 ? _mm512_add_epi32(_mm512_madd_epi16(pairs, ones), _mm512_set1_epi32(offset)) : total;
}
#endif

#elif defined __AVX2__
typedef __m256i bytes;
typedef __m256i ints;

INLINE vec vec_of_ints(ints v) { return _mm256_cvtepi32_ps(v); }

INLINE void block_of_8(bytes *block, const int8_t *at) {
    UNROLL
    for (int j = 0; j < PER_BLOCK; j++) block[j] = _mm256_loadu_si256((const void *)(at + j * 64));
}

INLINE void block_of_4(bytes *block, const int8_t *at) {
    const __m256i low = _mm256_set1_epi8(15);
    UNROLL
    for (int j = 0; j < PER_BLOCK / 2; j++) {
        const __m256i both = _mm256_loadu_si256((const void *)(at + j * 64));
        block[2 * j] = _mm256_and_si256(both, low);
        block[2 * j + 1] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
    }
}

INLINE ints block_product(const bytes *block, const int8_t *x, int32_t offset, const int bits) {
    const __m256i ones = _mm256_set1_epi16(1);
    ints total = _mm256_setzero_si256();
    __m256i pairs = _mm256_setzero_si256();
    UNROLL
    for (int j = 0; j < PER_BLOCK; j++) {
        const __m256i inputs = _mm256_set1_epi32(four_of(x + 4 * j));
        if (bits == 4) { /* at most 2 * 15 * 127 for each pair: eight pairs fit 16 bits */
            pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(block[j], inputs));
        } else { /* |w| times the input with the sign of w, at most 2 * 128 * 127 for a pair: nothing saturates */
            const __m256i signs = _mm256_sign_epi8(inputs, block[j]);
            const __m256i sums = _mm256_maddubs_epi16(_mm256_abs_epi8(block[j]), signs);
            total = _mm256_add_epi32(total, _mm256_madd_epi16(sums, ones));
        }
    }
    return bits == 4 ? _mm256_add_epi32(_mm256_madd_epi16(pairs, ones), _mm256_set1_epi32(offset)) : total;
}

#elif defined __aarch64__
typedef int8x16_t bytes;
typedef int32x4_t ints;

INLINE vec vec_of_ints(ints v) { return vcvtq_f32_s32(v); }

INLINE void block_of_8(bytes *block, const int8_t *at) {
    UNROLL
    for (int j = 0; j < PER_BLOCK; j++) block[j] = vld1q_s8(at + j * 64);
}

INLINE void block_of_4(bytes *block, const int8_t *at) {
    const int8x16_t offset = vdupq_n_s8(8);
    UNROLL
    for (int j = 0; j < PER_BLOCK / 2; j++) {
        const uint8x16_t both = vreinterpretq_u8_s8(vld1q_s8(at + j * 64));
        block[2 * j] = vsubq_s8(vreinterpretq_s8_u8(vandq_u8(both, vdupq_n_u8(15))), offset);
        block[2 * j + 1] = vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(both, 4)), offset);
    }
}

#if defined __ARM_FEATURE_DOTPROD
INLINE ints block_product(const bytes *block, const int8_t *x, int32_t offset, const int bits) {
    (void)offset, (void)bits;
    const int8x16_t first = vld1q_s8(x), second = vld1q_s8(x + 16);
    ints a = vdupq_n_s32(0), b = vdupq_n_s32(0);
    a = vdotq_laneq_s32(a, block[0], first, 0);
    b = vdotq_laneq_s32(b, block[1], first, 1);
    a = vdotq_laneq_s32(a, block[2], first, 2);
    b = vdotq_laneq_s32(b, block[3], first, 3);
    a = vdotq_laneq_s32(a, block[4], second, 0);
    b = vdotq_laneq_s32(b, block[5], second, 1);
    a = vdotq_laneq_s32(a, block[6], second, 2);
    b = vdotq_laneq_s32(b, block[7], second, 3);
    return vaddq_s32(a, b);
}
#else
INLINE ints block_product(const bytes *block, const int8_t *x, int32_t offset, const int bits) {
    (void)offset, (void)bits;
    ints low = vdupq_n_s32(0), high = vdupq_n_s32(0);
    UNROLL
    for (int j = 0; j < PER_BLOCK; j += 2) { /* two products of at most 127 * 128 fit 16 bits */
        const int8x16_t a = vreinterpretq_s8_s32(vdupq_n_s32(four_of(x + 4 * j)));
        const int8x16_t b = vreinterpretq_s8_s32(vdupq_n_s32(four_of(x + 4 * j + 4)));
        const int16x8_t lower = vmull_s8(vget_low_s8(block[j]), vget_low_s8(a));
        const int16x8_t upper = vmull_high_s8(block[j], a);
        low = vpadalq_s16(low, vmlal_s8(lower, vget_low_s8(block[j + 1]), vget_low_s8(b)));
        high = vpadalq_s16(high, vmlal_high_s8(upper, block[j + 1], b));
    }
    return vpaddq_s32(low, high);
}
#endif

#else
/* Any processor; SSE2 on x86-64. A row's four columns as 16 bits each. */
typedef int32_t ints __attribute__((vector_size(16)));
typedef int16_t wide __attribute__((vector_size(16)));
typedef struct {
    wide low, high; /* rows 0 and 1, rows 2 and 3 */
} bytes;

INLINE vec vec_of_ints(ints v) { return __builtin_convertvector(v, vec); }

INLINE bytes widened(const int8_t *at) {
    typedef int8_t eight __attribute__((vector_size(8)));
    eight low, high;
    memcpy(&low, at, 8);
    memcpy(&high, at + 8, 8);
    return (bytes){__builtin_convertvector(low, wide), __builtin_convertvector(high, wide)};
}

INLINE void block_of_8(bytes *block, const int8_t *at) {
    UNROLL
    for (int j = 0; j < PER_BLOCK; j++) block[j] = widened(at + j * 64);
}

INLINE void block_of_4(bytes *block, const int8_t *at) {
    UNROLL
    for (int j = 0; j < PER_BLOCK / 2; j++) {
        const bytes both = widened(at + j * 64);
        block[2 * j] = (bytes){(both.low & 15) - 8, (both.high & 15) - 8};
        block[2 * j + 1] = (bytes){(both.low >> 4 & 15) - 8, (both.high >> 4 & 15) - 8};
    }
}

/* The sums of neighbours' products, each in 32 bits. */
INLINE ints pairs_of(wide a, wide b) {
#if defined __SSE2__
    return (ints)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    ints sums;
    for (int i = 0; i < 4; i++) sums[i] = a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
    return sums;
#endif
}

INLINE ints block_product(const bytes *block, const int8_t *x, int32_t offset, const int bits) {
    (void)offset, (void)bits;
    ints low = {0}, high = {0};
    UNROLL
    for (int j = 0; j < PER_BLOCK; j++) {
        const int8_t *four = x + 4 * j;
        const wide inputs = {four[0], four[1], four[2], four[3], four[0], four[1], four[2], four[3]};
        low += pairs_of(block[j].low, inputs);
        high += pairs_of(block[j].high, inputs);
    }
    return (ints){low[0] + low[1], low[2] + low[3], high[0] + high[1], high[2] + high[3]};
}
#endif
