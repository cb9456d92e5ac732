/* The convolution. The forward pass reads float32 tensors in place where steps or channels
   are adjacent in memory. All other cases copy tiles, whose rows are steps and whose columns are channels. */
#include "conv.h"
#include "parallel.h"
#include "simd_math.h"

enum { STEPS = 256, LEAST_STEPS = 32, LEAST_LINE = 8, HISTORY = MAX_WIDTH - 1 };

/* The scratch memory of a tile in the forward pass: `rows` begins width - 1 steps before `out`. */
struct forward_scratch {
    float rows[(HISTORY + STEPS) * LANES], out[STEPS * LANES];
};

/* LANES channels of a batch entry, from `first` on, of which `count` exist. */
struct channels {
    int64_t batch, first, count;
};

INLINE struct channels channels_of(int64_t dim, int64_t batch, int64_t tile) {
    const int64_t first = tile * LANES, left = dim - first;
    return (struct channels){batch, first, left < LANES ? left : LANES};
}

/* Reads steps `first` to first + steps - 1 of a (batch, dim, time) tensor. */
static void load_steps(float *rows, const struct tensor *t, struct channels c, int64_t first, int64_t steps) {
    const struct tile_shape s = {c.count, steps, t->stride[1], t->stride[2]};
    FOR_ISA(tile_load)(rows, LANES, t, c.batch * t->stride[0] + c.first * t->stride[1] + first * t->stride[2], s);
}

static void store_steps(const float *rows, const struct tensor *t, struct channels c, int64_t first, int64_t steps) {
    const struct tile_shape s = {c.count, steps, t->stride[1], t->stride[2]};
    FOR_ISA(tile_store)(rows, t, c.batch * t->stride[0] + c.first * t->stride[1] + first * t->stride[2], s);
}

struct taps {
    vec weight[MAX_WIDTH], bias;
};

static struct taps load_taps(const struct tensor *weight, const struct tensor *bias, struct channels c, int64_t width) {
    struct taps taps;
    float rows[(MAX_WIDTH + 1) * LANES] = {0};
    const struct tile_shape s = {c.count, width, weight->stride[0], weight->stride[1]};
    FOR_ISA(tile_load)(rows, LANES, weight, c.first * weight->stride[0], s);
    if (bias->data) load_floats(rows + MAX_WIDTH * LANES, bias, c.first * bias->stride[0], bias->stride[0], c.count);
    for (int i = 0; i < MAX_WIDTH; i++) taps.weight[i] = vec_load(rows + i * LANES);
    taps.bias = vec_load(rows + MAX_WIDTH * LANES);
    return taps;
}

/* The sum before silu at one step; `window` is the row of the step's oldest input. */
INLINE vec convolve(const struct taps *taps, const float *window, const int64_t width) {
    vec sum = taps->bias;
    UNROLL
    for (int64_t w = 0; w < width; w++) sum = vec_fma(taps->weight[w], vec_load(window + w * LANES), sum);
    return sum;
}

/* Several sequences in one row: the index of each step, and the index of the inputs before the first step. Initial
   states belong to the sequence of the first step; without initial states, these inputs belong to no sequence. */
struct packed {
    const int32_t *index;
    int32_t before;
};

INLINE struct packed packed_row(const struct conv_args *a, int64_t batch) {
    if (!a->seq_idx || !a->seqlen) return (struct packed){NULL, -1};
    const int32_t *const index = a->seq_idx + batch * a->seqlen;
    return (struct packed){index, a->initial_states.data ? *index : -1};
}

/* Whether the input `back` steps before step t is of the sequence of step t. */
INLINE int same_sequence(struct packed seq, int64_t t, int64_t back) {
    return (back <= t ? seq.index[t - back] : seq.before) == seq.index[t];
}

/* The same sum at step t of a row with several sequences. */
INLINE vec convolve_packed(const struct taps *taps, const float *window, int64_t width, struct packed seq, int64_t t) {
    vec sum = taps->bias;
    for (int64_t w = 0; w < width; w++) {
        if (same_sequence(seq, t, width - 1 - w)) sum = vec_fma(taps->weight[w], vec_load(window + w * LANES), sum);
    }
    return sum;
}

INLINE void convolve_rows(float *out, const struct taps *taps, const float *rows, int64_t steps, const int64_t width,
                          const int silu) {
    for (int64_t t = 0; t < steps; t++) {
        const vec sum = convolve(taps, rows + t * LANES, width);
        vec_store(out + t * LANES, silu ? vec_silu(sum) : sum);
    }
}

/* CALL(width, silu) with compile-time constants. */
#define FOR_EACH_KIND(width, silu)         \
    switch ((width) * 2 + ((silu) != 0)) { \
    case 4: CALL(2, 0); break;             \
    case 5: CALL(2, 1); break;             \
    case 6: CALL(3, 0); break;             \
    case 7: CALL(3, 1); break;             \
    case 8: CALL(4, 0); break;             \
    default: CALL(4, 1); break;            \
    }

static void convolve_block(float *out, const struct taps *taps, const float *rows, int64_t steps, int64_t width,
                           int64_t silu) {
#define CALL(width, silu) convolve_rows(out, taps, rows, steps, width, silu)
    FOR_EACH_KIND(width, silu)
#undef CALL
}

static void convolve_packed_block(float *out, const struct taps *taps, const float *rows, int64_t steps, int64_t width,
                                  int64_t silu, struct packed seq, int64_t first) {
    for (int64_t t = 0; t < steps; t++) {
        vec sum = vec_set(0.0f); /* a negative index is padding */
        if (seq.index[first + t] >= 0) {
            sum = convolve_packed(taps, rows + t * LANES, width, seq, first + t);
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

/* Stores the last width - 1 inputs, unless final_states is absent. */
static void store_final_states(const struct conv_args *a, struct channels c) {
    if (!a->final_states.data) return;
    const int64_t before = a->width - 1, last = a->seqlen < before ? a->seqlen : before;
    float rows[2 * HISTORY * LANES];
    load_history(rows, a, c);
    load_steps(rows + before * LANES, &a->x, c, a->seqlen - last, last);
    store_steps(rows + last * LANES, &a->final_states, c, 0, before);
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

/* Convolves `steps` steps of one tile, for any layout, in a copy whose rows are steps. */
static void convolve_copied(const struct conv_args *a, struct channels c, int64_t first, int64_t steps,
                            struct forward_scratch *scratch) {
    const struct taps taps = load_taps(&a->weight, &a->bias, c, a->width);
    float *const rows = scratch->rows, *const out = scratch->out;
    load_inputs(rows, a, c, first, steps);
    if (a->seq_idx) convolve_packed_block(out, &taps, rows, steps, a->width, a->silu, packed_row(a, c.batch), first);
    else convolve_block(out, &taps, rows, steps, a->width, a->silu);
    store_steps(out, &a->out, c, first, steps);
}

/* Steps t to t + LANES - 1 of a line, of which `count` exist; the others are zero. */
INLINE vec load_line(const float *line, int64_t t, int64_t count, const int backwards) {
    if (count == LANES) return backwards ? vec_reversed(vec_load(line - t - (LANES - 1))) : vec_load(line + t);
    if (!backwards) return vec_load_first(line + t, count);
    float values[LANES] = {0};
    for (int64_t i = 0; i < count; i++) values[i] = line[-t - i];
    return vec_load(values);
}

INLINE void store_line(float *line, int64_t t, int64_t count, const int backwards, vec v) {
    if (count == LANES) {
        if (backwards) vec_store(line - t - (LANES - 1), vec_reversed(v));
        else vec_store(line + t, v);
        return;
    }
    if (!backwards) {
        vec_store_first(line + t, count, v);
        return;
    }
    float values[LANES];
    vec_store(values, v);
    for (int64_t i = 0; i < count; i++) line[-t - i] = values[i];
}

/* One channel, one vector of steps at a time. The inputs of each tap are lanes of this vector and of the one before. */
INLINE void convolve_line(float *out, const float *x, vec earlier, const float *weight, float bias, int64_t seqlen,
                          const int width, const int silu, const int backwards) {
    vec taps[MAX_WIDTH];
    UNROLL
    for (int w = 0; w < width; w++) taps[w] = vec_set(weight[w]);
    for (int64_t t = 0; t < seqlen; t += LANES) {
        if (t + LANES > seqlen && seqlen >= 2 * LANES) { /* the last vector overlaps the vector before it */
            t = seqlen - LANES;
            earlier = load_line(x, t - LANES, LANES, backwards);
        }
        const int64_t count = seqlen - t < LANES ? seqlen - t : LANES;
        const vec now = load_line(x, t, count, backwards);
        vec sum = vec_set(bias);
        UNROLL
        for (int w = 0; w < width; w++) sum = vec_fma(taps[w], vec_shift_in(earlier, now, width - 1 - w), sum);
        store_line(out, t, count, backwards, silu ? vec_silu(sum) : sum);
        earlier = now;
    }
}

/* For steps that are adjacent in memory, forwards or backwards: lanes are steps. */
static void lines_task(const void *context, int64_t index, void *scratch) {
    (void)scratch;
    const struct conv_args *a = context;
    const struct tensor *initial = &a->initial_states;
    const int64_t tiles = (a->dim + LANES - 1) / LANES, before = a->width - 1;
    const struct channels c = channels_of(a->dim, index / tiles, index % tiles);
    const int backwards = a->x.stride[2] < 0;
    for (int64_t channel = c.first; channel < c.first + c.count; channel++) {
        const float *x = (const float *)element(&a->x, c.batch * a->x.stride[0] + channel * a->x.stride[1]);
        float *out = (float *)element(&a->out, c.batch * a->out.stride[0] + channel * a->out.stride[1]);
        float weight[MAX_WIDTH], history[LANES] = {0};
        load_floats(weight, &a->weight, channel * a->weight.stride[0], a->weight.stride[1], a->width);
        const float bias = a->bias.data ? load_float(&a->bias, channel * a->bias.stride[0]) : 0.0f;
        if (initial->data)
            load_floats(history + LANES - before, initial, c.batch * initial->stride[0] + channel * initial->stride[1],
                        initial->stride[2], before);
#define CALL(width, silu)                                                                             \
    if (backwards) convolve_line(out, x, vec_load(history), weight, bias, a->seqlen, width, silu, 1); \
    else convolve_line(out, x, vec_load(history), weight, bias, a->seqlen, width, silu, 0)
        FOR_EACH_KIND(a->width, a->silu)
#undef CALL
    }
    store_final_states(a, c);
}

/* `steps` steps of LANES adjacent channels; `earlier` has the rows before x. */
INLINE void convolve_channels(float *out, int64_t out_stride, const float *x, int64_t x_stride, const float *earlier,
                              const struct taps *taps, int64_t steps, const int width, const int silu) {
    vec window[MAX_WIDTH];
    UNROLL
    for (int w = 0; w < width - 1; w++) window[w] = vec_load(earlier + w * LANES);
    for (int64_t t = 0; t < steps; t++, x += x_stride, out += out_stride) {
        window[width - 1] = vec_load(x);
        vec sum = taps->bias;
        UNROLL
        for (int w = 0; w < width; w++) sum = vec_fma(taps->weight[w], window[w], sum);
        vec_store(out, silu ? vec_silu(sum) : sum);
        UNROLL
        for (int w = 0; w < width - 1; w++) window[w] = window[w + 1];
    }
}

INLINE int64_t rows_per_task(const struct conv_args *a) {
    const int64_t share = (a->seqlen + a->threads - 1) / a->threads;
    return share > STEPS ? STEPS : share < LEAST_STEPS ? LEAST_STEPS : share;
}

/* For channels that are adjacent in memory: lanes are channels, and a task is some steps of all channels, because
   adjacent tiles are then adjacent in memory. */
static void rows_task(const void *context, int64_t index, void *scratch) {
    const struct conv_args *a = context;
    const int64_t most = rows_per_task(a), tasks = (a->seqlen + most - 1) / most, batch = index / tasks,
                  first = index % tasks * most;
    const int64_t steps = a->seqlen - first < most ? a->seqlen - first : most, before = a->width - 1;
    for (int64_t tile = 0; tile * LANES < a->dim; tile++) {
        const struct channels c = channels_of(a->dim, batch, tile);
        if (c.count < LANES) convolve_copied(a, c, first, steps, scratch);
        else {
            const struct taps taps = load_taps(&a->weight, &a->bias, c, a->width);
            const float *x = (const float *)element(&a->x, batch * a->x.stride[0] + c.first + first * a->x.stride[2]);
            float *out = (float *)element(&a->out, batch * a->out.stride[0] + c.first + first * a->out.stride[2]);
            float earlier[HISTORY * LANES];
            if (first > 0) load_steps(earlier, &a->x, c, first - before, before);
            else load_history(earlier, a, c);
#define CALL(width, silu) \
    convolve_channels(out, a->out.stride[2], x, a->x.stride[2], earlier, &taps, steps, width, silu)
            FOR_EACH_KIND(a->width, a->silu)
#undef CALL
        }
        if (first + steps == a->seqlen) store_final_states(a, c);
    }
}

static void copied_task(const void *context, int64_t index, void *scratch) {
    const struct conv_args *a = context;
    const int64_t tiles = (a->dim + LANES - 1) / LANES;
    const struct channels c = channels_of(a->dim, index / tiles, index % tiles);
    for (int64_t first = 0; first < a->seqlen; first += STEPS) {
        convolve_copied(a, c, first, a->seqlen - first < STEPS ? a->seqlen - first : STEPS, scratch);
    }
    store_final_states(a, c);
}

int FOR_ISA(conv_forward)(const struct conv_args *a) {
    const size_t scratch = sizeof(struct forward_scratch);
    const int64_t tiles = a->batch * ((a->dim + LANES - 1) / LANES);
    const int floats = a->x.dtype == FLOAT32 && a->out.dtype == FLOAT32 && !a->seq_idx,
              along = a->x.stride[2] == a->out.stride[2];
    /* Below about 10 us a second thread costs more than it saves. */
    const int64_t threads = a->batch * a->dim * (a->seqlen + 44) < 1 << 14 ? 1 : a->threads;
    /* With fewer steps, a vector of steps is mostly empty, and a copy, whose vectors are channels, is faster. */
    if (a->seqlen >= LEAST_LINE && floats && along && (a->x.stride[2] == 1 || a->x.stride[2] == -1))
        return parallel_run(lines_task, a, tiles, 0, threads);
    if (floats && a->seqlen && a->x.stride[1] == 1 && a->out.stride[1] == 1) {
        const int64_t most = rows_per_task(a);
        return parallel_run(rows_task, a, a->batch * ((a->seqlen + most - 1) / most), scratch, threads);
    }
    return parallel_run(copied_task, a, tiles, scratch, threads);
}

/* Replaces the gradient of the output by the gradient of the sums before silu. */
static void through_silu(float *grad, const struct conv_args *a, const struct taps *taps, const float *rows,
                         struct channels c, int64_t first, int64_t steps) {
    const struct packed seq = packed_row(a, c.batch);
    const vec one = vec_set(1.0f);
    for (int64_t t = 0; t < steps; t++) {
        vec g = vec_load(grad + t * LANES);
        if (seq.index && seq.index[first + t] < 0) g = vec_set(0.0f);
        else if (a->silu) {
            const float *window = rows + t * LANES;
            const vec sum =
                seq.index ? convolve_packed(taps, window, a->width, seq, first + t) : convolve(taps, window, a->width);
            const vec gate = vec_sigmoid(sum);
            g = g * (gate * vec_fma(sum, one - gate, one));
        }
        vec_store(grad + t * LANES, g);
    }
}

/* The gradient of the input at a step; `grad` is the gradient of the sums from this step on. Negative steps are initial
   states. */
INLINE vec input_gradient(const struct conv_args *a, const struct taps *taps, const float *grad, struct channels c,
                          int64_t step) {
    const struct packed seq = packed_row(a, c.batch);
    vec sum = vec_set(0.0f);
    for (int64_t w = a->width - 1; w >= 0; w--) {
        const int64_t later = a->width - 1 - w, t = step + later;
        if (seq.index && (t < 0 || t >= a->seqlen || !same_sequence(seq, t, later))) continue;
        sum = vec_fma(taps->weight[w], vec_load(grad + later * LANES), sum);
    }
    return sum;
}

static void add_weight_gradient(vec total[MAX_WIDTH + 1], const struct conv_args *a, const float *rows,
                                const float *grad, struct channels c, int64_t first, int64_t steps) {
    const struct packed seq = packed_row(a, c.batch);
    for (int64_t t = 0; t < steps; t++) {
        const vec g = vec_load(grad + t * LANES);
        for (int64_t w = 0; w < a->width; w++) {
            if (seq.index && !same_sequence(seq, first + t, a->width - 1 - w)) continue;
            total[w] = vec_fma(g, vec_load(rows + (t + w) * LANES), total[w]);
        }
        total[MAX_WIDTH] = total[MAX_WIDTH] + g;
    }
}

/* Adds the gradient of the final states to rows `from` to end - 1 of the gradient of the inputs; row 0 is step
   `start`. */
static void add_final_gradient(float *grad_x, const struct conv_back_args *b, struct channels c, int64_t start,
                               int64_t from, int64_t end) {
    const struct conv_args *a = &b->conv;
    if (!b->grad_final_states.data) return;
    float last[HISTORY * LANES];
    load_steps(last, &b->grad_final_states, c, 0, a->width - 1);
    for (int64_t i = 0; i < a->width - 1; i++) {
        const int64_t row = a->seqlen - (a->width - 1) + i - start;
        if (row >= from && row < end)
            vec_store(grad_x + row * LANES, vec_load(grad_x + row * LANES) + vec_load(last + i * LANES));
    }
}

/* The scratch memory of the backward pass. Row 0 of each array is the step width - 1 steps before a block. */
struct backward_scratch {
    float rows[(HISTORY + STEPS) * LANES], grad[(2 * HISTORY + STEPS) * LANES], grad_x[(HISTORY + STEPS) * LANES];
};

/* Blocks of steps from the last to the first. An input is a term of the sums of its step and of the next width - 1
   steps, so each block also needs the gradients of the first steps of the block after it. */
static void back_batch(const struct conv_back_args *b, const struct taps *taps, struct channels c,
                       vec total[MAX_WIDTH + 1], struct backward_scratch *scratch) {
    const struct conv_args *a = &b->conv;
    const int64_t before = a->width - 1, row_bytes = LANES * (int64_t)sizeof(float);
    float *const rows = scratch->rows, *const grad = scratch->grad, *const grad_x = scratch->grad_x;
    /* Before the block: zeros, read at the start of time only. After it: the first steps of the block after. */
    memset(grad, 0, sizeof scratch->grad);
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
        /* In the block of step 0, the rows before the block are the initial states. */
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

int FOR_ISA(conv_backward)(const struct conv_back_args *b) {
    const int64_t tiles = (b->conv.dim + LANES - 1) / LANES;
    return parallel_run(backward_task, b, tiles, sizeof(struct backward_scratch), b->conv.threads);
}

/* Whether there is one step, and the taps and the width - 1 inputs of each channel are adjacent floats. */
static int is_plain_step(const struct conv_update_args *a) {
    return a->seqlen == 1 && !a->cache_seqlens && a->state_len == a->width - 1 && a->x.dtype == FLOAT32 &&
           a->state.dtype == FLOAT32 && a->weight.dtype == FLOAT32 && a->state.stride[2] == 1 &&
           a->weight.stride[1] == 1 && (!a->bias.data || a->bias.dtype == FLOAT32);
}

/* One step of LANES channels, whose inputs and taps are read channel by channel. */
INLINE void update_plain(const struct conv_update_args *a, struct channels c, int64_t entry, const int width,
                         const int silu) {
#define FIRST(tensor, at, axis) ((float *)(a->tensor.data) + (at) + c.first * a->tensor.stride[axis])
    float window[MAX_WIDTH * LANES] = {0}, weight[MAX_WIDTH * LANES] = {0}, biases[LANES] = {0};
    float *state = FIRST(state, entry * a->state.stride[0], 1);
    const float *from = FIRST(weight, 0, 0), *x = FIRST(x, c.batch * a->x.stride[0], 1);
    const float *bias = a->bias.data ? FIRST(bias, 0, 0) : NULL;
    for (int64_t i = 0; i < c.count; i++) {
        if (bias) biases[i] = bias[i * a->bias.stride[0]];
        UNROLL
        for (int w = 0; w < width; w++) {
            const float input = w < width - 1 ? state[w] : *x;
            window[w * LANES + i] = input;
            weight[w * LANES + i] = from[w];
            if (w > 0) state[w - 1] = input;
        }
        state += a->state.stride[1], from += a->weight.stride[0], x += a->x.stride[1];
    }
    struct taps taps = {.bias = vec_load(biases)};
    UNROLL
    for (int w = 0; w < width; w++) taps.weight[w] = vec_load(weight + w * LANES);
    const vec sum = convolve(&taps, window, width);
    store_part(&a->out, c.batch * a->out.stride[0] + c.first * a->out.stride[1], a->out.stride[1], c.count,
               silu ? vec_silu(sum) : sum);
#undef FIRST
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
    if (is_plain_step(a)) {
#define CALL(width, silu) update_plain(a, c, entry, width, silu)
        FOR_EACH_KIND(a->width, a->silu)
#undef CALL
        return;
    }
    const struct taps taps = load_taps(&a->weight, &a->bias, c, a->width);
    const struct channels state = {entry, c.first, c.count};
    float *window = rows + (length - before) * LANES;
    int64_t next = 0; /* the place of the next input in a ring buffer */
    if (a->cache_seqlens) {
        next = (a->cache_seqlens[c.batch] % length + length) % length;
        for (int64_t i = 0; i < before; i++)
            load_steps(window + i * LANES, &a->state, state, (next + length - before + i) % length, 1);
    } else {
        load_steps(rows, &a->state, state, 0, length);
    }
    load_steps(rows + length * LANES, &a->x, c, 0, a->seqlen);
    convolve_block(out, &taps, window, a->seqlen, a->width, a->silu);
    store_steps(out, &a->out, c, 0, a->seqlen);
    if (!a->cache_seqlens) store_steps(rows + a->seqlen * LANES, &a->state, state, 0, length);
    else
        for (int64_t i = 0; i < a->seqlen; i++)
            store_steps(rows + (length + i) * LANES, &a->state, state, (next + i) % length, 1);
}

int FOR_ISA(conv_update)(const struct conv_update_args *a) {
    const int64_t tiles = (a->dim + LANES - 1) / LANES;
    struct scratch layout = {.overflow = a->state_len > LONGEST || a->seqlen > LONGEST};
    if (!layout.overflow) scratch_add(&layout, a->state_len + 2 * a->seqlen, LANES); /* the state and x, then out */
    /* A small problem takes less time than waking a second thread. */
    const int64_t small = a->batch * a->dim * a->seqlen < 1 << 16;
    return parallel_run(update_task, a, a->batch * tiles, scratch_bytes(&layout), small ? 1 : a->threads);
}
