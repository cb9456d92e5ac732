/* One token through a Mamba-2 mixer, by the kernels of its parts. Values between them are float32 in scratch memory. */
#include <stdlib.h>

#include "step_simd.h"

// clang-format off
#define MAMBA2_STEP_PARTS(PART) \
    PART(projected, 1, rows) /* the input projection */ \
    PART(dt, 1, heads + LANES) \
    PART(u, 1, channels + LANES) /* the output of the convolution; silu stores whole vectors */ \
    PART(y, 1, mlp + inner) /* the input of the output projection */
// clang-format on

struct mamba2_step_layout {
    MAMBA2_STEP_PARTS(SCRATCH_PLACE)
    struct scratch total;
};

/* dt = softplus(dt + bias), at least dt_min and at most dt_max; NaN stays NaN. */
static void step_sizes(const struct mamba2_step_args *a, const float *projected, float *dt) {
    const struct tensor from = of_floats((float *)projected);
    for (int64_t h = 0; h < a->heads; h += LANES) {
        const int64_t count = lanes_left(a->heads, h);
        vec sizes = load_part(&from, h, 1, count);
        if (a->dt_bias.data)
            sizes = sizes + load_part(&a->dt_bias, h * a->dt_bias.stride[0], a->dt_bias.stride[0], count);
        vec_store(dt + h, vec_softplus(sizes));
    }
    const float least = (float)a->dt_min, most = (float)a->dt_max;
    for (int64_t h = 0; h < a->heads; h++) dt[h] = dt[h] < least ? least : dt[h] > most ? most : dt[h];
}

/* out = silu(gate) * values */
static void gate_mlp(int64_t n, float *gate, float *values, float *out) {
    const struct tensor gates = of_floats(gate), ours = of_floats(values), to = of_floats(out);
    for (int64_t i = 0; i < n; i += LANES) {
        const int64_t count = lanes_left(n, i);
        store_part(&to, i, 1, count, vec_silu(load_part(&gates, i, 1, count)) * load_part(&ours, i, 1, count));
    }
}

int FOR_ISA(mamba2_step)(const struct mamba2_step_args *a) {
    const int64_t heads = a->heads, mlp = a->mlp, short_enough = LONGEST >> 8;
    int64_t inner, width;
    if (heads > short_enough || a->groups > short_enough || mlp > short_enough || a->features > LONGEST)
        return TOO_LARGE;
    if (__builtin_mul_overflow(heads, a->head_dim, &inner) || __builtin_mul_overflow(a->groups, a->dstate, &width) ||
        inner > short_enough || width > short_enough)
        return TOO_LARGE;
    const int64_t channels = inner + 2 * width, rows = 2 * mlp + inner + channels + heads;
    struct mamba2_step_layout places = {.total = {0}}, *const layout = &places;
    MAMBA2_STEP_PARTS(SCRATCH_ADD)
    const size_t bytes = scratch_bytes(&layout->total);
    if (bytes == SIZE_MAX) return TOO_LARGE;
    float *const memory = malloc(bytes);
    if (!memory) return NO_MEMORY;
    float *const projected = memory + layout->projected, *const z = projected + 2 * mlp, *const v = z + inner;
    float *const dt = memory + layout->dt, *const u = memory + layout->u, *const y = memory + layout->y;
    int failed = project(rows, a->features, a->threads, (struct weights){a->in_packed, a->in_weight}, a->x, a->in_bias,
                         of_floats(projected));
    if (!failed) {
        convolve_step(channels, a->width, &a->conv_weight, &a->conv_bias, &a->conv_state, v, u);
        step_sizes(a, v + channels, dt);
        gate_mlp(mlp, projected, projected + mlp, y);
        const int64_t head_dim = a->head_dim, dstate = a->dstate;
        struct tensor out = of_floats(y + mlp), gate = of_floats(z), B = of_floats(u + inner);
        struct state_update_args step = {
            .batch = 1,
            .heads = heads,
            .head_dim = head_dim,
            .dstate = dstate,
            .groups = a->groups,
            .A_is_log = 1,
            .threads = a->threads,
            .state = {a->state.data, a->state.dtype, {0, a->state.stride[0], a->state.stride[1], a->state.stride[2]}},
            .x = {(char *)u, FLOAT32, {0, head_dim, 1}},
            .dt = {(char *)dt, FLOAT32, {0, 1, 0}},
            .out = {out.data, FLOAT32, {0, head_dim, 1}},
            .A = {a->A_log.data, a->A_log.dtype, {a->A_log.stride[0], 0, 0}},
            .B = {B.data, FLOAT32, {0, dstate, 1}},
            .C = {(char *)(u + inner + width), FLOAT32, {0, dstate, 1}},
            .D = a->D,
        };
        if (!a->norm_weight.data) step.z = (struct tensor){gate.data, FLOAT32, {0, head_dim, 1}};
        failed = FOR_ISA(state_update)(&step);
        if (!failed && a->norm_weight.data) {
            const struct norm_args norm = {
                .rows = 1,
                .dim = inner,
                .group = a->norm_group,
                .rms = 1,
                .gate = a->norm_gate,
                .threads = a->threads,
                .eps = a->norm_eps,
                .x = out,
                .z = gate,
                .out = out,
                .weight = a->norm_weight,
                .bias = a->norm_bias,
            };
            failed = FOR_ISA(norm)(&norm);
        }
    }
    if (!failed)
        failed = project(a->features, mlp + inner, a->threads, (struct weights){a->out_packed, a->out_weight},
                         of_floats(y), a->out_bias, a->out);
    free(memory);
    return failed;
}
