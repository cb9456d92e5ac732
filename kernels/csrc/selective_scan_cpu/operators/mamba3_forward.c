/* Mamba-3's scan, forward. */
#include "kernels.h"
#include "mamba3_simd.h"

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

int FOR_ISA(mamba3_forward)(const struct mamba3_forward_args *f) {
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
