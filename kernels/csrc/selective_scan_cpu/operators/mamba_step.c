/* One token through a mixer, a block or a model, by the kernels of their parts. Values between them are float32 in
   scratch memory. */
#include <stdlib.h>

#include "kernels.h"
#include "parallel.h"
#include "simd_math.h"

// clang-format off
#define MAMBA_STEP_PARTS(PART) \
    PART(xz, 2, inner) /* the input projection: what is convolved, then the gate */ \
    PART(dt, 1, inner) PART(y, 1, inner) /* y: the output of the state update */ \
    PART(projected, 1, narrow) /* rank values, of which dt is the product, then B, then C */ \
    PART(u, 1, inner + LANES) /* the output of the convolution; silu stores whole vectors */ \
    PART(normed, 1, features)
// clang-format on

struct mamba_step_layout {
    MAMBA_STEP_PARTS(SCRATCH_PLACE)
    struct scratch total;
};

/* Advances the convolution's state by x, and convolves the state. */
static void convolve_step(const struct mamba_step_args *a, const float *x, float *out) {
    const struct tensor *state = &a->conv_state, *weight = &a->conv_weight;
    const int simple = a->width == 4 && state->dtype == FLOAT32 && weight->dtype == FLOAT32 && state->stride[0] == 4 &&
                       state->stride[1] == 1 && weight->stride[0] == 4 && weight->stride[1] == 1;
    for (int64_t c = 0; c < a->inner; c++) {
        float sum = a->conv_bias.data ? load_float(&a->conv_bias, c * a->conv_bias.stride[0]) : 0.0f;
        if (simple) {
            float *const s = (float *)state->data + 4 * c;
            const float *const w = (const float *)weight->data + 4 * c;
            s[0] = s[1], s[1] = s[2], s[2] = s[3], s[3] = x[c];
            for (int i = 0; i < 4; i++) sum += w[i] * s[i];
        } else {
            const int64_t at = c * state->stride[0], weight_at = c * weight->stride[0];
            for (int64_t w = 0; w < a->width; w++) {
                float value = x[c];
                if (w + 1 < a->width) load_floats(&value, state, at + (w + 1) * state->stride[1], 1, 1);
                store_floats(state, at + w * state->stride[1], 1, 1, &value);
                sum += load_float(weight, weight_at + w * weight->stride[1]) * value;
            }
        }
        out[c] = sum;
    }
    for (int64_t c = 0; c < a->inner; c += LANES) vec_store(out + c, vec_silu(vec_load(out + c)));
}

/* A matrix, or packed weights where `packed` is not NULL and `values` are their scales. */
struct weights {
    const int8_t *packed;
    struct tensor values;
};

static int project(int64_t rows, int64_t columns, int64_t threads, struct weights weights, struct tensor x,
                   struct tensor bias, struct tensor out) {
    if (!weights.packed) {
        const struct linear_args args = {rows, columns, threads, weights.values, x, bias, out};
        return FOR_ISA(linear)(&args);
    }
    const struct quantized_args args = {
        .rows = rows,
        .columns = columns,
        .tokens = 1,
        .bits = weights.values.dtype == FLOAT32 ? 8 : 4,
        .threads = threads,
        .weight = weights.packed,
        .scales = weights.values,
        .x = x,
        .bias = bias,
        .out = out,
    };
    return CHOSEN_ISA(quantized, &args); /* it may be compiled for a better set than this file */
}

static int normalize(struct norm_args *args, int64_t features, int64_t threads) {
    args->rows = 1;
    args->dim = args->group = features;
    args->threads = threads;
    return FOR_ISA(norm)(args);
}

int FOR_ISA(mamba_step)(const struct mamba_step_args *a) {
    const int64_t inner = a->inner, rank = a->rank, dstate = a->dstate, features = a->features;
    if (features > LONGEST) return TOO_LARGE;
    if (inner > LONGEST || rank > LONGEST || dstate > LONGEST) return TOO_LARGE;
    const int64_t narrow = rank + 2 * dstate;
    struct mamba_step_layout places = {.total = {0}}, *const layout = &places;
    MAMBA_STEP_PARTS(SCRATCH_ADD)
    const size_t bytes = scratch_bytes(&layout->total);
    if (bytes == SIZE_MAX) return TOO_LARGE;
    float *const memory = malloc(bytes);
    if (!memory) return NO_MEMORY;
    float *const xz = memory + layout->xz, *const z = xz + inner, *const dt = memory + layout->dt,
                 *const y = memory + layout->y;
    float *const projected = memory + layout->projected, *const u = memory + layout->u;
    const struct tensor none = {0};
    struct tensor x = a->x;
    int failed = DONE;
    if (a->norm_weight.data) {
        struct norm_args norm = {
            .rms = a->rms,
            .eps = a->eps,
            .x = a->x,
            .total = a->residual,
            .weight = a->norm_weight,
            .bias = a->norm_bias,
            .out = of_floats(memory + layout->normed),
        };
        if (!a->first) norm.residual = a->residual;
        x = norm.out;
        failed = normalize(&norm, features, a->threads);
    }
    if (!failed)
        failed = project(2 * inner, features, a->threads, (struct weights){a->in_packed, a->in_weight}, x, a->in_bias,
                         of_floats(xz));
    if (!failed) {
        convolve_step(a, xz, u);
        failed = project(narrow, inner, a->threads, (struct weights){a->x_packed, a->x_weight}, of_floats(u), none,
                         of_floats(projected));
    }
    if (!failed)
        failed = project(inner, rank, a->threads, (struct weights){NULL, a->dt_weight}, of_floats(projected), none,
                         of_floats(dt));
    if (!failed) {
        struct state_update_args step = {
            .batch = 1,
            .heads = 1,
            .head_dim = inner,
            .dstate = dstate,
            .groups = 1,
            .dt_softplus = 1,
            .A_is_log = !a->A_is_ready,
            .threads = a->threads,
            .state = {a->state.data, a->state.dtype, {0, 0, a->state.stride[0], a->state.stride[1]}},
            .A = {a->A_log.data, a->A_log.dtype, {0, a->A_log.stride[0], a->A_log.stride[1]}},
            .D = {a->D.data, a->D.dtype, {0, a->D.stride[0]}},
            .dt_bias = {a->dt_bias.data, a->dt_bias.dtype, {0, a->dt_bias.stride[0]}},
        };
        struct tensor *const rows[] = {&step.x, &step.dt, &step.z, &step.out, &step.B, &step.C};
        float *const data[] = {u, dt, z, y, projected + rank, projected + rank + dstate};
        for (int i = 0; i < 6; i++)
            *rows[i] = (struct tensor){.data = (char *)data[i], .dtype = FLOAT32, .stride = {0, 0, 1}};
        failed = FOR_ISA(state_update)(&step);
    }
    if (!failed)
        failed = project(features, inner, a->threads, (struct weights){a->out_packed, a->out_weight}, of_floats(y),
                         a->out_bias, a->out);
    free(memory);
    return failed;
}

int FOR_ISA(mamba_decode)(const struct mamba_decode_args *a) {
    const struct mamba_step_args *const blocks = (const struct mamba_step_args *)(intptr_t)a->blocks;
    for (int64_t i = 0; i < a->count; i++) {
        const int failed = FOR_ISA(mamba_step)(&blocks[i]);
        if (failed) return failed;
    }
    struct norm_args norm = {
        .rms = a->rms,
        .eps = a->eps,
        .x = a->hidden,
        .residual = a->residual,
        .weight = a->norm_weight,
        .bias = a->norm_bias,
        .out = a->hidden,
    };
    const int failed = normalize(&norm, a->features, a->threads);
    if (failed) return failed;
    return project(a->vocabulary, a->features, a->threads, (struct weights){a->head_packed, a->head_weight}, a->hidden,
                   a->head_bias, a->logits);
}
