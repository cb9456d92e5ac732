/* Tiles of tensors: blocks with one column per channel (or state) and one row per step. */
#include "isa.h"
#include "simd_math.h"

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

void FOR_ISA(tile_load)(float *tile, int64_t pitch, const struct tensor *t, int64_t offset, struct tile_shape s) {
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

#if defined __aarch64__ && !defined __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
/* Tiles of all sets have four columns, so that the base code of an operator can use the function of a better set, which
   rounds to bfloat16 in one instruction. */
MAYBE_COMPILED void tile_store_i8mm(const float *tile, const struct tensor *t, int64_t offset, struct tile_shape s);
#define BFLOAT16_STORE (chosen_isa >= ISA_i8mm ? tile_store_i8mm : NULL)
#else
#define BFLOAT16_STORE NULL
#endif

void FOR_ISA(tile_store)(const float *tile, const struct tensor *t, int64_t offset, struct tile_shape s) {
    void (*const better)(const float *, const struct tensor *, int64_t, struct tile_shape) = BFLOAT16_STORE;
    if (better && t->dtype == BFLOAT16) {
        better(tile, t, offset, s);
        return;
    }
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
