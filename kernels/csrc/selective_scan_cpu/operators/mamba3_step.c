/* One token through a Mamba-3 mixer. Lanes are elements of the state's last axis. */
#include <math.h>
#include <stdlib.h>

#include "kernels.h"
#include "mamba3_chunk_simd.h"
#include "step_simd.h"

// clang-format off
/* What one worker needs for a head. */
#define MAMBA3_HEAD_PARTS(PART) \
    PART(q, rank, states) PART(k, rank, states) PART(before_k, rank, states) \
    PART(v, rank, columns) PART(before_v, rank, columns) PART(y, rank, columns) \
    PART(cosine, 1, turns) PART(sine, 1, turns) PART(sums, rank, lanes)
// clang-format on

struct mamba3_head_layout {
    MAMBA3_HEAD_PARTS(SCRATCH_PLACE)
    struct scratch total;
};
struct mamba3_head {
    MAMBA3_HEAD_PARTS(SCRATCH_POINTER)
};

struct mamba3_step_context {
    const struct mamba3_step_args *a;
    struct mamba3_head_layout layout;
    int64_t states, columns;
    const float *z, *v, *B, *C, *dt, *A, *trap, *angles; /* parts of the input projection */
    float *y;                                            /* (head, head_dim) */
};

/* `rows` rows of the norm, in place: x / sqrt(mean of squares + eps) weight */
static void normalise_rows(float *x, int64_t rows, int64_t n, const struct tensor *weight, int64_t at, float eps) {
    for (int64_t r = 0; r < rows; r++) {
        float *const row = x + r * n;
        const float scale = 1.0f / sqrtf(mean_of_squares(row, n, 0.0f) + eps);
        for (int64_t i = 0; i < n; i++) row[i] *= scale * load_float(weight, (at + i) * weight->stride[0]);
    }
}

/* Turns the head's angle, keeps it in 0 to 2 pi, and stores its cosines and sines. */
static void turn_head(const struct mamba3_step_context *c, const struct mamba3_head *w, int64_t head, float dt) {
    const struct mamba3_step_args *a = c->a;
    const struct tensor *angle = &a->angle;
    const vec whole = vec_set(0x1.921fb6p+2f), part = vec_set(0x1.45f306p-3f);
    for (int64_t i = 0; i < a->angles; i += LANES) {
        const int64_t left = lanes_left(a->angles, i), at = head * angle->stride[0] + i * angle->stride[1];
        const struct tensor rates = of_floats((float *)c->angles);
        const vec rate = load_part(&rates, i, 1, left);
        vec turns = load_part(angle, at, angle->stride[1], left) * part + vec_tanh(rate) * vec_set(0.5f * dt);
        turns = turns - vec_rounded(turns);
        vec cosine, sine;
        vec_cos_sin(turns, &cosine, &sine);
        vec_store(w->cosine + i, cosine);
        vec_store(w->sine + i, sine);
        store_part(angle, at, angle->stride[1], left,
                   vec_add_where(turns, vec_greater(vec_set(0.0f), turns), vec_set(1.0f)) * whole);
    }
}

/* Row r of B or C with its bias, rotated. */
static void rotate_row(const struct mamba3_step_context *c, const struct mamba3_head *w, const float *from,
                       const struct tensor *bias, int64_t head, int64_t r, float *to) {
    const struct mamba3_step_args *a = c->a;
    const int64_t group = head / (a->heads / a->groups);
    const float *const row = from + (r * a->groups + group) * a->dstate;
    load_floats(to, bias, head * bias->stride[0] + r * bias->stride[1], bias->stride[2], a->dstate);
    for (int64_t n = 0; n < a->dstate; n++) to[n] += row[n];
    for (int64_t i = 0; i < a->angles; i++) {
        const int64_t one = a->neighbours ? 2 * i : i, other = a->neighbours ? 2 * i + 1 : i + a->dstate / 2;
        const float x = to[one], y = to[other];
        to[one] = x * w->cosine[i] - y * w->sine[i];
        to[other] = x * w->sine[i] + y * w->cosine[i];
    }
    for (int64_t n = a->dstate; n < c->states; n++) to[n] = 0.0f;
}

/* Advances the states of one element of v by all ranks, and stores the products with q. */
INLINE void advance_row(const struct mamba3_step_context *c, const struct mamba3_head *w, int64_t at, int64_t p,
                        vec decay, float earlier, float same, const int64_t rank) {
    const struct mamba3_step_args *a = c->a;
    vec sum = vec_set(0.0f);
    for (int64_t r = 0; r < rank; r++) vec_store(w->sums + r * LANES, sum);
    for (int64_t n = 0; n < a->dstate; n += LANES) {
        const int64_t left = lanes_left(a->dstate, n);
        vec h = load_part(&a->state, at + n, 1, left) * decay;
        for (int64_t r = 0; r < rank; r++) {
            h = vec_fma(vec_set(earlier * w->before_v[r * c->columns + p]), vec_load(w->before_k + r * c->states + n),
                        h);
            h = vec_fma(vec_set(same * w->v[r * c->columns + p]), vec_load(w->k + r * c->states + n), h);
        }
        store_part(&a->state, at + n, 1, left, h);
        if (rank == 1) sum = vec_fma(h, vec_load(w->q + n), sum);
        else
            for (int64_t r = 0; r < rank; r++)
                vec_store(w->sums + r * LANES,
                          vec_fma(h, vec_load(w->q + r * c->states + n), vec_load(w->sums + r * LANES)));
    }
    if (rank == 1) w->y[p] = vec_sum(sum);
    else
        for (int64_t r = 0; r < rank; r++) w->y[r * c->columns + p] = vec_sum(vec_load(w->sums + r * LANES));
}

#define WEIGHT(name, p) load_float(&a->name, head * a->name.stride[0] + r * a->name.stride[1] + (p) * a->name.stride[2])

/* y of a head, from the rows w->y: D v, the gate or the norm, and the sum over the ranks. */
static void finish_head(const struct mamba3_step_context *c, const struct mamba3_head *w, int64_t head) {
    const struct mamba3_step_args *a = c->a;
    const float D = a->D.data ? load_float(&a->D, head * a->D.stride[0]) : 0.0f;
    const float *const z = c->z + head * a->head_dim;
    float *const out = c->y + head * a->head_dim;
    memset(out, 0, (size_t)a->head_dim * sizeof(float));
    for (int64_t r = 0; r < a->rank; r++) {
        float *const y = w->y + r * c->columns, *const gate = w->before_v + r * c->columns;
        for (int64_t p = 0; p < a->head_dim; p++) {
            y[p] += D * w->v[r * c->columns + p];
            gate[p] = z[p] * (a->mimo_z.data ? WEIGHT(mimo_z, p) : 1.0f);
        }
        if (a->norm_weight.data)
            normalise_rows(y, 1, a->head_dim, &a->norm_weight, head * a->head_dim, (float)a->norm_eps);
        for (int64_t p = 0; p < a->head_dim; p += LANES) vec_store(gate + p, vec_silu(vec_load(gate + p)));
        for (int64_t p = 0; p < a->head_dim; p++)
            out[p] += y[p] * gate[p] * (a->mimo_out.data ? WEIGHT(mimo_out, p) : 1.0f);
    }
}

static void mamba3_head_task(const void *context, int64_t head, void *scratch) {
    const struct mamba3_step_context *c = context;
    const struct mamba3_step_args *a = c->a;
    const struct mamba3_head_layout *const layout = &c->layout;
    float *const memory = scratch;
    struct mamba3_head work, *const w = &work;
    MAMBA3_HEAD_PARTS(SCRATCH_LOCATE)
    float lanes[3][LANES] = {{0}};
    lanes[0][0] = c->dt[head] + load_float(&a->dt_bias, head * a->dt_bias.stride[0]);
    lanes[0][1] = c->A[head];
    lanes[1][0] = c->trap[head];
    vec_store(lanes[0], vec_softplus(vec_load(lanes[0])));
    vec_store(lanes[1], vec_sigmoid(vec_load(lanes[1])));
    const float dt = lanes[0][0], mix = lanes[1][0];
    const float A = lanes[0][1] < (float)a->A_floor ? (float)a->A_floor : lanes[0][1]; /* NaN stays NaN */
    vec_store(lanes[2], vec_exp(vec_set(-A * dt)));
    const float decay = lanes[2][0], earlier = decay * (1.0f - mix) * dt, same = mix * dt;
    turn_head(c, w, head, dt);
    float *const v_before = w->y; /* free until the state is advanced */
    for (int64_t r = 0; r < a->rank; r++) {
        rotate_row(c, w, c->C, &a->C_bias, head, r, w->q + r * c->states);
        rotate_row(c, w, c->B, &a->B_bias, head, r, w->k + r * c->states);
        const int64_t k_at = r * a->k.stride[0] + head * a->k.stride[1];
        load_floats(w->before_k + r * c->states, &a->k, k_at, a->k.stride[2], a->dstate);
        for (int64_t n = a->dstate; n < c->states; n++) w->before_k[r * c->states + n] = 0.0f;
        store_floats(&a->k, k_at, a->k.stride[2], a->dstate, w->k + r * c->states);
        load_floats(v_before, &a->v, head * a->v.stride[0], a->v.stride[1], a->head_dim);
        for (int64_t p = 0; p < a->head_dim; p++) {
            const float weight = a->mimo_v.data ? WEIGHT(mimo_v, p) : 1.0f;
            w->before_v[r * c->columns + p] = v_before[p] * weight;
            w->v[r * c->columns + p] = c->v[head * a->head_dim + p] * weight;
        }
    }
    store_floats(&a->v, head * a->v.stride[0], a->v.stride[1], a->head_dim, c->v + head * a->head_dim);
    for (int64_t p = 0; p < a->head_dim; p++) {
        const int64_t at = head * a->state.stride[0] + p * a->state.stride[1];
        if (a->rank == 1) advance_row(c, w, at, p, vec_set(decay), earlier, same, 1);
        else advance_row(c, w, at, p, vec_set(decay), earlier, same, a->rank);
    }
    finish_head(c, w, head);
}
#undef WEIGHT

int FOR_ISA(mamba3_step)(const struct mamba3_step_args *a) {
    if (a->heads > LONGEST >> 8 || a->head_dim > LONGEST >> 8 || a->rank > LONGEST >> 8 || a->dstate > LONGEST >> 8 ||
        a->groups > LONGEST >> 8 || a->angles > LONGEST)
        return TOO_LARGE;
    int64_t inner, width;
    if (__builtin_mul_overflow(a->heads, a->head_dim, &inner) ||
        __builtin_mul_overflow(a->rank * a->groups, a->dstate, &width) || inner > LONGEST || width > LONGEST)
        return TOO_LARGE;
    struct mamba3_step_context c = {.a = a, .states = whole_vectors(a->dstate), .columns = whole_vectors(a->head_dim)};
    struct mamba3_head_layout *const layout = &c.layout;
    const int64_t rank = a->rank, states = c.states, columns = c.columns, turns = whole_vectors(a->angles),
                  lanes = LANES;
    MAMBA3_HEAD_PARTS(SCRATCH_ADD)
    if (scratch_bytes(&layout->total) == SIZE_MAX) return TOO_LARGE;
    const int64_t rows = 2 * inner + 2 * width + 3 * a->heads + a->angles;
    float *const projected = malloc((size_t)(rows + inner) * sizeof(float));
    if (!projected) return NO_MEMORY;
    c.z = projected, c.v = c.z + inner, c.B = c.v + inner, c.C = c.B + width, c.dt = c.C + width;
    c.A = c.dt + a->heads, c.trap = c.A + a->heads, c.angles = c.trap + a->heads, c.y = projected + rows;
    int failed = project(rows, a->features, a->threads, (struct weights){a->in_packed, a->in_weight}, a->x, a->in_bias,
                         of_floats(projected));
    if (!failed) {
        normalise_rows(projected + 2 * inner, rank * a->groups, a->dstate, &a->B_weight, 0, (float)a->B_eps);
        normalise_rows(projected + 2 * inner + width, rank * a->groups, a->dstate, &a->C_weight, 0, (float)a->C_eps);
        const int64_t small = inner * a->dstate < 1 << 17;
        failed = parallel_run(mamba3_head_task, &c, a->heads, scratch_bytes(&layout->total), small ? 1 : a->threads);
    }
    if (!failed)
        failed = project(a->features, inner, a->threads, (struct weights){a->out_packed, a->out_weight}, of_floats(c.y),
                         a->out_bias, a->out);
    free(projected);
    return failed;
}
