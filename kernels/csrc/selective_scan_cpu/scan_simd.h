/* The scan through time, for the forward and the backward operator.

   Lanes are channels. A task is a few tiles of LANES channels, which pass through time together, at most MAX_STEPS
   steps at once, so that all channels of the task use one transposed copy of these steps of B and C. Within a tile,
   BLOCK states at a time pass through these steps with h in registers: time is sequential, states and lanes are not. */
#pragma once

#include <math.h>

#include "parallel.h"
#include "scan.h"
#include "simd_math.h"

enum { MAX_STEPS = 256, TASK_CHANNELS = 64, TASK_TILES = TASK_CHANNELS / LANES, BLOCK = 4, PROJECT_STEPS = 8 };

static const float LOG2_E = 0x1.715476p+0f, LN_2 = 0x1.62e430p-1f;

/* All blocks of steps have about the same length, so that the last is not too short for vector loads. */
INLINE int64_t steps_per_tile(const struct scan_args *a) {
    /* Where steps are apart in memory, long tiles were measured to be slower: perhaps they have too many pages. */
    const int64_t along = a->u.stride[3], most = along == 1 || along == -1 ? MAX_STEPS : MAX_STEPS / 4;
    const int64_t tiles = (a->seqlen + most - 1) / most;
    return tiles ? (a->seqlen + tiles - 1) / tiles : 1;
}

INLINE int64_t round_to_lanes(int64_t n) { return (n + LANES - 1) / LANES * LANES; }
INLINE int64_t tiles_per_head(const struct scan_args *a) { return (a->head_dim + LANES - 1) / LANES; }
INLINE int64_t tiles_per_group(const struct scan_args *a) { return a->heads / a->groups * tiles_per_head(a); }
INLINE int64_t tasks_per_group(const struct scan_args *a) { return (tiles_per_group(a) + TASK_TILES - 1) / TASK_TILES; }

/* LANES channels of one head, from `first` on, of which `count` exist; `slot` is the number of the tile in its task. */
struct channels {
    int64_t batch, group, head, first, count, slot;
};

INLINE struct channels channels_of(const struct scan_args *a, int64_t batch, int64_t group, int64_t tile) {
    const int64_t per_head = tiles_per_head(a), first = tile % per_head * LANES, left = a->head_dim - first;
    const int64_t head = group * (a->heads / a->groups) + tile / per_head;
    return (struct channels){batch, group, head, first, left < LANES ? left : LANES, tile % TASK_TILES};
}

/* The offset of the first of these channels in a (batch, head, head_dim, seqlen) tensor. */
INLINE int64_t offset_of(const struct tensor *t, struct channels c, int64_t step) {
    return c.batch * t->stride[0] + c.head * t->stride[1] + c.first * t->stride[2] + step * t->stride[3];
}

/* The shape of a tile in a (batch, head, head_dim, seqlen) tensor, or in a tensor whose last axis is the state. */
INLINE struct tile_shape shape_of(const struct tensor *t, struct channels c, int64_t steps) {
    return (struct tile_shape){c.count, steps, t->stride[2], t->stride[3]};
}

/* A parameter per channel, (head, head_dim); zero where the tensor is absent. */
INLINE vec load_parameter(const struct tensor *t, struct channels c) {
    float values[LANES] = {0};
    if (t->data) load_floats(values, t, c.head * t->stride[0] + c.first * t->stride[1], t->stride[1], c.count);
    return vec_load(values);
}

/* A parameter per channel and state, (head, head_dim, dstate), as dstate rows of lanes. */
INLINE void load_state_parameter(float *out, const struct tensor *t, struct channels c, int64_t dstate) {
    const struct tile_shape s = {c.count, dstate, t->stride[1], t->stride[2]};
    FOR_ISA(tile_load)(out, LANES, t, c.head * t->stride[0] + c.first * t->stride[1], s);
}

/* Steps of B, C or the factor of delta, for one group: a row of `count` states or ranks per step. */
INLINE void load_variable(float *out, int64_t pitch, const struct tensor *t, int64_t batch, int64_t group,
                          int64_t count, int64_t first, int64_t steps) {
    for (int64_t n = 0; n < count; n += LANES) {
        const struct tile_shape s = {count - n < LANES ? count - n : LANES, steps, t->stride[2], t->stride[3]};
        FOR_ISA(tile_load)(out + n, pitch, t,
                           batch * t->stride[0] + group * t->stride[1] + n * t->stride[2] + first * t->stride[3], s);
    }
}

/* The memory of the next tile, which the loop over this tile prefetches: `count` cache lines of 64 bytes, one of each
   of `rows` rows at distances of `pitch` bytes, then the next of each row. The rows are too short, and too far apart,
   for the prefetcher of the processor. */
struct ahead {
    const char *data;
    int64_t pitch, rows, count;
};

INLINE struct ahead ahead_of(const struct tensor *t, struct channels c, int64_t first, int64_t steps) {
    const struct tile_shape s = shape_of(t, c, steps);
    const int64_t size = element_size(t), lines = (steps * size + 63) / 64,
                  along = s.step_stride == 1 || s.step_stride == -1;
    if (!t->data) return (struct ahead){0};
    const char *data = element(t, offset_of(t, c, s.step_stride < 0 ? first + steps - 1 : first));
    if (along) return (struct ahead){data, s.column_stride * size, s.columns, s.columns * lines};
    return (struct ahead){data, (s.step_stride < 0 ? -s.step_stride : s.step_stride) * size, steps, steps};
}

/* The scratch memory of a worker. Each tile of a task keeps its states and rates between blocks of steps. */
// clang-format off
#define SCAN_PARTS(PART) \
    PART(B, MAX_STEPS, pitch) PART(C, MAX_STEPS, pitch) /* [MAX_STEPS][pitch] */ \
    PART(delta, MAX_STEPS, LANES) PART(input, MAX_STEPS, LANES) /* input: delta u */ \
    PART(out, MAX_STEPS, LANES) \
    PART(decay, MAX_STEPS, LANES) PART(keep, MAX_STEPS, LANES) /* with tied A */ \
    PART(before, dstate, LANES) /* the states before a block of steps, for its repetition */ \
    PART(fixed_B, dstate, LANES) PART(fixed_C, dstate, LANES) \
    PART(states, TASK_TILES * LANES, dstate) /* [TASK_TILES][dstate][LANES] */ \
    PART(rates, TASK_TILES * LANES, dstate) /* [TASK_TILES][dstate][LANES]: A log2 e */ \
    PART(projected, MAX_STEPS, rank_pitch) /* [MAX_STEPS][rank_pitch]: a factor of delta */ \
    PART(weights, TASK_TILES * LANES, rank) /* [TASK_TILES][rank][LANES]: the other factor */
// clang-format on

struct scan_layout {
    SCAN_PARTS(SCRATCH_PLACE)
    int64_t pitch, rank_pitch; /* dstate and rank, rounded up to whole vectors */
    struct scratch total;
};

struct workspace {
    SCAN_PARTS(SCRATCH_POINTER)
    int64_t pitch, rank_pitch, dstate;
    struct ahead ahead[4]; /* one for each of the first four blocks of states, which prefetch during their loops */
};

HELPER struct scan_layout scan_layout_of(const struct scan_args *a) {
    const int64_t dstate = a->dstate, rank = a->rank;
    struct scan_layout result = {.total = {.overflow = dstate > LONGEST || rank > LONGEST}}, *const layout = &result;
    if (result.total.overflow) return result;
    const int64_t pitch = result.pitch = round_to_lanes(dstate), rank_pitch = result.rank_pitch = round_to_lanes(rank);
    SCAN_PARTS(SCRATCH_ADD)
    return result;
}

INLINE struct workspace workspace_at(float *memory, const struct scan_layout *layout, const struct scan_args *a) {
    struct workspace result = {.pitch = layout->pitch, .rank_pitch = layout->rank_pitch, .dstate = a->dstate},
                     *const w = &result;
    SCAN_PARTS(SCRATCH_LOCATE)
    return result;
}

INLINE float *slot_of(float *parts, struct channels c, int64_t rows) { return parts + c.slot * rows * LANES; }

/* Reads the parameters of these channels, which all steps use. */
HELPER void load_tile_parameters(struct workspace *w, const struct scan_args *a, struct channels c) {
    float *rates = slot_of(w->rates, c, a->dstate);
    load_state_parameter(rates, &a->A, c, a->dstate);
    for (int64_t n = 0; n < a->dstate * LANES; n += LANES) vec_store(rates + n, vec_load(rates + n) * vec_set(LOG2_E));
    if (a->delta_weight.data) load_state_parameter(slot_of(w->weights, c, a->rank), &a->delta_weight, c, a->rank);
}

/* The range of the exponents in a block. The fast loops need exponents in the range of floats and of the rounding by a
   magic number (FAR); the fastest loop also needs that no power underflows (NEAR). */
enum range { NEAR, FAR, CAREFUL };

/* The variant of a loop: compile-time constants. */
struct variant {
    int tied, careful, far, variable_B, variable_C;
};

/* Computes delta of all steps, PROJECT_STEPS at a time. Rows after the last step are computed too, and not read. */
HELPER void project_delta(struct workspace *w, const float *weights, int64_t rank, int64_t steps) {
    for (int64_t t = 0; t < steps; t += PROJECT_STEPS) {
        const float *rows = w->projected + t * w->rank_pitch;
        vec sums[PROJECT_STEPS];
        UNROLL
        for (int i = 0; i < PROJECT_STEPS; i++) sums[i] = vec_set(0.0f);
        for (int64_t r = 0; r < rank; r++) {
            const vec weight = vec_load(weights + r * LANES);
            UNROLL
            for (int i = 0; i < PROJECT_STEPS; i++)
                sums[i] = vec_fma(vec_set(rows[i * w->rank_pitch + r]), weight, sums[i]);
        }
        UNROLL
        for (int i = 0; i < PROJECT_STEPS; i++) vec_store(w->delta + (t + i) * LANES, sums[i]);
    }
}

/* Rows of a tile that pass through an exponential together: the chain of one row leaves a processor's pipes idle. */
enum { ROWS = 4 };

/* What all rows of prepare() use. */
struct preparation {
    vec D, bias, lowest, highest;
    int has_D, softplus, limited, positive;
};

/* Computes `count` rows: delta after bias and softplus, the input delta u, the output D u; and the bounds of delta. */
INLINE void prepare_rows(float *deltas, float *inputs, float *outs, const int count, const struct preparation *p,
                         vec *delta_high, vec *delta_low) {
    vec delta[ROWS], e[ROWS];
    UNROLL
    for (int i = 0; i < count; i++) delta[i] = vec_load(deltas + i * LANES) + p->bias;
    if (p->softplus) {
        UNROLL
        for (int i = 0; i < count; i++) e[i] = vec_exp_minus_abs(delta[i]);
        UNROLL
        for (int i = 0; i < count; i++) delta[i] = vec_softplus_of(delta[i], e[i]);
    }
    UNROLL
    for (int i = 0; i < count; i++) {
        const vec u = vec_load(inputs + i * LANES);
        /* for NaN, max returns its second operand */
        if (p->limited) delta[i] = vec_max(p->lowest, -vec_max(-p->highest, -delta[i]));
        *delta_high = vec_max(*delta_high, delta[i]);
        if (!p->positive) *delta_low = vec_max(*delta_low, -delta[i]);
        vec_store(deltas + i * LANES, delta[i]);
        vec_store(inputs + i * LANES, delta[i] * u);
        vec out = vec_set(0.0f);
        if (p->has_D) out = p->D * u; /* 0 u could be NaN */
        vec_store(outs + i * LANES, out);
    }
}

/* Multiplies `count` rows of the output by silu of rows of the gate. */
INLINE void gate_rows(float *outs, const float *gates, const int count) {
    vec z[ROWS], e[ROWS];
    UNROLL
    for (int i = 0; i < count; i++) z[i] = vec_load(gates + i * LANES);
    UNROLL
    for (int i = 0; i < count; i++) e[i] = vec_exp_minus_abs(z[i]);
    UNROLL
    for (int i = 0; i < count; i++) vec_store(outs + i * LANES, vec_load(outs + i * LANES) * vec_silu_of(z[i], e[i]));
}

/* Reads delta and u, and computes the loops' inputs from them: delta after bias and softplus, delta u, D u. */
HELPER enum range prepare(const struct scan_args *a, struct workspace *w, struct channels c, int64_t first,
                          int64_t steps) {
    float *const deltas = w->delta, *const inputs = w->input, *const outs = w->out;
    FOR_ISA(tile_load)(inputs, LANES, &a->u, offset_of(&a->u, c, first), shape_of(&a->u, c, steps));
    if (a->delta_weight.data) project_delta(w, slot_of(w->weights, c, a->rank), a->rank, steps);
    else FOR_ISA(tile_load)(deltas, LANES, &a->delta, offset_of(&a->delta, c, first), shape_of(&a->delta, c, steps));
    const struct preparation p = {
        .D = load_parameter(&a->D, c),
        .bias = load_parameter(&a->delta_bias, c),
        .lowest = vec_set((float)a->delta_min),
        .highest = vec_set((float)a->delta_max),
        .has_D = a->D.data != NULL,
        .softplus = a->delta_softplus != 0,
        .limited = a->delta_min > -INFINITY || a->delta_max < INFINITY,
        .positive = a->delta_softplus && !(a->delta_max < 0.0),
    };
    vec delta_high = vec_set(0.0f), delta_low = delta_high, rate_high = delta_high, rate_low = delta_high;
    int64_t t = 0;
    for (; t + ROWS <= steps; t += ROWS)
        prepare_rows(deltas + t * LANES, inputs + t * LANES, outs + t * LANES, ROWS, &p, &delta_high, &delta_low);
    for (; t < steps; t++)
        prepare_rows(deltas + t * LANES, inputs + t * LANES, outs + t * LANES, 1, &p, &delta_high, &delta_low);
    const float *rates = slot_of(w->rates, c, a->dstate);
    for (int64_t n = 0; n < (a->tied_A ? 1 : a->dstate); n++) {
        const vec rate = vec_load(rates + n * LANES);
        rate_high = vec_max(rate_high, rate);
        rate_low = vec_max(rate_low, -rate);
    }
    const vec growth = vec_max(delta_high * rate_high, delta_low * rate_low);
    const vec size = vec_max(delta_high, delta_low) * vec_max(rate_high, rate_low);
    if (!vec_all_below(growth, vec_set(127.0f)) || !vec_all_below(size, vec_set(0x1p17f))) return CAREFUL;
    return vec_all_below(size, vec_set(126.0f)) ? NEAR : FAR;
}

HELPER int all_finite(const float *values, int64_t rows) {
    vec largest = vec_set(0.0f), nan = vec_set(0.0f);
    for (int64_t i = 0; i < rows; i++) {
        const vec v = vec_load(values + i * LANES);
        largest = vec_max(largest, vec_abs(v));
        nan = nan + v * vec_set(0.0f); /* NaN for infinity and NaN, which the maximum can lose */
    }
    return vec_all_below(largest, vec_set(INFINITY)) && vec_all_below(nan, vec_set(1.0f));
}

/* Advances h through the steps by the loop for `range`, and adds C h of each step to w->out. */
void FOR_ISA(scan_block)(const struct scan_args *a, struct workspace *w, struct channels c, float *h, int64_t first,
                         int64_t steps, enum range range);
#if defined __aarch64__
/* All sets have the same vectors, so that the base code of the scan can call the loops of a better set. */
MAYBE_COMPILED void scan_block_sve(const struct scan_args *a, struct workspace *w, struct channels c, float *h,
                                   int64_t first, int64_t steps, enum range range);
#define SCAN_BLOCK (chosen_isa >= ISA_sve && scan_block_sve ? scan_block_sve : FOR_ISA(scan_block))
#else
#define SCAN_BLOCK FOR_ISA(scan_block)
#endif

/* Advances h through the steps, and stores the output before the gate in w->out. */
void FOR_ISA(scan_tile_states)(const struct scan_args *a, struct workspace *w, struct channels c, float *h,
                               int64_t first, int64_t steps);
