/* The convolution, for whichever simd_*.h was included before. A task is one tile of channels, which are the lanes;
   but the plain forward pass over rows whose steps lie next to each other has steps for lanes. */
#pragma once

#include "conv.h"
#include "parallel.h"
#include "simd_math.h"

enum { STEPS = 256, HISTORY = MAX_WIDTH - 1 };

struct channels {
    int64_t batch, first, count;
};

INLINE struct channels channels_of(int64_t dim, int64_t batch, int64_t tile) {
    const int64_t first = tile * LANES, left = dim - first;
    return (struct channels){batch, first, left < LANES ? left : LANES};
}

/* `steps` steps from `first` on of a (batch, dim, time) tensor. */
static void load_steps(float *rows, const struct tensor *t, struct channels c, int64_t first, int64_t steps) {
    const struct tile_shape s = {c.count, steps, t->stride[1], t->stride[2]};
    tile_load(rows, LANES, t, c.batch * t->stride[0] + c.first * t->stride[1] + first * t->stride[2], s);
}

static void store_steps(const float *rows, const struct tensor *t, struct channels c, int64_t first, int64_t steps) {
    const struct tile_shape s = {c.count, steps, t->stride[1], t->stride[2]};
    tile_store(rows, t, c.batch * t->stride[0] + c.first * t->stride[1] + first * t->stride[2], s);
}

struct taps {
    vec weight[MAX_WIDTH], bias;
};

static struct taps load_taps(const struct tensor *weight, const struct tensor *bias, struct channels c, int64_t width) {
    struct taps taps;
    float rows[(MAX_WIDTH + 1) * LANES] = {0};
    const struct tile_shape s = {c.count, width, weight->stride[0], weight->stride[1]};
    tile_load(rows, LANES, weight, c.first * weight->stride[0], s);
    if (bias->data) load_floats(rows + MAX_WIDTH * LANES, bias, c.first * bias->stride[0], bias->stride[0], c.count);
    for (int i = 0; i < MAX_WIDTH; i++) taps.weight[i] = vec_load(rows + i * LANES);
    taps.bias = vec_load(rows + MAX_WIDTH * LANES);
    return taps;
}

/* The sum before silu at one step; `window` is the row of the oldest input that it sees. */
INLINE vec convolve(const struct taps *taps, const float *window, const int64_t width) {
    vec sum = taps->bias;
    UNROLL for (int64_t w = 0; w < width; w++) sum = vec_fma(taps->weight[w], vec_load(window + w * LANES), sum);
    return sum;
}

/* The same where a row packs several sequences: `seq` points at this step's index, of which `before` precede it. */
INLINE vec convolve_packed(const struct taps *taps, const float *window, int64_t width, const int32_t *seq, int64_t before) {
    vec sum = taps->bias;
    for (int64_t w = 0; w < width; w++) {
        const int64_t back = width - 1 - w;
        if (back <= before && seq[-back] == *seq) sum = vec_fma(taps->weight[w], vec_load(window + w * LANES), sum);
    }
    return sum;
}

INLINE void convolve_rows(float *out, const struct taps *taps, const float *rows, int64_t steps, const int64_t width, const int silu) {
    for (int64_t t = 0; t < steps; t++) {
        const vec sum = convolve(taps, rows + t * LANES, width);
        vec_store(out + t * LANES, silu ? vec_silu(sum) : sum);
    }
}

static void convolve_block(float *out, const struct taps *taps, const float *rows, int64_t steps, int64_t width, int64_t silu) {
    switch (width * 2 + (silu != 0)) {
    case 4: convolve_rows(out, taps, rows, steps, 2, 0); break;
    case 5: convolve_rows(out, taps, rows, steps, 2, 1); break;
    case 6: convolve_rows(out, taps, rows, steps, 3, 0); break;
    case 7: convolve_rows(out, taps, rows, steps, 3, 1); break;
    case 8: convolve_rows(out, taps, rows, steps, 4, 0); break;
    default: convolve_rows(out, taps, rows, steps, 4, 1); break;
    }
}

static void convolve_packed_block(float *out, const struct taps *taps, const float *rows, int64_t steps, int64_t width, int64_t silu, const int32_t *seq, int64_t first) {
    for (int64_t t = 0; t < steps; t++) {
        vec sum = vec_set(0.0f); /* a negative index is padding */
        if (seq[first + t] >= 0) {
            sum = convolve_packed(taps, rows + t * LANES, width, seq + first + t, first + t);
            if (silu) sum = vec_silu(sum);
        }
        vec_store(out + t * LANES, sum);
    }
}

/* The width - 1 rows that come before x. */
static void load_history(float *rows, const struct conv_args *a, struct channels c) {
    if (a->initial_states.data) load_steps(rows, &a->initial_states, c, 0, a->width - 1);
    else memset(rows, 0, (size_t)((a->width - 1) * LANES) * sizeof *rows);
}

/* Steps next to each other, in either direction: both tensors in the same. */
INLINE int steps_are_lanes(const struct conv_args *a) {
    const int64_t x = a->x.stride[2], out = a->out.stride[2];
    return x == out && (x == 1 || x == -1) && !a->seq_idx;
}

/* LANES steps from `step` on, of which `count` exist; the others are zero. */
INLINE vec load_line(const struct tensor *t, int64_t offset, int64_t step, int64_t count, const int backwards) {
    if (count == LANES) {
        if (!backwards) return vec_load_as(element(t, offset + step), t->dtype);
        return vec_reversed(vec_load_as(element(t, offset - step - (LANES - 1)), t->dtype));
    }
    float values[LANES] = {0};
    load_floats(values, t, offset + (backwards ? -step : step), backwards ? -1 : 1, count);
    return vec_load(values);
}

INLINE void store_line(const struct tensor *t, int64_t offset, int64_t step, int64_t count, const int backwards, vec v) {
    if (count == LANES) {
        if (!backwards) vec_store_as(element(t, offset + step), t->dtype, v);
        else vec_store_as(element(t, offset - step - (LANES - 1)), t->dtype, vec_reversed(v));
        return;
    }
    float values[LANES];
    vec_store(values, v);
    store_floats(t, offset + (backwards ? -step : step), backwards ? -1 : 1, count, values);
}

/* One channel: a vector of steps at a time, each tap's own steps being made of it and of the vector before. */
INLINE void convolve_line(const struct conv_args *a, int64_t batch, int64_t channel, const int width, const int backwards, const int silu) {
    const struct tensor *initial = &a->initial_states, *final = &a->final_states;
    const int64_t before = width - 1, x_at = batch * a->x.stride[0] + channel * a->x.stride[1];
    const int64_t out_at = batch * a->out.stride[0] + channel * a->out.stride[1];
    vec taps[MAX_WIDTH];
    UNROLL for (int w = 0; w < width; w++) taps[w] = vec_set(load_float(&a->weight, channel * a->weight.stride[0] + w * a->weight.stride[1]));
    const vec bias = vec_set(a->bias.data ? load_float(&a->bias, channel * a->bias.stride[0]) : 0.0f);
    float history[LANES] = {0};
    if (initial->data) load_floats(history + LANES - before, initial, batch * initial->stride[0] + channel * initial->stride[1], initial->stride[2], before);
    vec earlier = vec_load(history);
    for (int64_t t = 0; t < a->seqlen; t += LANES) {
        if (t + LANES > a->seqlen && a->seqlen >= 2 * LANES) { /* the last vector overlaps the one before */
            t = a->seqlen - LANES;
            earlier = load_line(&a->x, x_at, t - LANES, LANES, backwards);
        }
        const int64_t count = a->seqlen - t < LANES ? a->seqlen - t : LANES;
        const vec now = load_line(&a->x, x_at, t, count, backwards);
        vec sum = bias;
        UNROLL for (int w = 0; w < width; w++) sum = vec_fma(taps[w], vec_shift_in(earlier, now, width - 1 - w), sum);
        store_line(&a->out, out_at, t, count, backwards, silu ? vec_silu(sum) : sum);
        earlier = now;
    }
    for (int64_t i = 0; final->data && i < before; i++) {
        const int64_t step = a->seqlen - before + i;
        const float value = step < 0 ? history[LANES + step] : load_float(&a->x, x_at + step * a->x.stride[2]);
        store_floats(final, batch * final->stride[0] + channel * final->stride[1] + i * final->stride[2], 1, 1, &value);
    }
}

static void convolve_lines(const struct conv_args *a, struct channels c) {
    const int backwards = a->x.stride[2] < 0, silu = a->silu != 0;
#define CASE(width)                                                                                   \
    if (backwards && silu) convolve_line(a, c.batch, c.first + i, width, 1, 1);                       \
    else if (backwards) convolve_line(a, c.batch, c.first + i, width, 1, 0);                          \
    else if (silu) convolve_line(a, c.batch, c.first + i, width, 0, 1);                               \
    else convolve_line(a, c.batch, c.first + i, width, 0, 0)
    for (int64_t i = 0; i < c.count; i++) {
        if (a->width == 2) { CASE(2); }
        else if (a->width == 3) { CASE(3); }
        else { CASE(4); }
    }
#undef CASE
}

static void forward_task(const void *context, int64_t index, void *scratch) {
    const struct conv_args *a = context;
    const int64_t tiles = (a->dim + LANES - 1) / LANES, before = a->width - 1;
    const struct channels c = channels_of(a->dim, index / tiles, index % tiles);
    if (steps_are_lanes(a)) {
        convolve_lines(a, c);
        return;
    }
    const struct taps taps = load_taps(&a->weight, &a->bias, c, a->width);
    float *rows = scratch, *out = rows + (HISTORY + STEPS) * LANES;
    load_history(rows, a, c);
    for (int64_t first = 0; first < a->seqlen; first += STEPS) {
        const int64_t steps = a->seqlen - first < STEPS ? a->seqlen - first : STEPS;
        load_steps(rows + before * LANES, &a->x, c, first, steps);
        if (a->seq_idx) convolve_packed_block(out, &taps, rows, steps, a->width, a->silu, a->seq_idx + c.batch * a->seqlen, first);
        else convolve_block(out, &taps, rows, steps, a->width, a->silu);
        store_steps(out, &a->out, c, first, steps);
        memmove(rows, rows + steps * LANES, (size_t)(before * LANES) * sizeof *rows);
    }
    if (a->final_states.data) store_steps(rows, &a->final_states, c, 0, before);
}

static int conv_forward(const struct conv_args *a) {
    const int64_t tiles = (a->dim + LANES - 1) / LANES;
    return parallel_run(forward_task, a, a->batch * tiles, (HISTORY + 2 * STEPS) * LANES * sizeof(float), a->threads);
}

/* Rows first - width + 1 to first + steps - 1 of the inputs. */
static void load_inputs(float *rows, const struct conv_args *a, struct channels c, int64_t first, int64_t steps) {
    const int64_t before = a->width - 1;
    if (first > 0) load_steps(rows, &a->x, c, first - before, steps + before);
    else {
        load_history(rows, a, c);
        load_steps(rows + before * LANES, &a->x, c, 0, steps);
    }
}

/* The gradient of the sums before silu, in place of that of the output. */
static void through_silu(float *grad, const struct conv_args *a, const struct taps *taps, const float *rows, struct channels c, int64_t first, int64_t steps) {
    const int32_t *seq = a->seq_idx ? a->seq_idx + c.batch * a->seqlen + first : NULL;
    const vec one = vec_set(1.0f);
    for (int64_t t = 0; t < steps; t++) {
        vec g = vec_load(grad + t * LANES);
        if (seq && seq[t] < 0) g = vec_set(0.0f);
        else if (a->silu) {
            const float *window = rows + t * LANES;
            const vec sum = seq ? convolve_packed(taps, window, a->width, seq + t, first + t) : convolve(taps, window, a->width);
            const vec gate = vec_sigmoid(sum);
            g = g * (gate * vec_fma(sum, one - gate, one));
        }
        vec_store(grad + t * LANES, g);
    }
}

/* The gradient of the input at a step, where that of the sums begins; negative steps are initial states. */
INLINE vec input_gradient(const struct conv_args *a, const struct taps *taps, const float *grad, struct channels c, int64_t step) {
    const int32_t *seq = a->seq_idx ? a->seq_idx + c.batch * a->seqlen : NULL;
    vec sum = vec_set(0.0f);
    for (int64_t w = a->width - 1; w >= 0; w--) {
        const int64_t later = a->width - 1 - w;
        if (seq && (step < 0 || step + later >= a->seqlen || seq[step] != seq[step + later])) continue;
        sum = vec_fma(taps->weight[w], vec_load(grad + later * LANES), sum);
    }
    return sum;
}

static void add_weight_gradient(vec total[MAX_WIDTH + 1], const struct conv_args *a, const float *rows, const float *grad, struct channels c, int64_t first, int64_t steps) {
    const int32_t *seq = a->seq_idx ? a->seq_idx + c.batch * a->seqlen + first : NULL;
    for (int64_t t = 0; t < steps; t++) {
        const vec g = vec_load(grad + t * LANES);
        for (int64_t w = 0; w < a->width; w++) {
            const int64_t back = a->width - 1 - w;
            if (seq && (back > first + t || seq[t - back] != seq[t])) continue;
            total[w] = vec_fma(g, vec_load(rows + (t + w) * LANES), total[w]);
        }
        total[MAX_WIDTH] = total[MAX_WIDTH] + g;
    }
}

/* Adds the gradient of the final states to rows `from` to `end` of that of the inputs, of which row 0 is step `start`. */
static void add_final_gradient(float *grad_x, const struct conv_back_args *b, struct channels c, int64_t start, int64_t from, int64_t end) {
    const struct conv_args *a = &b->conv;
    if (!b->grad_final_states.data) return;
    float last[HISTORY * LANES];
    load_steps(last, &b->grad_final_states, c, 0, a->width - 1);
    for (int64_t i = 0; i < a->width - 1; i++) {
        const int64_t row = a->seqlen - (a->width - 1) + i - start;
        if (row >= from && row < end) vec_store(grad_x + row * LANES, vec_load(grad_x + row * LANES) + vec_load(last + i * LANES));
    }
}

/* Blocks of steps from the last to the first. An input is seen by the sums of its own step and of the width - 1 after
   it, so each block needs the first of the block after it as well. Row 0 of each array is width - 1 steps before
   the block. */
static void back_batch(const struct conv_back_args *b, const struct taps *taps, struct channels c, vec total[MAX_WIDTH + 1], float *rows) {
    const struct conv_args *a = &b->conv;
    const int64_t before = a->width - 1, row_bytes = LANES * (int64_t)sizeof(float);
    float *grad = rows + (HISTORY + STEPS) * LANES, *grad_x = grad + (2 * HISTORY + STEPS) * LANES;
    /* Before the block: zeros, read at the start of time only. After it: the first steps of the block after. */
    memset(grad, 0, (size_t)((2 * HISTORY + STEPS) * row_bytes));
    int64_t end = a->seqlen;
    do {
        const int64_t first = end > STEPS ? end - STEPS : 0, steps = end - first;
        memmove(grad + (before + steps) * LANES, grad + before * LANES, (size_t)(before * row_bytes));
        if (steps) {
            load_inputs(rows, a, c, first, steps);
            load_steps(grad + before * LANES, &b->grad_out, c, first, steps);
        }
        through_silu(grad + before * LANES, a, taps, rows, c, first, steps);
        add_weight_gradient(total, a, rows, grad + before * LANES, c, first, steps);
        /* At the start of time the rows before it count as well: the initial states. */
        const int64_t from = first > 0 ? before : 0;
        for (int64_t i = from; i < before + steps; i++) {
            vec_store(grad_x + i * LANES, input_gradient(a, taps, grad + i * LANES, c, first - before + i));
        }
        add_final_gradient(grad_x, b, c, first - before, from, before + steps);
        store_steps(grad_x + before * LANES, &b->grad_x, c, first, steps);
        if (first == 0 && b->grad_initial_states.data) store_steps(grad_x, &b->grad_initial_states, c, 0, before);
        end = first;
    } while (end > 0);
}

static void backward_task(const void *context, int64_t index, void *scratch) {
    const struct conv_back_args *b = context;
    const struct conv_args *a = &b->conv;
    struct channels c = channels_of(a->dim, 0, index);
    const struct taps taps = load_taps(&a->weight, &a->bias, c, a->width);
    vec total[MAX_WIDTH + 1];
    for (int w = 0; w <= MAX_WIDTH; w++) total[w] = vec_set(0.0f);
    for (c.batch = 0; c.batch < a->batch; c.batch++) back_batch(b, &taps, c, total, scratch);
    const struct tensor grad_weight = {.data = (char *)b->grad_weight}, grad_bias = {.data = (char *)b->grad_bias};
    for (int64_t w = 0; w < a->width; w++) {
        float sums[LANES];
        vec_store(sums, total[w]);
        store_floats(&grad_weight, c.first * a->width + w, a->width, c.count, sums);
    }
    float sums[LANES];
    vec_store(sums, total[MAX_WIDTH]);
    if (b->grad_bias) store_floats(&grad_bias, c.first, 1, c.count, sums);
}

static int conv_backward(const struct conv_back_args *b) {
    const int64_t tiles = (b->conv.dim + LANES - 1) / LANES;
    return parallel_run(backward_task, b, tiles, (4 * HISTORY + 3 * STEPS) * LANES * sizeof(float), b->conv.threads);
}

static void update_task(const void *context, int64_t index, void *scratch) {
    const struct conv_update_args *a = context;
    const int64_t tiles = (a->dim + LANES - 1) / LANES, before = a->width - 1, length = a->state_len;
    const struct channels c = channels_of(a->dim, index / tiles, index % tiles);
    float *rows = scratch, *out = rows + (length + a->seqlen) * LANES;
    const int64_t entry = a->state_indices ? a->state_indices[c.batch] : c.batch;
    if (entry < 0) {
        memset(out, 0, (size_t)(a->seqlen * LANES) * sizeof *out);
        store_steps(out, &a->out, c, 0, a->seqlen);
        return;
    }
    const struct taps taps = load_taps(&a->weight, &a->bias, c, a->width);
    const struct channels state = {entry, c.first, c.count};
    float *window = rows + (length - before) * LANES;
    int64_t next = 0; /* where in a ring the next input goes */
    if (a->cache_seqlens) {
        next = (a->cache_seqlens[c.batch] % length + length) % length;
        for (int64_t i = 0; i < before; i++) load_steps(window + i * LANES, &a->state, state, (next + length - before + i) % length, 1);
    } else {
        load_steps(rows, &a->state, state, 0, length);
    }
    load_steps(rows + length * LANES, &a->x, c, 0, a->seqlen);
    convolve_block(out, &taps, window, a->seqlen, a->width, a->silu);
    store_steps(out, &a->out, c, 0, a->seqlen);
    if (!a->cache_seqlens) store_steps(rows + a->seqlen * LANES, &a->state, state, 0, length);
    else for (int64_t i = 0; i < a->seqlen; i++) store_steps(rows + (length + i) * LANES, &a->state, state, (next + i) % length, 1);
}

static int conv_update(const struct conv_update_args *a) {
    const int64_t tiles = (a->dim + LANES - 1) / LANES;
    const size_t bytes = (size_t)((a->state_len + 2 * a->seqlen) * LANES) * sizeof(float);
    /* A single step is over sooner than a second thread has woken. */
    const int64_t small = a->batch * a->dim * a->seqlen < 1 << 16;
    return parallel_run(update_task, a, a->batch * tiles, bytes, small ? 1 : a->threads);
}
