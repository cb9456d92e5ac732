/* Norms. Lanes are features of one row. */
#include <math.h>

#include "kernels.h"
#include "parallel.h"
#include "simd_math.h"

enum { ROWS_PER_TASK = 8 };

/* Features first to first + count - 1 of a row; other lanes are zero. */
INLINE vec load_features(const struct tensor *t, int64_t row, int64_t first, int64_t count) {
    return load_part(t, row * t->stride[0] + first, 1, count);
}

static float mean(const float *values, int64_t n) {
    vec sums = vec_set(0.0f);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) sums = sums + vec_load(values + i);
    float sum = vec_sum(sums);
    for (; i < n; i++) sum += values[i];
    return sum / (float)n;
}

static void norm_row(const struct norm_args *a, int64_t row, float *values) {
    for (int64_t i = 0; i < a->dim; i += LANES) {
        const int64_t count = lanes_left(a->dim, i);
        vec v = load_features(&a->x, row, i, count);
        if (a->residual.data) v = v + load_features(&a->residual, row, i, count);
        if (a->total.data) store_part(&a->total, row * a->total.stride[0] + i, 1, count, v);
        if (a->gate == GATE_BEFORE) v = v * vec_silu(load_features(&a->z, row, i, count));
        vec_store(values + i, v); /* `values` has dim + LANES floats */
    }
    for (int64_t first = 0; first < a->dim; first += a->group) {
        float *group = values + first;
        const float centre = a->rms ? 0.0f : mean(group, a->group);
        const float scale = 1.0f / sqrtf(mean_of_squares(group, a->group, centre) + (float)a->eps);
        for (int64_t i = 0; i < a->group; i += LANES) {
            const int64_t count = lanes_left(a->group, i), at = first + i;
            vec v = (vec_load(group + i) - vec_set(centre)) * vec_set(scale) *
                    load_part(&a->weight, at * a->weight.stride[0], a->weight.stride[0], count);
            if (a->bias.data) v = v + load_part(&a->bias, at * a->bias.stride[0], a->bias.stride[0], count);
            if (a->gate == GATE_AFTER) v = v * vec_silu(load_features(&a->z, row, at, count));
            store_part(&a->out, row * a->out.stride[0] + at, 1, count, v);
        }
    }
}

static void norm_task(const void *context, int64_t index, void *scratch) {
    const struct norm_args *a = context;
    const int64_t first = index * ROWS_PER_TASK;
    for (int64_t row = first; row < a->rows && row < first + ROWS_PER_TASK; row++) norm_row(a, row, scratch);
}

int FOR_ISA(norm)(const struct norm_args *a) {
    const int64_t tasks = (a->rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, small = a->rows * a->dim < 1 << 16;
    struct scratch layout = {.overflow = a->dim > LONGEST};
    scratch_add(&layout, 1, a->dim + LANES);
    return parallel_run(norm_task, a, tasks, scratch_bytes(&layout), small ? 1 : a->threads);
}
