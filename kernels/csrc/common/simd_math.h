/* Functions of float vectors, and tiles of tensors. Include one simd_*.h before. */
#pragma once

/* log(1 + e^x) = max(x, 0) + log(1 + e^-|x|); the logarithm as 2 artanh(s), s = e / (2 + e) at most 1/3. */
INLINE vec vec_softplus(vec x) {
    const vec e = vec_exp_minus_abs(x), s = e / (e + vec_set(2.0f)), q = s * s;
    vec p = vec_fma(vec_set(0x1.208bd0p-2f), q, vec_set(0x1.1e510ap-2f));
    p = vec_fma(p, q, vec_set(0x1.99dae6p-2f));
    p = vec_fma(p, q, vec_set(0x1.5554e0p-1f));
    p = vec_fma(p, q, vec_set(2.0f));
    return vec_fma(p, s, vec_max(vec_set(0.0f), x));
}

/* 1 / (1 + e^-x), computed from e^-|x|, which does not overflow. */
INLINE vec vec_sigmoid(vec x) {
    const vec e = vec_exp_minus_abs(x), one = vec_set(1.0f);
    return vec_choose(vec_greater(vec_set(0.0f), x), e, one) / (e + one);
}
/* x / (1 + e^-x), computed from e^-|x| */
INLINE vec vec_silu(vec x) {
    const vec e = vec_exp_minus_abs(x);
    return vec_multiply_where(x, vec_greater(vec_set(0.0f), x), e) / (e + vec_set(1.0f));
}

INLINE vec vec_load_as(const char *p, int64_t dtype) {
    if (dtype == FLOAT32) return vec_load((const float *)p);
    return dtype == BFLOAT16 ? vec_load_bfloat16((const uint16_t *)p) : vec_load_half((const uint16_t *)p);
}

INLINE void vec_store_as(char *p, int64_t dtype, vec v) {
    if (dtype == FLOAT32) vec_store((float *)p, v);
    else if (dtype == BFLOAT16) vec_store_bfloat16((uint16_t *)p, v);
    else vec_store_half((uint16_t *)p, v);
}

/* A tile holds `steps` rows of LANES floats: one column per channel (or state), one row per step. Of its columns
   only `columns` exist in the tensor; the others are read as zero and never written. */
struct tile_shape {
    int64_t columns, steps;
    int64_t column_stride, step_stride; /* in the tensor */
};

INLINE void tile_load_transposed(float *tile, int64_t pitch, const struct tensor *t, int64_t offset,
                                 struct tile_shape s, int64_t first) {
    vec rows[LANES];
    /* With a step stride of -1, the last step of the block has the lowest address. */
    const int64_t start = offset + (s.step_stride > 0 ? first : -(first + LANES - 1));
    UNROLL
    for (int64_t c = 0; c < LANES; c++) {
        rows[c] = c < s.columns ? vec_load_as(element(t, start + c * s.column_stride), t->dtype) : vec_set(0.0f);
    }
    vec_transpose(rows);
    UNROLL
    for (int64_t i = 0; i < LANES; i++) {
        vec_store(tile + (first + (s.step_stride > 0 ? i : LANES - 1 - i)) * pitch, rows[i]);
    }
}

/* Reads a tile; the distance between its rows in memory is `pitch` floats. */
static __attribute__((unused)) void tile_load(float *tile, int64_t pitch, const struct tensor *t, int64_t offset,
                                              struct tile_shape s) {
    if (s.column_stride == 1 && s.columns == LANES) {
        for (int64_t i = 0; i < s.steps; i++)
            vec_store(tile + i * pitch, vec_load_as(element(t, offset + i * s.step_stride), t->dtype));
    } else if ((s.step_stride == 1 || s.step_stride == -1) && s.steps >= LANES) {
        /* The last block may overlap the block before it: the same values are then written twice. */
        for (int64_t i = 0; i + LANES <= s.steps; i += LANES) tile_load_transposed(tile, pitch, t, offset, s, i);
        if (s.steps % LANES) tile_load_transposed(tile, pitch, t, offset, s, s.steps - LANES);
    } else {
        for (int64_t i = 0; i < s.steps; i++) {
            load_floats(tile + i * pitch, t, offset + i * s.step_stride, s.column_stride, s.columns);
            for (int64_t c = s.columns; c < LANES; c++) tile[i * pitch + c] = 0.0f;
        }
    }
}

INLINE void tile_store_transposed(const float *tile, const struct tensor *t, int64_t offset, struct tile_shape s,
                                  int64_t first) {
    vec rows[LANES];
    const int64_t start = offset + (s.step_stride > 0 ? first : -(first + LANES - 1));
    UNROLL
    for (int64_t i = 0; i < LANES; i++) {
        rows[i] = vec_load(tile + (first + (s.step_stride > 0 ? i : LANES - 1 - i)) * LANES);
    }
    vec_transpose(rows);
    UNROLL
    for (int64_t c = 0; c < LANES; c++) {
        if (c < s.columns) vec_store_as(element(t, start + c * s.column_stride), t->dtype, rows[c]);
    }
}

static __attribute__((unused)) void tile_store(const float *tile, const struct tensor *t, int64_t offset,
                                               struct tile_shape s) {
    if (s.column_stride == 1 && s.columns == LANES) {
        for (int64_t i = 0; i < s.steps; i++)
            vec_store_as(element(t, offset + i * s.step_stride), t->dtype, vec_load(tile + i * LANES));
    } else if ((s.step_stride == 1 || s.step_stride == -1) && s.steps >= LANES) {
        for (int64_t i = 0; i + LANES <= s.steps; i += LANES) tile_store_transposed(tile, t, offset, s, i);
        if (s.steps % LANES) tile_store_transposed(tile, t, offset, s, s.steps - LANES);
    } else {
        for (int64_t i = 0; i < s.steps; i++)
            store_floats(t, offset + i * s.step_stride, s.column_stride, s.columns, tile + i * LANES);
    }
}
