/* The forward scan. */
#include "kernels.h"
#include "scan_simd.h"

/* States first to first + count - 1, through all steps. */
INLINE void scan_states(struct workspace *w, float *h_memory, const float *rates, int64_t first, const int count,
                        int64_t steps, const struct variant v) {
    vec h[BLOCK], rate[BLOCK], B[BLOCK], C[BLOCK];
    UNROLL
    for (int i = 0; i < count; i++) {
        h[i] = vec_load(h_memory + (first + i) * LANES);
        if (!v.tied) rate[i] = vec_load(rates + (first + i) * LANES);
        if (!v.variable_B) B[i] = vec_load(w->fixed_B + (first + i) * LANES);
        if (!v.variable_C) C[i] = vec_load(w->fixed_C + (first + i) * LANES);
    }
    /* Local copies, because the compiler must assume that the stores below change *w. */
    const float *deltas = w->delta, *inputs = w->input, *decays = w->decay, *keeps = w->keep;
    const float *B_now = w->B + first, *C_now = w->C + first;
    float *outs = w->out;
    const int64_t pitch = w->pitch;
    const struct ahead ahead = first < 4 * BLOCK ? w->ahead[first / BLOCK] : (struct ahead){0};
    const char *line = ahead.data;
    int64_t fetched = 0, row = 0;
    for (const float *end = deltas + steps * LANES; deltas < end;
         deltas += LANES, inputs += LANES, outs += LANES, B_now += pitch, C_now += pitch) {
        const vec delta = vec_load(deltas), input = vec_load(inputs);
        vec out = vec_load(outs);
        if (fetched++ < ahead.count) {
            __builtin_prefetch(line + row * ahead.pitch);
            if (++row == ahead.rows) row = 0, line += 64;
        }
        UNROLL
        for (int i = 0; i < count; i++) {
            const vec pushed = input * (v.variable_B ? vec_set(B_now[i]) : B[i]);
            if (v.tied) {
                h[i] = vec_fma(vec_load(decays), h[i], pushed) + vec_and(vec_load(keeps), h[i]);
            } else if (v.careful) {
                h[i] = vec_fma(vec_exp(delta * rate[i] * vec_set(LN_2)), h[i], pushed);
            } else {
                h[i] = vec_step(delta * rate[i], h[i], pushed, v.far);
            }
            out = vec_fma(v.variable_C ? vec_set(C_now[i]) : C[i], h[i], out);
        }
        vec_store(outs, out);
        if (v.tied) decays += LANES, keeps += LANES;
    }
    UNROLL
    for (int i = 0; i < count; i++) vec_store(h_memory + (first + i) * LANES, h[i]);
}

INLINE void scan_all_states(struct workspace *w, float *h, const float *rates, int64_t steps, const struct variant v) {
    int64_t n = 0;
    for (; n + BLOCK <= w->dstate; n += BLOCK) scan_states(w, h, rates, n, BLOCK, steps, v);
    for (; n < w->dstate; n++) scan_states(w, h, rates, n, 1, steps, v);
}

static void scan_steps(const struct scan_args *a, struct workspace *w, float *h, const float *rates, int64_t steps,
                       enum range range) {
#define CASE(b, c)                                                                               \
    if (range == CAREFUL) scan_all_states(w, h, rates, steps, (struct variant){0, 1, 0, b, c});  \
    else if (range == FAR) scan_all_states(w, h, rates, steps, (struct variant){0, 0, 1, b, c}); \
    else scan_all_states(w, h, rates, steps, (struct variant){0, 0, 0, b, c})
    if (a->tied_A) scan_all_states(w, h, rates, steps, (struct variant){1, 0, 0, 1, 1});
    else if (a->variable_B && a->variable_C) {
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

/* For an A that is the same for all states of a channel: the factor of a step is computed once for all states. */
static void prepare_tied(const struct scan_args *a, struct workspace *w, struct channels c, int64_t first,
                         int64_t steps, int careful) {
    const vec rate = vec_load(slot_of(w->rates, c, a->dstate)), zero = vec_set(0.0f);
    const int32_t *seq = a->seq_idx ? a->seq_idx + c.batch * a->seqlen + first : NULL;
    for (int64_t t = 0; t < steps; t++) {
        vec decay = zero, keep = zero;
        const int32_t previous = !seq ? 0 : first + t > 0 ? seq[t - 1] : 0; /* first_state belongs to sequence 0 */
        if (!seq || seq[t] == previous) {
            const vec x = vec_load(w->delta + t * LANES) * rate;
            mask slow;
            decay = careful ? vec_exp(x * vec_set(LN_2)) : vec_exp2_decay(x, &slow);
            if (!careful) keep = vec_of_mask(slow);
        }
        vec_store(w->decay + t * LANES, decay);
        vec_store(w->keep + t * LANES, keep);
    }
}

void FOR_ISA(scan_tile_states)(const struct scan_args *a, struct workspace *w, struct channels c, float *h,
                               int64_t first, int64_t steps) {
    const size_t state_bytes = (size_t)(a->dstate * LANES) * sizeof *h;
    memcpy(w->before, h, state_bytes);
    /* The fast loops compute a step as a difference, which makes NaN of infinity. Where an infinity or NaN occurs, the
       block is computed again by the plain recurrence. */
    for (int again = 0;; again = 1) {
        const enum range reach = prepare(a, w, c, first, steps), range = again ? CAREFUL : reach;
        if (a->tied_A) prepare_tied(a, w, c, first, steps, range == CAREFUL);
        scan_steps(a, w, h, slot_of(w->rates, c, a->dstate), steps, range);
        if (range == CAREFUL || all_finite(h, a->dstate)) break;
        memcpy(h, w->before, state_bytes);
    }
}

static void scan_tile(const struct scan_args *a, struct workspace *w, struct channels c, int64_t first, int64_t steps) {
    FOR_ISA(scan_tile_states)(a, w, c, slot_of(w->states, c, a->dstate), first, steps);
    if (a->z.data) {
        FOR_ISA(tile_load)(w->delta, LANES, &a->z, offset_of(&a->z, c, first), shape_of(&a->z, c, steps));
        for (int64_t t = 0; t < steps; t++) {
            vec_store(w->out + t * LANES, vec_load(w->out + t * LANES) * vec_silu(vec_load(w->delta + t * LANES)));
        }
    }
    if (a->onto.data) {
        FOR_ISA(tile_load)(w->delta, LANES, &a->onto, offset_of(&a->onto, c, first), shape_of(&a->onto, c, steps));
        for (int64_t t = 0; t < steps; t++)
            vec_store(w->out + t * LANES, vec_load(w->out + t * LANES) + vec_load(w->delta + t * LANES));
    }
    if (a->scale != 1.0) {
        const vec scale = vec_set((float)a->scale);
        for (int64_t t = 0; t < steps; t++) vec_store(w->out + t * LANES, vec_load(w->out + t * LANES) * scale);
    }
    FOR_ISA(tile_store)(w->out, &a->out, offset_of(&a->out, c, first), shape_of(&a->out, c, steps));
}

struct scan_work {
    const struct scan_args *args;
    struct scan_layout layout;
};

static void scan_task(const void *context, int64_t index, void *scratch) {
    const struct scan_work *work = context;
    const struct scan_args *a = work->args;
    struct workspace w = workspace_at(scratch, &work->layout, a);
    const int64_t per_group = tasks_per_group(a), group = index / per_group % a->groups,
                  batch = index / per_group / a->groups;
    const int64_t first_tile = index % per_group * TASK_TILES, left = tiles_per_group(a) - first_tile;
    const int64_t tiles = left < TASK_TILES ? left : TASK_TILES, state = a->dstate * LANES;
    for (int64_t i = 0; i < tiles; i++) {
        const struct channels c = channels_of(a, batch, group, first_tile + i);
        float *h = slot_of(w.states, c, a->dstate);
        load_tile_parameters(&w, a, c);
        if (a->first_state.data)
            FOR_ISA(tile_load)(h, LANES, &a->first_state, offset_of(&a->first_state, c, 0),
                               shape_of(&a->first_state, c, a->dstate));
        else memset(h, 0, (size_t)state * sizeof *h);
    }
    const int64_t most = steps_per_tile(a->seqlen);
    for (int64_t first = 0; first < a->seqlen; first += most) {
        const int64_t steps = a->seqlen - first < most ? a->seqlen - first : most;
        if (a->delta_weight.data)
            load_variable(w.projected, w.rank_pitch, &a->delta, batch, group, a->rank, first, steps);
        if (a->variable_B) load_variable(w.B, w.pitch, &a->B, batch, group, a->dstate, first, steps);
        if (a->variable_C) load_variable(w.C, w.pitch, &a->C, batch, group, a->dstate, first, steps);
        for (int64_t i = 0; i < tiles; i++) {
            const struct channels c = channels_of(a, batch, group, first_tile + i);
            if (!a->variable_B) load_state_parameter(w.fixed_B, &a->B, c, a->dstate);
            if (!a->variable_C) load_state_parameter(w.fixed_C, &a->C, c, a->dstate);
            const int64_t last = i + 1 == tiles, next = last ? first + steps : first, left = a->seqlen - next;
            const struct channels after = channels_of(a, batch, group, first_tile + (last ? 0 : i + 1));
            const struct tensor *inputs[] = {&a->u, &a->z, &a->out, a->delta_weight.data ? &a->onto : &a->delta};
            for (int j = 0; j < 4; j++) w.ahead[j] = ahead_of(inputs[j], after, next, left < steps ? left : steps);
            scan_tile(a, &w, c, first, steps);
        }
    }
    for (int64_t i = 0; a->last_state.data && i < tiles; i++) {
        const struct channels c = channels_of(a, batch, group, first_tile + i);
        FOR_ISA(tile_store)(slot_of(w.states, c, a->dstate), &a->last_state, offset_of(&a->last_state, c, 0),
                            shape_of(&a->last_state, c, a->dstate));
    }
}

int FOR_ISA(scan_forward)(const struct scan_args *a) {
    const struct scan_work work = {a, scan_layout_of(a)};
    const int64_t tasks = a->batch * a->groups * tasks_per_group(a);
    return parallel_run(scan_task, &work, tasks, scratch_bytes(&work.layout.total), a->threads);
}
