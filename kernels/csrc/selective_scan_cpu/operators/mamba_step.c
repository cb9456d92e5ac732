/* One token through a Mamba-1 mixer, by the kernels of its parts. Values between them are float32 in scratch memory. */
#include <stdlib.h>

#include "step_simd.h"

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
    int failed = project(2 * inner, features, a->threads, (struct weights){a->in_packed, a->in_weight}, a->x,
                         a->in_bias, of_floats(xz));
    if (!failed) {
        convolve_step(inner, a->width, &a->conv_weight, &a->conv_bias, &a->conv_state, xz, u);
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
    if (!failed)
        failed = project(features, inner, a->threads, (struct weights){a->out_packed, a->out_weight}, of_floats(y),
                         a->out_bias, a->out);
    free(memory);
    return failed;
}
