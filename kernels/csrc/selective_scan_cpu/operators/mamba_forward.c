/* A Mamba-1 mixer over sequences, by the kernels of its parts. Values between them are float32 in scratch memory, with
   the features of a step adjacent. */
#include <math.h>
#include <stdlib.h>

#include "conv.h"
#include "pages.h"
#include "step_simd.h"

// clang-format off
#define MAMBA_FORWARD_PARTS(PART) \
    PART(xz, steps, 2 * inner) /* the input projection: what is convolved, then the gate */ \
    PART(u, steps, inner) /* the output of the convolution */ \
    PART(projected, steps, narrow) /* rank values, of which delta is the product, then B, then C */ \
    PART(y, steps, inner) /* the sum of the directions */ \
    PART(rates, inner, dstate) /* A = -exp(A_log) */
// clang-format on

struct mamba_forward_layout {
    MAMBA_FORWARD_PARTS(SCRATCH_PLACE)
    struct scratch total;
};

struct mamba_forward_work {
    MAMBA_FORWARD_PARTS(SCRATCH_POINTER)
};

struct direction {
    MAMBA_DIRECTION_FIELDS(MEMBER, )
};

#define VALUE_OF_FIELD(kind, name) a->name,

/* out = x weights^T + bias, for all steps */
static int project_steps(int64_t steps, int64_t columns, int64_t depth, int64_t threads, struct weights weights,
                         struct tensor bias, const float *x, float *out) {
    const struct tensor from = {.data = (char *)(uintptr_t)x, .dtype = FLOAT32, .stride = {depth, 1}};
    const struct tensor to = {.data = (char *)out, .dtype = FLOAT32, .stride = {columns, 1}};
    if (weights.packed) return project_packed(steps, columns, depth, threads, weights, from, bias, to);
    const struct gemm_args args = {
        .rows = steps,
        .columns = columns,
        .depth = depth,
        .threads = threads,
        .x = from,
        .weight = weights.values,
        .bias = bias,
        .out = to,
    };
    return FOR_ISA(gemm)(&args);
}

/* Values of all steps, as an axis of time that runs backward with `reverse`: (batch, head, head_dim, seqlen). */
static struct tensor in_time(const float *data, int64_t seqlen, int64_t pitch, int reverse) {
    const int64_t start = reverse && seqlen ? (seqlen - 1) * pitch : 0;
    return (struct tensor){
        .data = (char *)(uintptr_t)(data + start),
        .dtype = FLOAT32,
        .stride = {seqlen * pitch, 0, 1, reverse ? -pitch : pitch},
    };
}

/* The convolution's view has no axis of heads. */
static struct tensor without_heads(struct tensor t) {
    t.stride[1] = t.stride[2];
    t.stride[2] = t.stride[3];
    t.stride[3] = 0;
    return t;
}

static void negative_exponentials(const float *logs, float *out, int64_t count) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) vec_store(out + i, vec_set(0.0f) - vec_exp(vec_load(logs + i)));
    float last[LANES] = {0};
    memcpy(last, logs + i, (size_t)(count - i) * sizeof *last);
    vec_store(last, vec_set(0.0f) - vec_exp(vec_load(last)));
    memcpy(out + i, last, (size_t)(count - i) * sizeof *last);
}

/* Adds a direction to y, or stores y where it is the first; multiplies the sum by `scale`. */
static int run_direction(const struct mamba_forward_args *a, struct mamba_forward_work *w, const struct direction *d,
                         int reverse, int first, double scale) {
    const int64_t inner = a->inner, rank = a->rank, dstate = a->dstate, seqlen = a->seqlen, narrow = rank + 2 * dstate;
    const struct tensor u = in_time(w->u, seqlen, inner, reverse), none = {0};
    const struct conv_args conv = {
        .batch = a->batch,
        .dim = inner,
        .seqlen = seqlen,
        .width = a->width,
        .silu = 1,
        .threads = a->threads,
        .x = without_heads(in_time(w->xz, seqlen, 2 * inner, reverse)),
        .out = without_heads(u),
        .weight = d->conv_weight,
        .bias = d->conv_bias,
    };
    int failed = FOR_ISA(conv_forward)(&conv);
    if (!failed)
        failed = project_steps(a->batch * seqlen, narrow, inner, a->threads, (struct weights){d->x_packed, d->x_weight},
                               none, w->u, w->projected);
    if (failed) return failed;
    negative_exponentials((const float *)d->A_log.data, w->rates, inner * dstate);
    const struct scan_args scan = {
        .batch = a->batch,
        .heads = 1,
        .head_dim = inner,
        .seqlen = seqlen,
        .dstate = dstate,
        .groups = 1,
        .delta_softplus = 1,
        .variable_B = 1,
        .variable_C = 1,
        .threads = a->threads,
        .delta_min = -INFINITY,
        .delta_max = INFINITY,
        .u = u,
        .delta = in_time(w->projected, seqlen, narrow, reverse),
        .B = in_time(w->projected + rank, seqlen, narrow, reverse),
        .C = in_time(w->projected + rank + dstate, seqlen, narrow, reverse),
        .z = in_time(w->xz + inner, seqlen, 2 * inner, reverse),
        .out = in_time(w->y, seqlen, inner, reverse),
        .onto = first ? none : in_time(w->y, seqlen, inner, reverse),
        .A = {(char *)w->rates, FLOAT32, {0, dstate, 1}},
        .D = {d->D.data, d->D.dtype, {0, d->D.stride[0]}},
        .delta_bias = {d->dt_bias.data, d->dt_bias.dtype, {0, d->dt_bias.stride[0]}},
        .rank = rank,
        .delta_weight = {d->dt_weight.data, d->dt_weight.dtype, {0, d->dt_weight.stride[0], d->dt_weight.stride[1]}},
        .last_state = {a->state.data, a->state.dtype, {a->state.stride[0], 0, a->state.stride[1], a->state.stride[2]}},
        .scale = scale,
    };
    return FOR_ISA(scan_forward)(&scan);
}

/* The last inputs of the convolution, after zeros where the sequence is shorter. */
static void store_conv_state(const struct mamba_forward_args *a, const float *xz) {
    const struct tensor *const state = &a->conv_state;
    for (int64_t b = 0; b < a->batch; b++)
        for (int64_t c = 0; c < a->inner; c++)
            for (int64_t i = 0; i < a->width; i++) {
                const int64_t step = a->seqlen - a->width + i;
                const float value = step < 0 ? 0.0f : xz[(b * a->seqlen + step) * 2 * a->inner + c];
                store_floats(state, b * state->stride[0] + c * state->stride[1] + i * state->stride[2], 1, 1, &value);
            }
}

int FOR_ISA(mamba_forward)(const struct mamba_forward_args *a) {
    const int64_t inner = a->inner, rank = a->rank, dstate = a->dstate;
    /* Operands of one type, as in scratch_add. */
    size_t all_steps;
    if (__builtin_mul_overflow((size_t)a->batch, (size_t)a->seqlen, &all_steps) || all_steps > LONGEST)
        return TOO_LARGE;
    const int64_t steps = (int64_t)all_steps;
    if (inner > LONGEST || rank > LONGEST || dstate > LONGEST || a->features > LONGEST) return TOO_LARGE;
    const int64_t narrow = rank + 2 * dstate;
    struct mamba_forward_layout places = {.total = {0}}, *const layout = &places;
    MAMBA_FORWARD_PARTS(SCRATCH_ADD)
    const size_t bytes = scratch_bytes(&layout->total);
    if (bytes == SIZE_MAX) return TOO_LARGE;
    float *const memory = malloc(bytes);
    if (!memory) return NO_MEMORY;
    use_large_pages(memory, bytes);
    struct mamba_forward_work work, *const w = &work;
    MAMBA_FORWARD_PARTS(SCRATCH_LOCATE)
    const int both = a->back_conv_weight.data != NULL;
    const struct direction forward = {MAMBA_DIRECTION_FIELDS(VALUE_OF_FIELD, )},
                           back = {MAMBA_DIRECTION_FIELDS(VALUE_OF_FIELD, back_)};
    int failed = project_steps(steps, 2 * inner, a->features, a->threads, (struct weights){a->in_packed, a->in_weight},
                               a->in_bias, (const float *)a->x.data, w->xz);
    if (!failed) failed = run_direction(a, w, &forward, 0, 1, both ? 1.0 : a->scale);
    if (!failed && both) failed = run_direction(a, w, &back, 1, 0, a->scale);
    if (!failed)
        failed = project_steps(steps, a->features, inner, a->threads, (struct weights){a->out_packed, a->out_weight},
                               a->out_bias, w->y, (float *)a->out.data);
    if (!failed && a->conv_state.data) store_conv_state(a, w->xz);
    free(memory);
    return failed;
}
