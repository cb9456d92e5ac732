/* Functions of float vectors, and parts and tiles of tensors. */
#pragma once

#include "kernel.h"
#include "simd.h"

/* A step of the scan: 2^x h + input B, for 2^x as vec_power returns it. The small change is summed up first, and only
   one sum has the size of h: with x near 0, a product rounded to h's digits would lose most of the decay. */
INLINE vec vec_step(vec power, vec rest, vec h, vec input, vec B) {
    const vec kept = power * h;
    return kept + vec_fma(rest, kept, input * B);
}

/* log(1 + e^x) = max(x, 0) + log(1 + e) with e = e^-|x|; the logarithm as 2 artanh(s), s = e / (2 + e) at most 1/3. */
INLINE vec vec_softplus_of(vec x, vec e) {
    const vec s = e / (e + vec_set(2.0f)), q = s * s;
    vec p = vec_fma(vec_set(0x1.208bd0p-2f), q, vec_set(0x1.1e510ap-2f));
    p = vec_fma(p, q, vec_set(0x1.99dae6p-2f));
    p = vec_fma(p, q, vec_set(0x1.5554e0p-1f));
    p = vec_fma(p, q, vec_set(2.0f));
    return vec_fma(p, s, vec_max(vec_set(0.0f), x));
}
INLINE vec vec_softplus(vec x) { return vec_softplus_of(x, vec_exp_minus_abs(x)); }

/* 1 / (1 + e^-x), computed from e^-|x|, which does not overflow. */
INLINE vec vec_sigmoid(vec x) {
    const vec e = vec_exp_minus_abs(x), one = vec_set(1.0f);
    return vec_choose(vec_greater(vec_set(0.0f), x), e, one) / (e + one);
}
/* x / (1 + e^-x), computed from e = e^-|x| */
INLINE vec vec_silu_of(vec x, vec e) {
    return vec_multiply_where(x, vec_greater(vec_set(0.0f), x), e) / (e + vec_set(1.0f));
}
INLINE vec vec_silu(vec x) { return vec_silu_of(x, vec_exp_minus_abs(x)); }

INLINE vec vec_load_as(const char *p, int64_t dtype) {
    if (dtype == FLOAT32) return vec_load((const float *)p);
    return dtype == BFLOAT16 ? vec_load_bfloat16((const uint16_t *)p) : vec_load_half((const uint16_t *)p);
}

INLINE void vec_store_as(char *p, int64_t dtype, vec v) {
    if (dtype == FLOAT32) vec_store((float *)p, v);
    else if (dtype == BFLOAT16) vec_store_bfloat16((uint16_t *)p, v);
    else vec_store_half((uint16_t *)p, v);
}

/* `count` elements at distances of `stride`, as the first lanes of a vector; the other lanes are zero. */
INLINE vec load_part(const struct tensor *t, int64_t offset, int64_t stride, int64_t count) {
    if (count == LANES && stride == 1) return vec_load_as(element(t, offset), t->dtype);
    if (stride == 1 && t->dtype == FLOAT32) return vec_load_first((const float *)element(t, offset), count);
    float values[LANES] = {0};
    load_floats(values, t, offset, stride, count);
    return vec_load(values);
}

INLINE void store_part(const struct tensor *t, int64_t offset, int64_t stride, int64_t count, vec v) {
    if (count == LANES && stride == 1) {
        vec_store_as(element(t, offset), t->dtype, v);
        return;
    }
    if (stride == 1 && t->dtype == FLOAT32) {
        vec_store_first((float *)element(t, offset), count, v);
        return;
    }
    float values[LANES];
    vec_store(values, v);
    store_floats(t, offset, stride, count, values);
}

/* The lanes that are left from `at` to `end`, LANES at most. */
INLINE int64_t lanes_left(int64_t end, int64_t at) { return end - at < LANES ? end - at : LANES; }

/* The mean of the n squared differences from `centre`. */
HELPER float mean_of_squares(const float *values, int64_t n, float centre) {
    vec sums[4] = {vec_set(0.0f), vec_set(0.0f), vec_set(0.0f), vec_set(0.0f)};
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES) {
        UNROLL
        for (int j = 0; j < 4; j++) {
            const vec v = vec_load(values + i + j * LANES) - vec_set(centre);
            sums[j] = vec_fma(v, v, sums[j]);
        }
    }
    float sum = vec_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < n; i++) sum += (values[i] - centre) * (values[i] - centre);
    return sum / (float)n;
}

/* A tile holds `steps` rows of LANES floats: one column per channel (or state), one row per step. Of its columns
   only `columns` exist in the tensor; the others are read as zero and never written. */
struct tile_shape {
    int64_t columns, steps;
    int64_t column_stride, step_stride; /* in the tensor */
};

/* Reads a tile; the distance between its rows in memory is `pitch` floats. */
void FOR_ISA(tile_load)(float *tile, int64_t pitch, const struct tensor *t, int64_t offset, struct tile_shape s);
/* Writes a tile, whose rows are LANES floats apart. */
void FOR_ISA(tile_store)(const float *tile, const struct tensor *t, int64_t offset, struct tile_shape s);
