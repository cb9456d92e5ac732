/* The single step. Values per channel are computed for LANES channels at once; then, channel by channel, lanes are
   states. */
#include "kernels.h"
#include "parallel.h"
#include "simd_math.h"

/* exp(dt A), for A or log(-A). */
INLINE vec decay_of(vec dt, vec A, const int is_log) { return vec_exp(dt * (is_log ? -vec_exp(A) : A)); }

/* Advances the states of one channel and returns C . h. */
INLINE float update_channel(const struct state_update_args *a, int64_t state_at, int64_t A_at, int64_t B_at,
                            int64_t C_at, vec dt, vec input, vec tied_decay, const int tied) {
    vec sum = vec_set(0.0f);
    for (int64_t n = 0; n < a->dstate; n += LANES) {
        const int64_t count = a->dstate - n < LANES ? a->dstate - n : LANES;
        const vec h = load_part(&a->state, state_at + n * a->state.stride[3], a->state.stride[3], count);
        const vec B = load_part(&a->B, B_at + n * a->B.stride[2], a->B.stride[2], count);
        const vec C = load_part(&a->C, C_at + n * a->C.stride[2], a->C.stride[2], count);
        vec decay = tied_decay;
        if (!tied)
            decay = decay_of(dt, load_part(&a->A, A_at + n * a->A.stride[2], a->A.stride[2], count), a->A_is_log);
        const vec next = vec_fma(decay, h, input * B);
        store_part(&a->state, state_at + n * a->state.stride[3], a->state.stride[3], count, next);
        if (count < LANES) { /* lanes after the last state are set to 0, since infinity times 0 is NaN */
            float kept[LANES];
            vec_store(kept, C * next);
            for (int64_t i = count; i < LANES; i++) kept[i] = 0.0f;
            sum = sum + vec_load(kept);
        } else {
            sum = vec_fma(C, next, sum);
        }
    }
    return vec_sum(sum);
}

/* Channels that are advanced at once where states are whole vectors of adjacent float32, and how many floats ahead each
   of them is prefetched. */
enum { STREAMS = 4, AHEAD = 512 };

/* Where the decay of a state comes from. */
enum decay { ONE_A_CHANNEL, OF_A, OF_LOG };

/* update_channel for STREAMS channels: B and C are read once, and A where decay is not ONE_A_CHANNEL. */
INLINE void update_streams(const struct state_update_args *a, float *state, const float *A, const float *B,
                           const float *C, const float *dts, const float *inputs, const float *decays, float *outs,
                           const enum decay decay) {
    const int64_t apart = a->state.stride[2], A_apart = a->A.stride[1];
    vec sums[STREAMS];
    UNROLL
    for (int i = 0; i < STREAMS; i++) sums[i] = vec_set(0.0f);
    for (int64_t n = 0; n < a->dstate; n += LANES) {
        const vec b = vec_load(B + n), c = vec_load(C + n);
        UNROLL
        for (int i = 0; i < STREAMS; i++) {
            float *const h = state + i * apart + n;
            __builtin_prefetch(h + AHEAD);
            vec factor;
            if (decay == ONE_A_CHANNEL) {
                factor = vec_set(decays[i]);
            } else {
                const float *const rates = A + i * A_apart + n;
                __builtin_prefetch(rates + AHEAD);
                factor = decay_of(vec_set(dts[i]), vec_load(rates), decay == OF_LOG);
            }
            const vec next = vec_fma(factor, vec_load(h), vec_set(inputs[i]) * b);
            vec_store(h, next);
            sums[i] = vec_fma(c, next, sums[i]);
        }
    }
    UNROLL
    for (int i = 0; i < STREAMS; i++) outs[i] = vec_sum(sums[i]);
}

static int are_whole_vectors(const struct state_update_args *a) {
    const struct tensor *const state = &a->state, *B = &a->B, *C = &a->C;
    return a->dstate % LANES == 0 && state->dtype == FLOAT32 && B->dtype == FLOAT32 && C->dtype == FLOAT32 &&
           state->stride[3] == 1 && B->stride[2] == 1 && C->stride[2] == 1 &&
           (a->A.stride[2] == 0 || (a->A.stride[2] == 1 && a->A.dtype == FLOAT32));
}

static void state_update_task(const void *context, int64_t index, void *scratch) {
    (void)scratch;
    const struct state_update_args *a = context;
    const int64_t tiles = (a->head_dim + LANES - 1) / LANES, first = index % tiles * LANES;
    const int64_t head = index / tiles % a->heads, batch = index / tiles / a->heads,
                  group = head / (a->heads / a->groups);
    const int64_t count = a->head_dim - first < LANES ? a->head_dim - first : LANES;
    const int64_t entry = a->state_indices ? a->state_indices[batch] : batch;
    const int64_t out_at = batch * a->out.stride[0] + head * a->out.stride[1] + first * a->out.stride[2];
    if (entry < 0) {
        store_part(&a->out, out_at, a->out.stride[2], count, vec_set(0.0f));
        return;
    }
#define CHANNELS(t) \
    load_part(&a->t, batch * a->t.stride[0] + head * a->t.stride[1] + first * a->t.stride[2], a->t.stride[2], count)
#define PARAMETER(t) load_part(&a->t, head * a->t.stride[0] + first * a->t.stride[1], a->t.stride[1], count)
    const vec x = CHANNELS(x);
    vec dt = CHANNELS(dt);
    if (a->dt_bias.data) dt = dt + PARAMETER(dt_bias);
    if (a->dt_softplus) dt = vec_softplus(dt);
    const int tied = a->A.stride[2] == 0;
    float dts[LANES], inputs[LANES], decays[LANES], outs[LANES] = {0};
    vec_store(dts, dt);
    vec_store(inputs, dt * x);
    if (tied) {
        const vec A = PARAMETER(A);
        vec_store(decays, decay_of(dt, A, a->A_is_log));
    }
    const int64_t B_at = batch * a->B.stride[0] + group * a->B.stride[1],
                  C_at = batch * a->C.stride[0] + group * a->C.stride[1],
                  head_at = entry * a->state.stride[0] + head * a->state.stride[1];
    int64_t i = 0;
    if (are_whole_vectors(a)) {
        for (; i + STREAMS <= count; i += STREAMS) {
            float *const state = (float *)a->state.data + head_at + (first + i) * a->state.stride[2];
            const int64_t A_at = head * a->A.stride[0] + (first + i) * a->A.stride[1];
            const float *const A = tied ? NULL : (const float *)a->A.data + A_at,
                               *const B = (const float *)a->B.data + B_at, *const C = (const float *)a->C.data + C_at;
#define STREAMS_WITH(decay) update_streams(a, state, A, B, C, dts + i, inputs + i, decays + i, outs + i, decay)
            if (tied) {
                STREAMS_WITH(ONE_A_CHANNEL);
            } else if (a->A_is_log) {
                STREAMS_WITH(OF_LOG);
            } else {
                STREAMS_WITH(OF_A);
            }
#undef STREAMS_WITH
        }
    }
    for (; i < count; i++) {
        const int64_t state_at = head_at + (first + i) * a->state.stride[2];
        const int64_t A_at = head * a->A.stride[0] + (first + i) * a->A.stride[1];
        outs[i] =
            tied ? update_channel(a, state_at, A_at, B_at, C_at, vec_set(dts[i]), vec_set(inputs[i]),
                                  vec_set(decays[i]), 1)
                 : update_channel(a, state_at, A_at, B_at, C_at, vec_set(dts[i]), vec_set(inputs[i]), vec_set(0.0f), 0);
    }
    vec out = vec_load(outs);
    if (a->D.data) out = vec_fma(PARAMETER(D), x, out);
    if (a->z.data) out = out * vec_silu(CHANNELS(z));
    store_part(&a->out, out_at, a->out.stride[2], count, out);
#undef CHANNELS
#undef PARAMETER
}

int FOR_ISA(state_update)(const struct state_update_args *a) {
    const int64_t tiles = (a->head_dim + LANES - 1) / LANES, rows = a->batch * a->heads;
    /* A small problem takes less time than waking a second thread. */
    const int64_t small = rows * a->head_dim * a->dstate < 1 << 17;
    return parallel_run(state_update_task, a, rows * tiles, 0, small ? 1 : a->threads);
}
