/* The gradient of the scan, after scan_simd.h.

   Of the forward pass, only the inputs are kept. Each set of tiles passes through time twice: forwards, to store the
   states at the start of every block of BACK_STEPS steps; then backwards over the blocks, where the states of a block
   are computed again from its first states, and then its gradients from the last step to the first. */
#include "kernels.h"
#include "scan_simd.h"

enum { BACK_STEPS = 64 };

INLINE int64_t back_blocks(const struct scan_args *a) { return (a->seqlen + BACK_STEPS - 1) / BACK_STEPS; }

// clang-format off
#define BACK_PARTS(PART) \
    PART(u, BACK_STEPS, LANES) PART(z, BACK_STEPS, LANES) PART(grad_out, BACK_STEPS, LANES) \
    PART(grad_y, BACK_STEPS, LANES) /* the gradient of out before the gate */ \
    PART(grad_input, BACK_STEPS, LANES) /* the gradient of delta u */ \
    PART(grad_decay, BACK_STEPS, LANES) /* the gradient of delta from exp(delta A) alone, divided by ln 2 */ \
    PART(states, (BACK_STEPS + 1) * BLOCK, LANES) /* [BACK_STEPS + 1][BLOCK][LANES] */ \
    PART(decays, BACK_STEPS * BLOCK, LANES) /* [BACK_STEPS][BLOCK][LANES] */ \
    PART(grad_B, projection_rows, LANES) /* [BACK_STEPS][pitch][LANES], or like grad_A */ \
    PART(grad_C, projection_rows, LANES) \
    PART(carry, TASK_TILES * LANES, dstate) /* [TASK_TILES][dstate][LANES]: the gradient of a block's last states */ \
    PART(grad_A, TASK_TILES * LANES, dstate) /* [TASK_TILES][dstate][LANES] */ \
    PART(grad_D, TASK_TILES, LANES) PART(grad_bias, TASK_TILES, LANES) \
    PART(starts, blocks, TASK_TILES * LANES * dstate) /* [blocks][TASK_TILES][dstate][LANES]: a block's first states */
// clang-format on

struct back_layout {
    BACK_PARTS(SCRATCH_PLACE)
    struct scratch total;
};

struct back_workspace {
    struct workspace scan; /* the forward scan's arrays, for one block */
    BACK_PARTS(SCRATCH_POINTER)
};

/* The arrays of the backward scan, after those of the forward scan. */
static struct back_layout back_layout_of(const struct scan_args *a, const struct scan_layout *scan) {
    const int64_t dstate = a->dstate, blocks = back_blocks(a);
    struct back_layout result = {.total = scan->total}, *const layout = &result;
    if (result.total.overflow) return result;
    const int64_t rows = BACK_STEPS * scan->pitch, fixed = TASK_TILES * dstate,
                  projection_rows = rows > fixed ? rows : fixed;
    BACK_PARTS(SCRATCH_ADD)
    return result;
}

/* States first to first + count - 1: forwards through the block, then backwards. */
INLINE void back_states(struct back_workspace *w, const float *start, const float *rates, float *carries, float *grad_A,
                        float *grad_fixed_B, float *grad_fixed_C, int64_t first, const int count, int64_t steps,
                        const struct variant v) {
    const struct workspace *s = &w->scan;
    vec h[BLOCK], rate[BLOCK], B[BLOCK], C[BLOCK], carry[BLOCK], dA[BLOCK], dB[BLOCK], dC[BLOCK];
    UNROLL
    for (int i = 0; i < count; i++) {
        const int64_t at = (first + i) * LANES;
        h[i] = vec_load(start + at);
        rate[i] = vec_load(rates + at);
        carry[i] = vec_load(carries + at);
        dA[i] = vec_load(grad_A + at);
        if (!v.variable_B) B[i] = vec_load(s->fixed_B + at), dB[i] = vec_load(grad_fixed_B + at);
        if (!v.variable_C) C[i] = vec_load(s->fixed_C + at), dC[i] = vec_load(grad_fixed_C + at);
        vec_store(w->states + i * LANES, h[i]);
    }
    for (int64_t t = 0; t < steps; t++) {
        const vec delta = vec_load(s->delta + t * LANES), input = vec_load(s->input + t * LANES);
        vec out = vec_load(s->out + t * LANES);
        UNROLL
        for (int i = 0; i < count; i++) {
            const vec pushed = input * (v.variable_B ? vec_set(s->B[t * s->pitch + first + i]) : B[i]);
            mask slow = vec_greater(rate[i], rate[i]); /* no lane */
            const vec decay =
                v.careful ? vec_exp(delta * rate[i] * vec_set(LN_2)) : vec_exp2_decay(delta * rate[i], &slow);
            h[i] = vec_add_where(vec_fma(decay, h[i], pushed), slow, h[i]);
            out = vec_fma(v.variable_C ? vec_set(s->C[t * s->pitch + first + i]) : C[i], h[i], out);
            vec_store(w->decays + (t * BLOCK + i) * LANES, decay);
            vec_store(w->states + ((t + 1) * BLOCK + i) * LANES, h[i]);
        }
        vec_store(s->out + t * LANES, out);
    }
    for (int64_t t = steps - 1; t >= 0; t--) {
        const vec delta = vec_load(s->delta + t * LANES), input = vec_load(s->input + t * LANES),
                  dy = vec_load(w->grad_y + t * LANES);
        vec grad_input = vec_load(w->grad_input + t * LANES), grad_decay = vec_load(w->grad_decay + t * LANES);
        UNROLL
        for (int i = 0; i < count; i++) {
            const vec before = vec_load(w->states + (t * BLOCK + i) * LANES),
                      after = vec_load(w->states + ((t + 1) * BLOCK + i) * LANES);
            const vec decay = vec_load(w->decays + (t * BLOCK + i) * LANES);
            const mask slow = v.careful ? vec_greater(rate[i], rate[i]) : vec_greater(delta * rate[i], vec_set(-0.5f));
            const vec grad = vec_fma(v.variable_C ? vec_set(s->C[t * s->pitch + first + i]) : C[i], dy, carry[i]);
            const int64_t at = (t * s->pitch + first + i) * LANES;
            if (v.variable_C) vec_store(w->grad_C + at, vec_fma(dy, after, vec_load(w->grad_C + at)));
            else dC[i] = vec_fma(dy, after, dC[i]);
            if (v.variable_B) vec_store(w->grad_B + at, vec_fma(grad, input, vec_load(w->grad_B + at)));
            else dB[i] = vec_fma(grad, input, dB[i]);
            grad_input = vec_fma(grad, v.variable_B ? vec_set(s->B[t * s->pitch + first + i]) : B[i], grad_input);
            /* d exp(delta A) = exp(delta A) (A d delta + delta dA) */
            const vec grad_exponent = grad * vec_add_where(decay * before, slow, before);
            grad_decay = vec_fma(grad_exponent, rate[i], grad_decay);
            dA[i] = vec_fma(grad_exponent, delta, dA[i]);
            carry[i] = vec_add_where(decay * grad, slow, grad);
        }
        vec_store(w->grad_input + t * LANES, grad_input);
        vec_store(w->grad_decay + t * LANES, grad_decay);
    }
    UNROLL
    for (int i = 0; i < count; i++) {
        const int64_t at = (first + i) * LANES;
        vec_store(carries + at, carry[i]);
        vec_store(grad_A + at, dA[i]);
        if (!v.variable_B) vec_store(grad_fixed_B + at, dB[i]);
        if (!v.variable_C) vec_store(grad_fixed_C + at, dC[i]);
    }
}

INLINE void back_all_states(struct back_workspace *w, const float *start, int64_t tile, int64_t steps,
                            const struct variant v) {
    const int64_t states = w->scan.dstate, at = tile * states * LANES;
    const float *rates = w->scan.rates + at;
    int64_t n = 0;
    for (; n + BLOCK <= states; n += BLOCK)
        back_states(w, start, rates, w->carry + at, w->grad_A + at, w->grad_B + at, w->grad_C + at, n, BLOCK, steps, v);
    for (; n < states; n++)
        back_states(w, start, rates, w->carry + at, w->grad_A + at, w->grad_B + at, w->grad_C + at, n, 1, steps, v);
}

static void back_steps(const struct scan_args *a, struct back_workspace *w, const float *start, int64_t tile,
                       int64_t steps, int careful) {
#define CASE(b, c)                                                                                                \
    if (careful)                                                                                                  \
        back_all_states(w, start, tile, steps, (struct variant){.careful = 1, .variable_B = b, .variable_C = c}); \
    else back_all_states(w, start, tile, steps, (struct variant){.variable_B = b, .variable_C = c})
    if (a->variable_B && a->variable_C) {
        CASE(1, 1);
    } else if (a->variable_B) {
        CASE(1, 0);
    } else if (a->variable_C) {
        CASE(0, 1);
    } else {
        CASE(0, 0);
    }
#undef CASE
}

/* One tile over one block of steps. */
static void back_tile(const struct scan_back_args *b, struct back_workspace *w, struct channels c, const float *start,
                      int64_t tile, int64_t first, int64_t steps) {
    const struct scan_args *a = &b->scan;
    struct workspace *s = &w->scan;
    const int careful = prepare(a, s, c, first, steps) == CAREFUL || !all_finite(start, a->dstate);
    FOR_ISA(tile_load)(w->u, LANES, &a->u, offset_of(&a->u, c, first), shape_of(&a->u, c, steps));
    FOR_ISA(tile_load)(w->grad_out, LANES, &b->grad_out, offset_of(&b->grad_out, c, first),
                       shape_of(&b->grad_out, c, steps));
    if (a->z.data) FOR_ISA(tile_load)(w->z, LANES, &a->z, offset_of(&a->z, c, first), shape_of(&a->z, c, steps));
    const vec zero = vec_set(0.0f), one = vec_set(1.0f);
    for (int64_t t = 0; t < steps; t++) {
        vec grad_y = vec_load(w->grad_out + t * LANES);
        if (a->z.data) grad_y = grad_y * vec_silu(vec_load(w->z + t * LANES));
        vec_store(w->grad_y + t * LANES, grad_y);
        vec_store(w->grad_input + t * LANES, zero);
        vec_store(w->grad_decay + t * LANES, zero);
    }
    back_steps(a, w, start, tile, steps, careful);

    const vec D = load_parameter(&a->D, c);
    vec grad_D = vec_load(w->grad_D + tile * LANES), grad_bias = vec_load(w->grad_bias + tile * LANES);
    for (int64_t t = 0; t < steps; t++) {
        const vec u = vec_load(w->u + t * LANES), delta = vec_load(s->delta + t * LANES),
                  grad_y = vec_load(w->grad_y + t * LANES);
        const vec grad_input = vec_load(w->grad_input + t * LANES);
        vec grad_u = grad_input * delta,
            grad_delta = vec_fma(vec_load(w->grad_decay + t * LANES), vec_set(LN_2), grad_input * u);
        if (a->D.data) grad_u = vec_fma(grad_y, D, grad_u), grad_D = vec_fma(grad_y, u, grad_D);
        if (a->delta_softplus) {
            /* The derivative of softplus, as a function of its result delta: 1 - e^-delta. */
            mask slow;
            const vec decay = vec_exp2_decay(delta * vec_set(-LOG2_E), &slow);
            grad_delta = grad_delta * vec_choose(slow, zero - decay, one - decay);
        }
        grad_bias = grad_bias + grad_delta;
        if (a->z.data) {
            const vec z = vec_load(w->z + t * LANES), gate = vec_sigmoid(z), slope = gate * vec_fma(z, one - gate, one);
            vec_store(w->z + t * LANES, vec_load(w->grad_out + t * LANES) * vec_load(s->out + t * LANES) * slope);
        }
        vec_store(w->u + t * LANES, grad_u);
        vec_store(s->delta + t * LANES, grad_delta);
    }
    vec_store(w->grad_D + tile * LANES, grad_D);
    vec_store(w->grad_bias + tile * LANES, grad_bias);
    FOR_ISA(tile_store)(w->u, &b->grad_u, offset_of(&b->grad_u, c, first), shape_of(&b->grad_u, c, steps));
    FOR_ISA(tile_store)(s->delta, &b->grad_delta, offset_of(&b->grad_delta, c, first),
                        shape_of(&b->grad_delta, c, steps));
    if (a->z.data)
        FOR_ISA(tile_store)(w->z, &b->grad_z, offset_of(&b->grad_z, c, first), shape_of(&b->grad_z, c, steps));
}

/* Adds the gradient of B or C for one block, summed over lanes, to the sum of this part, (seqlen, dstate). */
static void add_projection(float *total, const float *grad, int64_t pitch, int64_t dstate, int64_t steps) {
    for (int64_t t = 0; t < steps; t++) {
        for (int64_t n = 0; n < dstate; n += LANES) {
            vec rows[LANES], sum = vec_set(0.0f);
            UNROLL
            for (int i = 0; i < LANES; i++) rows[i] = vec_load(grad + (t * pitch + n + i) * LANES);
            vec_transpose(rows);
            UNROLL
            for (int i = 0; i < LANES; i++) sum = sum + rows[i];
            float sums[LANES];
            vec_store(sums, sum);
            for (int64_t i = 0; i < LANES && n + i < dstate; i++) total[t * dstate + n + i] += sums[i];
        }
    }
}

/* Tiles first_tile to first_tile + tiles - 1, for one batch entry. */
static void back_batch(const struct scan_back_args *b, struct back_workspace *w, int64_t batch, int64_t group,
                       int64_t first_tile, int64_t tiles, int64_t part) {
    const struct scan_args *a = &b->scan;
    struct workspace *s = &w->scan;
    const int64_t state = a->dstate * LANES, blocks = back_blocks(a), pitch = s->pitch;
    memset(w->starts, 0, (size_t)(TASK_TILES * state) * sizeof(float));
    for (int64_t block = 0; block + 1 < blocks; block++) {
        const int64_t first = block * BACK_STEPS;
        if (a->variable_B) load_variable(s->B, pitch, &a->B, batch, group, a->dstate, first, BACK_STEPS);
        if (a->variable_C) load_variable(s->C, pitch, &a->C, batch, group, a->dstate, first, BACK_STEPS);
        for (int64_t i = 0; i < tiles; i++) {
            const struct channels c = channels_of(a, batch, group, first_tile + i);
            if (!a->variable_B) load_state_parameter(s->fixed_B, &a->B, c, a->dstate);
            if (!a->variable_C) load_state_parameter(s->fixed_C, &a->C, c, a->dstate);
            const float *start = w->starts + (block * TASK_TILES + i) * state;
            float *end = w->starts + ((block + 1) * TASK_TILES + i) * state;
            memcpy(end, start, (size_t)state * sizeof *end);
            FOR_ISA(scan_tile_states)(a, s, c, end, first, BACK_STEPS);
        }
    }
    memset(w->carry, 0, (size_t)(TASK_TILES * state) * sizeof(float));
    for (int64_t block = blocks - 1; block >= 0; block--) {
        const int64_t first = block * BACK_STEPS,
                      steps = a->seqlen - first < BACK_STEPS ? a->seqlen - first : BACK_STEPS;
        if (a->variable_B) load_variable(s->B, pitch, &a->B, batch, group, a->dstate, first, steps);
        if (a->variable_C) load_variable(s->C, pitch, &a->C, batch, group, a->dstate, first, steps);
        const size_t projection_bytes = (size_t)(steps * pitch * LANES) * sizeof(float);
        if (a->variable_B) memset(w->grad_B, 0, projection_bytes);
        if (a->variable_C) memset(w->grad_C, 0, projection_bytes);
        for (int64_t i = 0; i < tiles; i++) {
            const struct channels c = channels_of(a, batch, group, first_tile + i);
            if (!a->variable_B) load_state_parameter(s->fixed_B, &a->B, c, a->dstate);
            if (!a->variable_C) load_state_parameter(s->fixed_C, &a->C, c, a->dstate);
            back_tile(b, w, c, w->starts + (block * TASK_TILES + i) * state, i, first, steps);
        }
        const int64_t row = ((part * a->batch + batch) * a->groups + group) * a->seqlen + first;
        if (a->variable_B) add_projection(b->grad_B + row * a->dstate, w->grad_B, pitch, a->dstate, steps);
        if (a->variable_C) add_projection(b->grad_C + row * a->dstate, w->grad_C, pitch, a->dstate, steps);
    }
}

struct back_work {
    const struct scan_back_args *args;
    struct scan_layout scan;
    struct back_layout back;
};

INLINE struct back_workspace back_workspace_at(float *memory, const struct back_work *work) {
    const struct back_layout *layout = &work->back;
    struct back_workspace result = {.scan = workspace_at(memory, &work->scan, &work->args->scan)}, *const w = &result;
    BACK_PARTS(SCRATCH_LOCATE)
    return result;
}

/* A task is a part of the batch and a part of the channels. Sums over the batch or the channels are stored per part, so
   that the order of additions does not depend on the order of threads. */
static void back_task(const void *context, int64_t index, void *scratch) {
    const struct back_work *work = context;
    const struct scan_back_args *b = work->args;
    const struct scan_args *a = &b->scan;
    struct back_workspace w = back_workspace_at(scratch, work);
    const int64_t batch_part = index / b->channel_parts, channel_part = index % b->channel_parts;
    const int64_t first_batch = a->batch * batch_part / b->batch_parts,
                  end_batch = a->batch * (batch_part + 1) / b->batch_parts;
    const int64_t per_group = tasks_per_group(a), sets = a->groups * per_group, state = a->dstate * LANES;
    for (int64_t set = sets * channel_part / b->channel_parts; set < sets * (channel_part + 1) / b->channel_parts;
         set++) {
        const int64_t group = set / per_group, first_tile = set % per_group * TASK_TILES,
                      left = tiles_per_group(a) - first_tile;
        const int64_t tiles = left < TASK_TILES ? left : TASK_TILES;
        for (int64_t i = 0; i < tiles; i++) load_tile_parameters(&w.scan, a, channels_of(a, 0, group, first_tile + i));
        memset(w.grad_A, 0, (size_t)(TASK_TILES * state) * sizeof(float));
        if (!a->variable_B) memset(w.grad_B, 0, (size_t)(TASK_TILES * state) * sizeof(float));
        if (!a->variable_C) memset(w.grad_C, 0, (size_t)(TASK_TILES * state) * sizeof(float));
        memset(w.grad_D, 0, TASK_CHANNELS * sizeof(float));
        memset(w.grad_bias, 0, TASK_CHANNELS * sizeof(float));
        for (int64_t batch = first_batch; batch < end_batch; batch++)
            back_batch(b, &w, batch, group, first_tile, tiles, channel_part);
        for (int64_t i = 0; i < tiles; i++) {
            const struct channels c = channels_of(a, batch_part, group, first_tile + i);
            const struct tile_shape rows = {c.count, a->dstate, a->dstate, 1}, row = {c.count, 1, 1, 1};
            const int64_t at = batch_part * a->heads * a->head_dim + c.head * a->head_dim + c.first;
            const struct tensor grad_A = {.data = (char *)b->grad_A}, grad_B = {.data = (char *)b->grad_B},
                                grad_C = {.data = (char *)b->grad_C};
            const struct tensor grad_D = {.data = (char *)b->grad_D}, grad_bias = {.data = (char *)b->grad_bias};
            FOR_ISA(tile_store)(w.grad_A + i * state, &grad_A, at * a->dstate, rows);
            if (!a->variable_B) FOR_ISA(tile_store)(w.grad_B + i * state, &grad_B, at * a->dstate, rows);
            if (!a->variable_C) FOR_ISA(tile_store)(w.grad_C + i * state, &grad_C, at * a->dstate, rows);
            if (b->grad_D) FOR_ISA(tile_store)(w.grad_D + i * LANES, &grad_D, at, row);
            if (b->grad_bias) FOR_ISA(tile_store)(w.grad_bias + i * LANES, &grad_bias, at, row);
        }
    }
}

int FOR_ISA(scan_backward)(const struct scan_back_args *b) {
    const struct scan_layout scan = scan_layout_of(&b->scan);
    const struct back_work work = {b, scan, back_layout_of(&b->scan, &scan)};
    return parallel_run(back_task, &work, b->batch_parts * b->channel_parts, scratch_bytes(&work.back.total),
                        b->scan.threads);
}
