/* One token through a gated MLP. Lanes are hidden features. */
#include <stdlib.h>

#include "step_simd.h"

int FOR_ISA(gated_mlp)(const struct gated_mlp_args *a) {
    struct scratch layout = {.overflow = a->hidden > LONGEST || a->features > LONGEST};
    scratch_add(&layout, 2, a->hidden + LANES);
    const size_t bytes = scratch_bytes(&layout);
    if (bytes == SIZE_MAX) return TOO_LARGE;
    float *const values = malloc(bytes), *const gate = values + a->hidden;
    if (!values) return NO_MEMORY;
    int failed = project(2 * a->hidden, a->features, a->threads, (struct weights){a->in_packed, a->in_weight}, a->x,
                         a->in_bias, of_floats(values));
    if (!failed) {
        const struct tensor ours = of_floats(values), gates = of_floats(gate);
        for (int64_t i = 0; i < a->hidden; i += LANES) {
            const int64_t count = lanes_left(a->hidden, i);
            store_part(&ours, i, 1, count, load_part(&ours, i, 1, count) * vec_silu(load_part(&gates, i, 1, count)));
        }
        failed = project(a->features, a->hidden, a->threads, (struct weights){a->out_packed, a->out_weight}, ours,
                         a->out_bias, a->out);
    }
    free(values);
    return failed;
}
