/* One token through a mixer, by the kernels of its parts. The values between them are float32 in scratch memory. */
#include <stdlib.h>

#include "kernels.h"
#include "parallel.h"
#include "simd_math.h"

// clang-format off
#define MAMBA_STEP_PARTS(PART) \
    PART(xz, 2, inner) /* the input projection: what is convolved, then the gate */ \
    PART(dt, 1, inner) PART(y, 1, inner) /* y: the output of the state update */ \
    PART(projected, 1, narrow) /* rank values, of which dt is the product, then B, then C */ \
    PART(u, 1, inner + LANES) /* the output of the convolution; silu stores whole vectors */
// clang-format on

struct mamba_step_layout {
    MAMBA_STEP_PARTS(SCRATCH_PLACE)
    struct scratch total;
};

/* Advances the convolution's state by x, and convolves the state. */
static void convolve_step(const struct mamba_step_args *a, const float *x, float *out) {
    const struct tensor *state = &a->conv_state, *weight = &a->conv_weight;
    for (int64_t c = 0; c < a->inner; c++) {
        const int64_t at = c * state->stride[0], weight_at = c * weight->stride[0];
        float sum = a->conv_bias.data ? load_float(&a->conv_bias, c * a->conv_bias.stride[0]) : 0.0f;
        for (int64_t w = 0; w < a->width; w++) {
            float value = x[c];
            if (w + 1 < a->width) load_floats(&value, state, at + (w + 1) * state->stride[1], 1, 1);
            store_floats(state, at + w * state->stride[1], 1, 1, &value);
            sum += load_float(weight, weight_at + w * weight->stride[1]) * value;
        }
        out[c] = sum;
    }
    for (int64_t c = 0; c < a->inner; c += LANES) vec_store(out + c, vec_silu(vec_load(out + c)));
}

INLINE int project(const struct mamba_step_args *a, int64_t rows, int64_t columns, struct tensor weight,
                   struct tensor x, struct tensor bias, struct tensor out) {
    const struct linear_args args = {rows, columns, a->threads, weight, x, bias, out};
    return FOR_ISA(linear)(&args);
}

int FOR_ISA(mamba_step)(const struct mamba_step_args *a) {
    const int64_t inner = a->inner, rank = a->rank, dstate = a->dstate;
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
    int failed = project(a, 2 * inner, a->features, a->in_weight, a->x, a->in_bias, of_floats(xz));
    if (!failed) {
        convolve_step(a, xz, u);
        failed = project(a, narrow, inner, a->x_weight, of_floats(u), none, of_floats(projected));
    }
    if (!failed) failed = project(a, inner, rank, a->dt_weight, of_floats(projected), none, of_floats(dt));
    if (!failed) {
        struct state_update_args step = {
            .batch = 1,
            .heads = 1,
            .head_dim = inner,
            .dstate = dstate,
            .groups = 1,
            .dt_softplus = 1,
            .A_is_log = 1,
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
    if (!failed) failed = project(a, a->features, inner, a->out_weight, of_floats(y), a->out_bias, a->out);
    free(memory);
    return failed;
}
