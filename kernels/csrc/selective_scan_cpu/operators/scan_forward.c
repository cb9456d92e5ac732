/* The forward scan. */
#include "kernels.h"
#include "scan_simd.h"

void FOR_ISA(scan_tile_states)(const struct scan_args *a, struct workspace *w, struct channels c, float *h,
                               int64_t first, int64_t steps) {
    const size_t state_bytes = (size_t)(a->dstate * LANES) * sizeof *h;
    memcpy(w->before, h, state_bytes);
    /* The fast loops compute a step as a difference, which makes NaN of infinity. Where an infinity or NaN occurs, the
       block is computed again by the plain recurrence. */
    for (int again = 0;; again = 1) {
        const enum range reach = prepare(a, w, c, first, steps), range = again ? CAREFUL : reach;
        SCAN_BLOCK(a, w, c, h, first, steps, range);
        if (range == CAREFUL || all_finite(h, a->dstate)) break;
        memcpy(h, w->before, state_bytes);
    }
}

static void scan_tile(const struct scan_args *a, struct workspace *w, struct channels c, int64_t first, int64_t steps) {
    FOR_ISA(scan_tile_states)(a, w, c, slot_of(w->states, c, a->dstate), first, steps);
    if (a->z.data) {
        FOR_ISA(tile_load)(w->delta, LANES, &a->z, offset_of(&a->z, c, first), shape_of(&a->z, c, steps));
        int64_t t = 0;
        for (; t + ROWS <= steps; t += ROWS) gate_rows(w->out + t * LANES, w->delta + t * LANES, ROWS);
        for (; t < steps; t++) gate_rows(w->out + t * LANES, w->delta + t * LANES, 1);
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
    const int64_t most = steps_per_tile(a);
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
    /* Below about 15 us a second thread costs more than it saves. */
    const int small = a->batch * a->heads * a->head_dim * (a->seqlen + 12) * a->dstate < 5 << 14;
    return parallel_run(scan_task, &work, tasks, scratch_bytes(&work.layout.total), small ? 1 : a->threads);
}
