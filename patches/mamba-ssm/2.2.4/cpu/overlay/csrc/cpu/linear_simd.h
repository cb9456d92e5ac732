/* The product of a matrix and one vector, for whichever simd_*.h was included before. Lanes are columns. */
#pragma once

#include "linear.h"
#include "parallel.h"
#include "simd_math.h"

enum { ROWS_PER_SHARE = 64, AHEAD = 4096 };

/* One row against x; two sums, so that additions do not wait for each other. Rows are taken one after another, since
   a single long stream comes from memory faster than several. */
INLINE float dot_row(const struct linear_args *a, const float *x, int64_t row, const int64_t dtype) {
    const int64_t start = row * a->weight.stride[0], size = dtype == FLOAT32 ? 4 : 2;
    const char *data = a->weight.data + start * size;
    vec even = vec_set(0.0f), odd = vec_set(0.0f);
    int64_t k = 0;
    for (; k + 2 * LANES <= a->columns; k += 2 * LANES) {
        const char *at = data + k * size, *next = at + LANES * size;
        __builtin_prefetch(at + AHEAD);
        __builtin_prefetch(next + AHEAD);
        even = vec_fma(vec_load_as(at, dtype), vec_load(x + k), even);
        odd = vec_fma(vec_load_as(next, dtype), vec_load(x + k + LANES), odd);
    }
    float sum = vec_sum(even + odd);
    for (; k < a->columns; k++) sum += load_float(&a->weight, start + k) * x[k];
    return sum;
}

INLINE void dot_rows(const struct linear_args *a, const float *x, int64_t first, int64_t count, const int64_t dtype, float *out) {
    for (int64_t i = 0; i < count; i++) out[i] = dot_row(a, x, first + i, dtype);
}

static void linear_task(const void *context, int64_t index, void *scratch) {
    const struct linear_args *a = context;
    const int64_t first = index * ROWS_PER_SHARE, left = a->rows - first, count = left < ROWS_PER_SHARE ? left : ROWS_PER_SHARE;
    float *x = scratch, *out = x + a->columns, bias[ROWS_PER_SHARE];
    load_floats(x, &a->x, 0, 1, a->columns);
    if (a->weight.dtype == FLOAT32) dot_rows(a, x, first, count, FLOAT32, out);
    else if (a->weight.dtype == BFLOAT16) dot_rows(a, x, first, count, BFLOAT16, out);
    else dot_rows(a, x, first, count, FLOAT16, out);
    if (a->bias.data) {
        load_floats(bias, &a->bias, first, 1, count);
        for (int64_t i = 0; i < count; i++) out[i] += bias[i];
    }
    store_floats(&a->out, first, 1, count, out);
}

static int linear(const struct linear_args *a) {
    const int64_t shares = (a->rows + ROWS_PER_SHARE - 1) / ROWS_PER_SHARE, small = a->rows * a->columns < 1 << 18;
    const size_t bytes = (size_t)(a->columns + ROWS_PER_SHARE) * sizeof(float);
    return parallel_run(linear_task, a, shares, bytes, small ? 1 : a->threads);
}
