/* The forward kernel of Mamba-3's scan. Include one simd_*.h before. */
#pragma once

#include "mamba3_chunk_simd.h"

// clang-format off
#define MAMBA3_FORWARD_PARTS(PART) \
    PART(state, dstate, columns) \
    PART(out, wide, columns)
// clang-format on

struct mamba3_forward_layout {
    struct mamba3_layout chunk;
    MAMBA3_FORWARD_PARTS(SCRATCH_PLACE)
    struct scratch total;
};
struct mamba3_forward_work {
    MAMBA3_FORWARD_PARTS(SCRATCH_POINTER)
};
struct mamba3_forward_context {
    const struct mamba3_forward_args *args;
    struct mamba3_forward_layout layout;
};

/* The state before the first step, with the first step's term of the v and k before: (dstate, columns). */
static void mamba3_first_state(const struct mamba3_task *t, float *state) {
    const struct mamba3_args *a = t->a;
    const struct mamba3_work *w = t->w;
    const int64_t columns = w->columns;
    memset(state, 0, (size_t)(a->dstate * columns) * sizeof(float));
    if (!a->first_state.data) return;
    const struct tensor *from = &a->first_state;
    for (int64_t p = 0; p < a->head_dim; p += LANES) {
        const struct tile_shape shape = {a->head_dim - p < LANES ? a->head_dim - p : LANES, a->dstate, from->stride[2],
                                         1};
        tile_load(state + p, columns, from,
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
static void mamba3_advance(const struct mamba3_task *t, int64_t rows, float *state) {
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
    multiply(&p);
}

/* q k^T of each row with the weights of the rows of k; later rows have 0. */
static void mamba3_weigh(const struct mamba3_task *t, int64_t rows) {
    const struct mamba3_work *w = t->w;
    for (int64_t m = 0; m < rows; m++) {
        const float *const weights = w->weights + m / t->a->rank * w->wide;
        float *const row = w->products + m * w->wide;
        const int64_t filled = whole_vectors(rows_before(t->a, m / TALL * TALL, rows));
        for (int64_t j = 0; j < filled; j += LANES) vec_store(row + j, vec_load(row + j) * vec_load(weights + j));
    }
}

/* `out` before D and z: from the state before the chunk, and from the chunk's rows by their weighted products. */
static void mamba3_outputs(const struct mamba3_task *t, int64_t rows, const float *state, float *out) {
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
    multiply(&before);
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
        multiply(&within);
    }
}

/* Adds D v, multiplies with silu(z), and stores a step: its rows, or their sum. */
INLINE void mamba3_store(const struct mamba3_task *t, const struct tensor *to, int64_t step, const float *out,
                         const float *v) {
    const struct mamba3_args *a = t->a;
    const int64_t columns = t->w->columns, reduced = a->mimo_out.data != NULL || a->rank == 1;
    const float D = a->D.data ? load_float(&a->D, t->head * a->D.stride[0]) : 0.0f;
#define OF_HEAD(name) load_part(&a->name, t->head * a->name.stride[0] + r * a->name.stride[1] + p, 1, left)
    for (int64_t p = 0; p < a->head_dim; p += LANES) {
        const int64_t left = a->head_dim - p < LANES ? a->head_dim - p : LANES;
        vec z = vec_set(0.0f), sum = vec_set(0.0f);
        if (a->z.data)
            z = load_part(&a->z, t->batch * a->z.stride[0] + step * a->z.stride[1] + t->head * a->z.stride[2] + p, 1,
                          left);
        for (int64_t r = 0; r < a->rank; r++) {
            vec y = vec_fma(vec_set(D), vec_load(v + r * columns + p), vec_load(out + r * columns + p));
            if (a->z.data) {
                vec gate = z;
                if (a->mimo_z.data) gate = gate * OF_HEAD(mimo_z);
                y = y * vec_silu(gate);
            }
            if (a->mimo_out.data) y = y * OF_HEAD(mimo_out);
            if (reduced) sum = sum + y;
            else
                store_part(
                    to, t->batch * to->stride[0] + (step * a->rank + r) * to->stride[1] + t->head * to->stride[2] + p,
                    1, left, y);
        }
        if (reduced)
            store_part(to, t->batch * to->stride[0] + step * to->stride[1] + t->head * to->stride[2] + p, 1, left, sum);
    }
#undef OF_HEAD
}

static void mamba3_last_states(const struct mamba3_task *t, const struct mamba3_forward_args *f, const float *state,
                               int64_t count) {
    const struct mamba3_args *a = t->a;
    const struct mamba3_work *w = t->w;
    const struct tensor *to = &f->last_angle;
    for (int64_t i = 0; i < a->angles; i++) {
        const double turns = (double)w->angle[i] - w->angle[w->turns + i], rest = turns - nearest(turns);
        const float angle = (float)((rest < 0 ? rest + 1 : rest) * 6.283185307179586);
        store_floats(to, t->sequence * to->stride[0] + t->head * to->stride[1] + i, 1, 1, &angle);
    }
    to = &f->last_k;
    for (int64_t r = 0; r < a->rank; r++) {
        const int64_t at = t->sequence * to->stride[0] + r * to->stride[1] + t->head * to->stride[2];
        for (int64_t n = 0; n < a->dstate; n++) {
            float k = 0.0f;
            if (count) k = w->k[n * w->wide + (count - 1) * a->rank + r];
            else if (a->first_k.data)
                k = load_float(&a->first_k, t->sequence * a->first_k.stride[0] + r * a->first_k.stride[1] +
                                                t->head * a->first_k.stride[2] + n);
            store_floats(to, at + n, 1, 1, &k);
        }
    }
    to = &f->last_state;
    for (int64_t p = 0; p < a->head_dim; p++) {
        for (int64_t n = 0; n < a->dstate; n++)
            store_floats(to, t->sequence * to->stride[0] + t->head * to->stride[1] + p * to->stride[2] + n, 1, 1,
                         state + n * w->columns + p);
    }
}

static void mamba3_forward_task(const void *context, int64_t index, void *scratch) {
    const struct mamba3_forward_context *c = context;
    const struct mamba3_forward_args *f = c->args;
    const struct mamba3_args *a = &f->scan;
    const struct mamba3_work chunk = mamba3_locate(&c->layout.chunk, scratch);
    const struct mamba3_forward_layout *const layout = &c->layout;
    float *const memory = (float *)scratch + c->layout.chunk.total.floats;
    struct mamba3_forward_work work, *const w = &work;
    MAMBA3_FORWARD_PARTS(SCRATCH_LOCATE)
    const struct mamba3_task t = mamba3_begin(a, &chunk, index / a->heads, index % a->heads);
    mamba3_first_state(&t, w->state);
    int64_t count = 0;
    for (int64_t first = t.start; first < t.end; first += count) {
        count = t.end - first < chunk.steps ? t.end - first : chunk.steps;
        mamba3_read(&t, first, count);
        mamba3_decays(&t, count);
        mamba3_products(&t, count * a->rank);
        mamba3_weigh(&t, count * a->rank);
        mamba3_outputs(&t, count * a->rank, w->state, w->out);
        for (int64_t s = 0; s < count; s++)
            mamba3_store(&t, &f->out, first + s, w->out + s * a->rank * chunk.columns,
                         chunk.v + s * a->rank * chunk.columns);
        mamba3_advance(&t, count * a->rank, w->state);
    }
    if (f->last_state.data) mamba3_last_states(&t, f, w->state, count);
}

static int mamba3_forward(const struct mamba3_forward_args *f) {
    struct mamba3_forward_context context = {.args = f};
    struct mamba3_forward_layout *const layout = &context.layout;
    if (mamba3_layout(&f->scan, &layout->chunk)) return TOO_LARGE;
    const int64_t dstate = f->scan.dstate, wide = layout->chunk.wide, columns = layout->chunk.columns;
    MAMBA3_FORWARD_PARTS(SCRATCH_ADD)
    struct scratch total = layout->chunk.total;
    total.overflow |= layout->total.overflow;
    scratch_add(&total, 1, (int64_t)layout->total.floats);
    return parallel_run(mamba3_forward_task, &context, f->scan.sequences * f->scan.heads, scratch_bytes(&total),
                        f->scan.threads);
}
