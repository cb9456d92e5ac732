/* What the forward and the backward operator of Mamba-3's scan share: the state and the outputs of a chunk. */
#pragma once

#include "mamba3_chunk_simd.h"

/* The state before the first step, with the first step's term of the v and k before: (dstate, columns). */
HELPER void mamba3_first_state(const struct mamba3_task *t, float *state) {
    const struct mamba3_args *a = t->a;
    const struct mamba3_work *w = t->w;
    const int64_t columns = w->columns;
    memset(state, 0, (size_t)(a->dstate * columns) * sizeof(float));
    if (!a->first_state.data) return;
    const struct tensor *from = &a->first_state;
    for (int64_t p = 0; p < a->head_dim; p += LANES) {
        const struct tile_shape shape = {a->head_dim - p < LANES ? a->head_dim - p : LANES, a->dstate, from->stride[2],
                                         1};
        FOR_ISA(tile_load)(state + p, columns, from,
                           t->sequence * from->stride[0] + t->head * from->stride[1] + p * from->stride[2], shape);
    }
    if (t->start >= t->end) return;
    mamba3_mixes(t, t->start, 1);
    mamba3_rows(t, &a->first_v, t->sequence * a->first_v.stride[0] + t->head * a->first_v.stride[1], &a->mimo_v, w->v);
    for (int64_t r = 0; r < a->rank; r++) {
        load_floats(w->q + r * a->dstate, &a->first_k,
                    t->sequence * a->first_k.stride[0] + r * a->first_k.stride[1] + t->head * a->first_k.stride[2], 1,
                    a->dstate);
        for (int64_t n = 0; n < a->dstate; n++) {
            const vec k = vec_set(w->earlier[0] * w->q[r * a->dstate + n]);
            for (int64_t p = 0; p < columns; p += LANES)
                vec_store(state + n * columns + p,
                          vec_fma(k, vec_load(w->v + r * columns + p), vec_load(state + n * columns + p)));
        }
    }
}

/* S = the chunk's decay times S + k^T v, each row of v with its weight at the chunk's end. Overwrites v. */
HELPER void mamba3_advance(const struct mamba3_task *t, int64_t rows, float *state) {
    const struct mamba3_work *w = t->w;
    for (int64_t m = 0; m < rows; m++) {
        const vec weight = vec_set(w->weight[m] * w->to_end[m]);
        for (int64_t p = 0; p < w->columns; p += LANES)
            vec_store(w->v + m * w->columns + p, vec_load(w->v + m * w->columns + p) * weight);
    }
    const struct product p = {.c = state,
                              .a = w->k,
                              .b = w->v,
                              .c_row = w->columns,
                              .a_row = w->wide,
                              .a_column = 1,
                              .b_row = w->columns,
                              .rows = t->a->dstate,
                              .depth = rows,
                              .columns = w->columns,
                              .factor = w->from_start + rows - 1};
    FOR_ISA(multiply)(&p);
}

/* q k^T of each row with the weights of the rows of k; later rows have 0. */
HELPER void mamba3_weigh(const struct mamba3_task *t, int64_t rows) {
    const struct mamba3_work *w = t->w;
    for (int64_t m = 0; m < rows; m++) {
        const float *const weights = w->weights + m / t->a->rank * w->wide;
        float *const row = w->products + m * w->wide;
        const int64_t filled = whole_vectors(rows_before(t->a, m / TALL * TALL, rows));
        for (int64_t j = 0; j < filled; j += LANES) vec_store(row + j, vec_load(row + j) * vec_load(weights + j));
    }
}

/* `out` before D and z: from the state before the chunk, and from the chunk's rows by their weighted products. */
HELPER void mamba3_outputs(const struct mamba3_task *t, int64_t rows, const float *state, float *out) {
    const struct mamba3_work *w = t->w;
    const int64_t columns = w->columns;
    const struct product before = {.c = out,
                                   .a = w->q,
                                   .b = state,
                                   .c_row = columns,
                                   .a_row = 1,
                                   .a_column = w->wide,
                                   .b_row = columns,
                                   .rows = rows,
                                   .depth = t->a->dstate,
                                   .columns = columns};
    FOR_ISA(multiply)(&before);
    for (int64_t m = 0; m < rows; m += TALL) {
        const struct product within = {.c = out + m * columns,
                                       .a = w->products + m * w->wide,
                                       .b = w->v,
                                       .c_row = columns,
                                       .a_row = w->wide,
                                       .a_column = 1,
                                       .b_row = columns,
                                       .rows = rows - m < TALL ? rows - m : TALL,
                                       .depth = rows_before(t->a, m, rows),
                                       .columns = columns,
                                       .factor = w->from_start + m,
                                       .factor_row = 1};
        FOR_ISA(multiply)(&within);
    }
}
