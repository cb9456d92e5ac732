/* The product of a matrix and a vector. Lanes are columns. */
#include "kernels.h"
#include "parallel.h"
#include "simd_math.h"

/* Several rows are read at once, because memory delivers several streams faster than one; each stream is prefetched
   AHEAD bytes. */
enum { MOST_ROWS = 128, STREAMS = 4, AHEAD = 1024 };

/* The dot products of x and `count` rows, at distances of `apart` rows. */
INLINE void dot_rows(const struct linear_args *a, const float *x, int64_t row, int64_t apart, const int count,
                     const int64_t dtype, float *out) {
    const int64_t size = dtype == FLOAT32 ? 4 : 2, columns = a->columns;
    const char *data[STREAMS];
    vec sums[STREAMS];
    UNROLL
    for (int j = 0; j < count; j++) {
        data[j] = a->weight.data + (row + j * apart) * a->weight.stride[0] * size;
        sums[j] = vec_set(0.0f);
    }
    int64_t k = 0;
    for (; k + LANES <= columns; k += LANES) {
        const vec now = vec_load(x + k);
        UNROLL
        for (int j = 0; j < count; j++) {
            const char *at = data[j] + k * size;
            __builtin_prefetch(at + AHEAD);
            sums[j] = vec_fma(vec_load_as(at, dtype), now, sums[j]);
        }
    }
    UNROLL
    for (int j = 0; j < count; j++) {
        float sum = vec_sum(sums[j]);
        for (int64_t i = k; i < columns; i++)
            sum += load_float(&a->weight, (row + j * apart) * a->weight.stride[0] + i) * x[i];
        out[j * apart] = sum;
    }
}

INLINE void dot_all_rows(const struct linear_args *a, const float *x, int64_t first, int64_t count, const int64_t dtype,
                         float *out) {
    const int64_t apart = count / STREAMS;
    for (int64_t i = 0; i < apart; i++) dot_rows(a, x, first + i, apart, STREAMS, dtype, out + i);
    for (int64_t i = apart * STREAMS; i < count; i++) dot_rows(a, x, first + i, 0, 1, dtype, out + i);
}

INLINE int64_t rows_per_share(const struct linear_args *a) {
    const int64_t even = (a->rows + 4 * a->threads - 1) / (4 * a->threads),
                  whole = (even + STREAMS - 1) / STREAMS * STREAMS;
    return whole < MOST_ROWS ? whole : MOST_ROWS;
}

static void linear_task(const void *context, int64_t index, void *scratch) {
    const struct linear_args *a = context;
    const int64_t share = rows_per_share(a), first = index * share, left = a->rows - first,
                  count = left < share ? left : share;
    float *x = scratch, *out = x + a->columns, bias[MOST_ROWS];
    load_floats(x, &a->x, 0, 1, a->columns);
    if (a->weight.dtype == FLOAT32) dot_all_rows(a, x, first, count, FLOAT32, out);
    else if (a->weight.dtype == BFLOAT16) dot_all_rows(a, x, first, count, BFLOAT16, out);
    else dot_all_rows(a, x, first, count, FLOAT16, out);
    if (a->bias.data) {
        load_floats(bias, &a->bias, first, 1, count);
        for (int64_t i = 0; i < count; i++) out[i] += bias[i];
    }
    store_floats(&a->out, first, 1, count, out);
}

int FOR_ISA(linear)(const struct linear_args *a) {
    const int64_t share = rows_per_share(a), small = a->rows * a->columns < 1 << 16;
    struct scratch layout = {.overflow = a->columns > LONGEST};
    scratch_add(&layout, 1, a->columns + MOST_ROWS);
    return parallel_run(linear_task, a, a->rows ? (a->rows + share - 1) / share : 0, scratch_bytes(&layout),
                        small ? 1 : a->threads);
}
