/* A chunk of Mamba-3's scan, prepared for matrix products.

   The term with v[t-1] is added to the state one step earlier, without its decay: the state then has one product
   v k^T per step and row. A chunk has `steps` steps and rows = steps * rank rows; matrices with a row or column for
   each row of the chunk are padded to `wide` columns, a multiple of LANES. Lanes are rows of the chunk, or elements
   of v. */
#pragma once

#include "mamba3.h"
#include "parallel.h"
#include "product_simd.h"
#include "simd_math.h"

enum { ROWS_PER_CHUNK = 32 };

INLINE int64_t whole_vectors(int64_t n) { return (n + LANES - 1) / LANES * LANES; }

/* tanh x; the absolute error is one unit in the last place of 1 */
INLINE vec vec_tanh(vec x) {
    const vec e = vec_exp_minus_abs(x + x), one = vec_set(1.0f), y = (one - e) / (one + e);
    return vec_choose(vec_greater(vec_set(0.0f), x), -y, y);
}

/* The nearest integer, for |x| < 2^51. */
INLINE double nearest(double x) { return (x + 0x1.8p52) - 0x1.8p52; }
INLINE vec vec_rounded(vec x) { return (x + vec_set(0x1.8p23f)) - vec_set(0x1.8p23f); }

/* The cosine and the sine of an angle of `turns` whole turns, -1 < turns < 1. */
INLINE void vec_cos_sin(vec turns, vec *cosine, vec *sine) {
    const vec halves = vec_rounded(turns + turns), r = vec_fma(halves, vec_set(-0.5f), turns), y = r * r;
    /* An odd number of half turns changes both signs: 1 - 2 h^2 is 1, -1 or, for two half turns, needs h of 0. */
    const vec odd = vec_abs(halves) * (vec_set(2.0f) - vec_abs(halves)),
              sign = vec_fma(odd, vec_set(-2.0f), vec_set(1.0f));
    vec s = vec_fma(vec_set(0x1.3e15f6p+5f), y, vec_set(-0x1.32533cp+6f));
    s = vec_fma(s, y, vec_set(0x1.4668f0p+6f));
    s = vec_fma(s, y, vec_set(-0x1.4abbc4p+5f));
    s = vec_fma(s, y, vec_set(0x1.921fb6p+2f));
    vec c = vec_fma(vec_set(-0x1.8fb59ap+4f), y, vec_set(0x1.e126d0p+5f));
    c = vec_fma(c, y, vec_set(-0x1.55d074p+6f));
    c = vec_fma(c, y, vec_set(0x1.03c1e4p+6f));
    c = vec_fma(c, y, vec_set(-0x1.3bd3ccp+4f));
    c = vec_fma(c, y, vec_set(1.0f));
    *cosine = c * sign;
    *sine = s * r * sign;
}

// clang-format off
#define MAMBA3_CHUNK_PARTS(PART) \
    PART(q, dstate, wide) PART(k, dstate, wide) /* rotated: element by row of the chunk */ \
    PART(q_bias, dstate, wide) PART(k_bias, dstate, wide) \
    PART(cosine, turns, wide) PART(sine, turns, wide) /* angle by row of the chunk */ \
    PART(cosine_rows, wide, turns) PART(sine_rows, wide, turns) \
    PART(angle, 2, turns) /* the angle in turns after the last step, and what its sum has lost by rounding */ \
    PART(v, wide, columns) /* row by element */ \
    PART(same, 1, longer) PART(earlier, 1, longer) /* mix dt, (1 - mix) dt: for each step, and one step more */ \
    PART(adt, 1, longer) PART(dt, 1, longer) PART(mix, 1, longer) \
    PART(weight, 1, wide) /* of each row in the state of later steps: same[t] + earlier[t + 1] */ \
    PART(distance, 1, wide) /* the sum of adt from each row to the step at hand */ \
    PART(present, 1, wide) /* the weight of each row for the step at hand; 0 for later rows */ \
    PART(decays, steps, wide) PART(weights, steps, wide) /* of each row of k for each step; 0 for later rows */ \
    PART(from_start, 1, wide) PART(to_end, 1, wide) /* decays of each row: from the chunk's start, to its end */ \
    PART(products, wide, wide) /* of each row of q with each row of k */
// clang-format on

struct mamba3_layout {
    int64_t steps, wide, longer, columns, turns;
    MAMBA3_CHUNK_PARTS(SCRATCH_PLACE)
    struct scratch total;
};
struct mamba3_work {
    int64_t steps, wide, longer, columns, turns;
    MAMBA3_CHUNK_PARTS(SCRATCH_POINTER)
};

/* One head of one sequence. */
struct mamba3_task {
    const struct mamba3_args *a;
    const struct mamba3_work *w;
    int64_t sequence, batch, head, group;
    int64_t start, end; /* the steps of the sequence */
};

HELPER int mamba3_layout(const struct mamba3_args *a, struct mamba3_layout *layout) {
    const int64_t dstate = a->dstate;
    if (dstate > LONGEST || a->head_dim > LONGEST || a->rank > LONGEST || a->angles > LONGEST) return TOO_LARGE;
    layout->steps = a->rank < ROWS_PER_CHUNK ? ROWS_PER_CHUNK / a->rank : 1;
    layout->wide = whole_vectors(layout->steps * a->rank);
    layout->longer = whole_vectors(layout->steps + 1);
    layout->columns = whole_vectors(a->head_dim);
    layout->turns = whole_vectors(a->angles > 0 ? a->angles : 1);
    const int64_t steps = layout->steps, wide = layout->wide, longer = layout->longer, columns = layout->columns,
                  turns = layout->turns;
    layout->total = (struct scratch){0};
    MAMBA3_CHUNK_PARTS(SCRATCH_ADD)
    return DONE;
}

INLINE struct mamba3_work mamba3_locate(const struct mamba3_layout *layout, float *memory) {
    struct mamba3_work work, *const w = &work;
    w->steps = layout->steps, w->wide = layout->wide, w->longer = layout->longer;
    w->columns = layout->columns, w->turns = layout->turns;
    MAMBA3_CHUNK_PARTS(SCRATCH_LOCATE)
    return work;
}

INLINE struct mamba3_task mamba3_begin(const struct mamba3_args *a, const struct mamba3_work *w, int64_t sequence,
                                       int64_t head) {
    const struct mamba3_task t = {.a = a,
                                  .w = w,
                                  .sequence = sequence,
                                  .batch = a->bounds ? 0 : sequence,
                                  .head = head,
                                  .group = head / (a->heads / a->groups),
                                  .start = a->bounds ? a->bounds[sequence] : 0,
                                  .end = a->bounds ? a->bounds[sequence + 1] : a->seqlen};
    for (int64_t n = 0; n < a->dstate; n++) {
        float *const q = w->q_bias + n * w->wide, *const k = w->k_bias + n * w->wide;
        for (int64_t r = 0; r < a->rank; r++) {
            q[r] = load_float(&a->q_bias, head * a->q_bias.stride[0] + r * a->q_bias.stride[1] + n);
            k[r] = load_float(&a->k_bias, head * a->k_bias.stride[0] + r * a->k_bias.stride[1] + n);
        }
        for (int64_t m = a->rank; m < w->wide; m++) q[m] = q[m - a->rank], k[m] = k[m - a->rank];
    }
    memset(w->angle, 0, 2 * (size_t)w->turns * sizeof(float));
    if (a->first_angle.data) {
        load_floats(w->angle, &a->first_angle, sequence * a->first_angle.stride[0] + head * a->first_angle.stride[1], 1,
                    a->angles);
        for (int64_t i = 0; i < a->angles; i++) {
            const double turns = w->angle[i] * 0.15915494309189535, rest = turns - nearest(turns);
            w->angle[i] = (float)rest;
            w->angle[w->turns + i] = (float)(w->angle[i] - rest);
        }
    }
    return t;
}

/* Asks for the elements of one step of v or z: its rows lie too far apart for a processor to foresee the next one. */
INLINE void mamba3_prefetch(const struct mamba3_task *t, const struct tensor *from, int64_t step) {
    const int64_t at = t->batch * from->stride[0] + step * from->stride[1] + t->head * from->stride[2];
    const char *const start = element(from, at), *const end = element(from, at + t->a->head_dim);
    for (const char *line = start; line < end; line += 64) __builtin_prefetch(line, 0, 2);
}

/* Advances the angle over the steps of a chunk, and stores cosines and sines in the rows of each step. */
HELPER void mamba3_angles(const struct mamba3_task *t, int64_t first, int64_t count) {
    const struct mamba3_args *a = t->a;
    const struct mamba3_work *w = t->w;
    for (int64_t i = 0; i < a->angles; i += LANES) {
        const int64_t left = a->angles - i < LANES ? a->angles - i : LANES;
        vec angle = vec_load(w->angle + i), lost = vec_load(w->angle + w->turns + i);
        for (int64_t s = 0; s < count; s++) {
            if (i == 0 && first + count + s < t->end) {
                mamba3_prefetch(t, &a->v, first + count + s);
                if (a->z.data) mamba3_prefetch(t, &a->z, first + count + s);
            }
            const vec rate = load_part(&a->rates,
                                       t->batch * a->rates.stride[0] + (first + s) * a->rates.stride[1] +
                                           t->head * a->rates.stride[2] + i,
                                       1, left);
            /* Kahan's sum. Whole turns are taken away, which is exact. */
            const vec moved = vec_tanh(rate) * vec_set(0.5f * w->dt[s]) - lost, sum = angle + moved;
            lost = (sum - angle) - moved;
            angle = sum - vec_rounded(sum);
            vec cosine, sine;
            vec_cos_sin(angle, &cosine, &sine);
            for (int64_t r = 0; r < a->rank; r++) {
                vec_store(w->cosine_rows + (s * a->rank + r) * w->turns + i, cosine);
                vec_store(w->sine_rows + (s * a->rank + r) * w->turns + i, sine);
            }
        }
        vec_store(w->angle + i, angle);
        vec_store(w->angle + w->turns + i, lost);
    }
    const int64_t rows = count * a->rank;
    const struct tensor cosines = {(char *)w->cosine_rows, FLOAT32, {0}}, sines = {(char *)w->sine_rows, FLOAT32, {0}};
    for (int64_t m = 0; m < w->wide; m += LANES) {
        const struct tile_shape shape = {rows - m < LANES ? (rows > m ? rows - m : 0) : LANES, w->turns, w->turns, 1};
        FOR_ISA(tile_load)(w->cosine + m, w->wide, &cosines, m * w->turns, shape);
        FOR_ISA(tile_load)(w->sine + m, w->wide, &sines, m * w->turns, shape);
    }
}

/* Adds the bias to two rows of q or k and rotates them. */
INLINE void rotate_pair(const struct mamba3_work *w, float *x, const float *bias, int64_t angle, int64_t one,
                        int64_t other) {
    const float *const cosines = w->cosine + angle * w->wide, *const sines = w->sine + angle * w->wide;
    float *const x0 = x + one * w->wide, *const x1 = x + other * w->wide;
    const float *const b0 = bias + one * w->wide, *const b1 = bias + other * w->wide;
    for (int64_t m = 0; m < w->wide; m += LANES) {
        const vec c = vec_load(cosines + m), s = vec_load(sines + m);
        const vec y0 = vec_load(x0 + m) + vec_load(b0 + m), y1 = vec_load(x1 + m) + vec_load(b1 + m);
        vec_store(x0 + m, y0 * c - y1 * s);
        vec_store(x1 + m, y0 * s + y1 * c);
    }
}

INLINE int64_t first_of_pair(const struct mamba3_args *a, int64_t angle) { return a->neighbours ? 2 * angle : angle; }
INLINE int64_t second_of_pair(const struct mamba3_args *a, int64_t angle) {
    return a->neighbours ? 2 * angle + 1 : angle + a->dstate / 2;
}
/* Whether element n of q and k is rotated. */
INLINE int is_rotated(const struct mamba3_args *a, int64_t n) {
    if (a->neighbours) return n < 2 * a->angles;
    return n < a->angles || (n >= a->dstate / 2 && n < a->dstate / 2 + a->angles);
}

/* Reads q or k of a chunk, and rotates it. */
HELPER void mamba3_rotated(const struct mamba3_task *t, const struct tensor *from, float *x, const float *bias,
                           int64_t first, int64_t rows) {
    const struct mamba3_args *a = t->a;
    const struct mamba3_work *w = t->w;
    for (int64_t m = 0; m < w->wide; m += LANES) {
        const struct tile_shape shape = {rows - m < LANES ? (rows > m ? rows - m : 0) : LANES, a->dstate,
                                         from->stride[1], 1};
        FOR_ISA(tile_load)(x + m, w->wide, from,
                           t->batch * from->stride[0] + (first * a->rank + (shape.columns ? m : 0)) * from->stride[1] +
                               t->group * from->stride[2],
                           shape);
    }
    for (int64_t i = 0; i < a->angles; i++) rotate_pair(w, x, bias, i, first_of_pair(a, i), second_of_pair(a, i));
    for (int64_t n = 0; n < a->dstate; n++) {
        if (is_rotated(a, n)) continue;
        for (int64_t m = 0; m < w->wide; m += LANES)
            vec_store(x + n * w->wide + m, vec_load(x + n * w->wide + m) + vec_load(bias + n * w->wide + m));
    }
}

/* Stores the rows of v, or of another tensor of its shape, times those of `weight`. */
HELPER void mamba3_rows(const struct mamba3_task *t, const struct tensor *from, int64_t at, const struct tensor *weight,
                        float *rows) {
    const struct mamba3_args *a = t->a;
    for (int64_t p = 0; p < a->head_dim; p += LANES) {
        const int64_t left = a->head_dim - p < LANES ? a->head_dim - p : LANES;
        const vec x = load_part(from, at + p, 1, left);
        for (int64_t r = 0; r < a->rank; r++) {
            vec y = x;
            if (weight->data)
                y = y * load_part(weight, t->head * weight->stride[0] + r * weight->stride[1] + p, 1, left);
            vec_store(rows + r * t->w->columns + p, y);
        }
    }
}

/* Steps first to first + count - 1 of dt and trap, as `same` and `earlier`, with one step more where there is one. */
HELPER void mamba3_mixes(const struct mamba3_task *t, int64_t first, int64_t count) {
    const struct mamba3_args *a = t->a;
    const struct mamba3_work *w = t->w;
    const int64_t more = first + count < t->end ? count + 1 : count;
#define IN_TIME(name, n)                                                                                \
    load_floats(w->name, &a->name,                                                                      \
                t->batch * a->name.stride[0] + t->head * a->name.stride[1] + first * a->name.stride[2], \
                a->name.stride[2], n)
    IN_TIME(adt, count);
    IN_TIME(dt, more);
    load_floats(w->mix, &a->trap,
                t->batch * a->trap.stride[0] + t->head * a->trap.stride[1] + first * a->trap.stride[2],
                a->trap.stride[2], more);
#undef IN_TIME
    for (int64_t s = 0; s < more; s += LANES) {
        const vec mix = vec_sigmoid(vec_load(w->mix + s)), dt = vec_load(w->dt + s);
        vec_store(w->mix + s, mix);
        vec_store(w->same + s, mix * dt);
        vec_store(w->earlier + s, (vec_set(1.0f) - mix) * dt);
    }
    if (more == count) w->earlier[count] = 0.0f;
    for (int64_t s = 0; s < count; s++) {
        for (int64_t r = 0; r < a->rank; r++) w->weight[s * a->rank + r] = w->same[s] + w->earlier[s + 1];
    }
}

/* Reads a chunk: everything but `products`, `distance`, `present` and the decays. */
HELPER void mamba3_read(const struct mamba3_task *t, int64_t first, int64_t count) {
    const struct mamba3_args *a = t->a;
    const struct mamba3_work *w = t->w;
    const int64_t rows = count * a->rank;
    mamba3_mixes(t, first, count);
    mamba3_angles(t, first, count);
    mamba3_rotated(t, &a->q, w->q, w->q_bias, first, rows);
    mamba3_rotated(t, &a->k, w->k, w->k_bias, first, rows);
    for (int64_t s = 0; s < count; s++)
        mamba3_rows(t, &a->v, t->batch * a->v.stride[0] + (first + s) * a->v.stride[1] + t->head * a->v.stride[2],
                    &a->mimo_v, w->v + s * a->rank * w->columns);
}

/* The number of rows of k, from the first, that matter to TALL rows of q from row m on. */
INLINE int64_t rows_before(const struct mamba3_args *a, int64_t m, int64_t rows) {
    const int64_t last = m + TALL < rows ? m + TALL - 1 : rows - 1;
    return (last / a->rank + 1) * a->rank;
}

/* q k^T, for each row of q with the rows of its own step and of earlier steps. */
HELPER void mamba3_products(const struct mamba3_task *t, int64_t rows) {
    const struct mamba3_work *w = t->w;
    for (int64_t m = 0; m < rows; m += TALL) {
        const struct product p = {.c = w->products + m * w->wide,
                                  .a = w->q + m,
                                  .b = w->k,
                                  .c_row = w->wide,
                                  .a_row = 1,
                                  .a_column = w->wide,
                                  .b_row = w->wide,
                                  .rows = rows - m < TALL ? rows - m : TALL,
                                  .depth = t->a->dstate,
                                  .columns = whole_vectors(rows_before(t->a, m, rows))};
        FOR_ISA(multiply)(&p);
    }
}

/* The decays of a chunk, from its values of adt, and the weights of the rows of k for each step. */
HELPER void mamba3_decays(const struct mamba3_task *t, int64_t count) {
    const struct mamba3_work *w = t->w;
    const int64_t rank = t->a->rank;
    memset(w->distance, 0, (size_t)w->wide * sizeof(float));
    memset(w->present, 0, (size_t)w->wide * sizeof(float));
    memset(w->from_start, 0, (size_t)w->wide * sizeof(float));
    float so_far = 0.0f;
    for (int64_t s = 0; s < count; s++) {
        const int64_t own = s * rank;
        const vec adt = vec_set(w->adt[s]);
        for (int64_t j = 0; j < own; j += LANES) vec_store(w->distance + j, vec_load(w->distance + j) + adt);
        so_far += w->adt[s];
        for (int64_t r = own; r < own + rank; r++) {
            w->distance[r] = 0.0f;
            w->present[r] = w->same[s];
            w->from_start[r] = so_far;
        }
        float *const decays = w->decays + s * w->wide, *const weights = w->weights + s * w->wide;
        int64_t j = 0;
        for (; j < own + rank; j += LANES) {
            const vec decay = vec_exp(vec_load(w->distance + j));
            vec_store(decays + j, decay);
            vec_store(weights + j, decay * vec_load(w->present + j));
        }
        for (; j < w->wide; j += LANES) vec_store(weights + j, vec_set(0.0f));
        for (int64_t r = own; r < own + rank; r++) w->present[r] = w->weight[r];
    }
    for (int64_t j = 0; j < w->wide; j += LANES) {
        vec_store(w->to_end + j, vec_exp(vec_load(w->distance + j)));
        vec_store(w->from_start + j, vec_exp(vec_load(w->from_start + j)));
    }
}
