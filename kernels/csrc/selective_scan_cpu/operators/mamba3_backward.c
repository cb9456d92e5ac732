/* The gradient of Mamba-3's scan, of rank 1.

   The states before each chunk are computed forwards and kept. Then each chunk is read again, from the last to the
   first: with S0 and S1 the states before and after it, H = grad_out v^T, W the weights of its rows and A = W q k^T,

       grad q = decay S0 grad_out + (H W) k        grad v = A^T grad_out + decay W k grad S1
       grad k = (H W)^T q + decay W grad S1 v      grad S0 = decay grad S1 + q^T decay grad_out  */
#include "kernels.h"
#include "mamba3_simd.h"

// clang-format off
#define MAMBA3_BACKWARD_PARTS(PART) \
    PART(starts, chunks, start) /* the state before each chunk, and the angle */ \
    PART(later, dstate, columns) /* the gradient of the state after the chunk */ \
    PART(out, wide, columns) PART(grad, wide, columns) PART(grad_v, wide, columns) /* row by element of v */ \
    PART(grad_across, columns, wide) PART(v_across, columns, wide) /* element of v by row */ \
    PART(scores, wide, wide) PART(gains, wide, wide) PART(gains_across, wide, wide) /* q k^T; H W, and transposed */ \
    PART(grad_q, dstate, wide) PART(grad_k, dstate, wide) PART(grad_angle, turns, wide) /* by row */ \
    PART(grad_rows, wide, states) PART(angle_rows, wide, turns) /* transposed */ \
    PART(from_later, 1, turns) /* the gradient of the angle by all later steps */ \
    PART(of_row, 1, wide) PART(of_column, 1, wide) /* sums of H A over a row and a column */ \
    PART(own, 1, wide) PART(of_weight, 1, wide) PART(of_total, 1, wide) PART(into_end, 1, wide) PART(place, 1, wide) \
    PART(grad_same, 1, length) PART(grad_earlier, 1, length) /* of each step of the sequence */
// clang-format on

struct mamba3_backward_layout {
    struct mamba3_layout chunk;
    MAMBA3_BACKWARD_PARTS(SCRATCH_PLACE)
    struct scratch total;
};
struct mamba3_backward_work {
    MAMBA3_BACKWARD_PARTS(SCRATCH_POINTER)
};
struct mamba3_backward_context {
    const struct mamba3_backward_args *args;
    struct mamba3_backward_layout layout;
};
struct mamba3_backward_task {
    const struct mamba3_backward_args *b;
    const struct mamba3_task *t;
    const struct mamba3_backward_work *w;
    int64_t part;
};

/* A matrix with a row for each of `rows` rows of `columns` floats, transposed: rows of `pitch` floats. */
static void transpose(float *to, int64_t pitch, const float *from, int64_t rows, int64_t columns, int64_t from_pitch) {
    const struct tensor source = {(char *)from, FLOAT32, {0}};
    for (int64_t m = 0; m < pitch; m += LANES) {
        const struct tile_shape shape = {rows - m < LANES ? (rows > m ? rows - m : 0) : LANES, columns, from_pitch, 1};
        FOR_ISA(tile_load)(to + m, pitch, &source, shape.columns ? m * from_pitch : 0, shape);
    }
}

/* The gradient of out before its gate, and those of z and D. */
static void mamba3_grad_rows(const struct mamba3_backward_task *k, int64_t first, int64_t rows) {
    const struct mamba3_backward_args *b = k->b;
    const struct mamba3_args *a = k->t->a;
    const struct mamba3_work *c = k->t->w;
    const int64_t head = k->t->head, batch = k->t->batch, columns = c->columns;
    const float D = a->D.data ? load_float(&a->D, head * a->D.stride[0]) : 0.0f;
    vec sum = vec_set(0.0f);
#define AT(name, s) (batch * name.stride[0] + (s) * name.stride[1] + head * name.stride[2] + p)
    for (int64_t m = 0; m < rows; m++) {
        for (int64_t p = 0; p < columns; p += LANES) {
            const int64_t left = a->head_dim - p < LANES ? a->head_dim - p : LANES;
            const vec v = vec_load(c->v + m * columns + p);
            vec grad = load_part(&b->grad_out, AT(b->grad_out, first + m), 1, left);
            if (a->z.data) {
                const vec z = load_part(&a->z, AT(a->z, first + m), 1, left), gate = vec_sigmoid(z);
                const vec out = vec_fma(vec_set(D), v, vec_load(k->w->out + m * columns + p));
                const vec slope = gate * vec_fma(z, vec_set(1.0f) - gate, vec_set(1.0f));
                store_part(&b->grad_z, AT(b->grad_z, first + m), 1, left, grad * out * slope);
                grad = grad * z * gate;
            }
            sum = vec_fma(grad, v, sum);
            vec_store(k->w->grad + m * columns + p, grad);
        }
    }
    if (a->D.data) b->grad_D[k->t->sequence * a->heads + head] += vec_sum(sum);
}

/* What H = grad v^T and q k^T give of the weights and decays, and the matrix H W. */
static void mamba3_grad_weights(const struct mamba3_backward_task *k, int64_t rows) {
    const struct mamba3_work *c = k->t->w;
    const struct mamba3_backward_work *w = k->w;
    const int64_t wide = c->wide;
    const struct product h = {.c = w->gains,
                              .a = w->grad_across,
                              .b = w->v_across,
                              .c_row = wide,
                              .a_row = 1,
                              .a_column = wide,
                              .b_row = wide,
                              .rows = rows,
                              .depth = c->columns,
                              .columns = wide};
    FOR_ISA(multiply)(&h);
    memset(w->of_column, 0, (size_t)wide * sizeof(float));
    memset(w->of_weight, 0, (size_t)wide * sizeof(float));
    for (int64_t m = 0; m < rows; m++) {
        float *const gains = w->gains + m * wide, *const scores = w->scores + m * wide;
        const float *const weights = c->weights + m * wide, *const decays = c->decays + m * wide;
        vec sum = vec_set(0.0f);
        w->own[m] = gains[m] * scores[m];
        int64_t j = 0;
        for (; j <= m; j += LANES) {
            const vec gain = vec_load(gains + j), product = gain * vec_load(scores + j), weight = vec_load(weights + j);
            const vec of_decay = product * weight;
            const mask earlier = vec_greater(vec_set((float)m), vec_load(w->place + j));
            sum = sum + of_decay;
            vec_store(w->of_column + j, vec_load(w->of_column + j) + of_decay);
            vec_store(w->of_weight + j,
                      vec_add_where(vec_load(w->of_weight + j), earlier, product * vec_load(decays + j)));
            vec_store(gains + j, gain * weight);
        }
        for (; j < wide; j += LANES) vec_store(gains + j, vec_set(0.0f));
        w->of_row[m] = vec_sum(sum);
    }
    for (int64_t m = rows; m < wide; m++) {
        memset(w->gains + m * wide, 0, (size_t)wide * sizeof(float));
        w->of_row[m] = 0.0f;
    }
    transpose(w->gains_across, wide, w->gains, rows, wide, wide);
}

/* The gradients of q and k before they are rotated back, and what the state gives of the weights and decays. */
static void mamba3_grad_qk(const struct mamba3_backward_task *k, int64_t rows, const float *state) {
    const struct mamba3_args *a = k->t->a;
    const struct mamba3_work *c = k->t->w;
    const struct mamba3_backward_work *w = k->w;
    const int64_t wide = c->wide, columns = c->columns;
    static const float one = 1.0f;
    struct product from_state = {.c = w->grad_q,
                                 .a = state,
                                 .b = w->grad_across,
                                 .c_row = wide,
                                 .a_row = columns,
                                 .a_column = 1,
                                 .b_row = wide,
                                 .rows = a->dstate,
                                 .depth = columns,
                                 .columns = wide};
    FOR_ISA(multiply)(&from_state);
    from_state.c = w->grad_k, from_state.a = w->later, from_state.b = w->v_across;
    FOR_ISA(multiply)(&from_state);
    for (int64_t j = 0; j < wide; j += LANES) {
        const vec from_start = vec_load(c->from_start + j), to_end = vec_load(c->to_end + j);
        const vec scale = to_end * vec_load(c->weight + j);
        vec of_q = vec_set(0.0f), of_k = of_q;
        for (int64_t n = 0; n < a->dstate; n++) {
            float *const q = w->grad_q + n * wide + j, *const key = w->grad_k + n * wide + j;
            const vec grad_q = vec_load(q) * from_start, grad_k = vec_load(key);
            of_q = vec_fma(vec_load(c->q + n * wide + j), grad_q, of_q);
            of_k = vec_fma(vec_load(c->k + n * wide + j), grad_k, of_k);
            vec_store(q, grad_q);
            vec_store(key, grad_k * scale);
        }
        vec_store(w->of_total + j, of_q + vec_load(w->of_row + j) - vec_load(w->of_column + j));
        vec_store(w->into_end + j, of_k * to_end);
    }
    const struct product q = {.c = w->grad_q,
                              .a = c->k,
                              .b = w->gains_across,
                              .c_row = wide,
                              .a_row = wide,
                              .a_column = 1,
                              .b_row = wide,
                              .rows = a->dstate,
                              .depth = rows,
                              .columns = wide,
                              .factor = &one};
    FOR_ISA(multiply)(&q);
    struct product key = q;
    key.c = w->grad_k, key.a = c->q, key.b = w->gains;
    FOR_ISA(multiply)(&key);
}

/* The gradients of v, adt and the weights; then that of the state before the chunk, in `later`. */
static void mamba3_grad_rest(const struct mamba3_backward_task *k, int64_t first, int64_t rows, const float *state) {
    const struct mamba3_backward_args *b = k->b;
    const struct mamba3_args *a = k->t->a;
    const struct mamba3_work *c = k->t->w;
    const struct mamba3_backward_work *w = k->w;
    const int64_t wide = c->wide, columns = c->columns, head = k->t->head, batch = k->t->batch;
    const float D = a->D.data ? load_float(&a->D, head * a->D.stride[0]) : 0.0f;
    for (int64_t m = 0; m < rows; m++) w->of_row[m] = c->to_end[m] * c->weight[m];
    struct product v = {.c = w->grad_v,
                        .a = c->k,
                        .b = w->later,
                        .c_row = columns,
                        .a_row = 1,
                        .a_column = wide,
                        .b_row = columns,
                        .rows = rows,
                        .depth = a->dstate,
                        .columns = columns};
    FOR_ISA(multiply)(&v);
    v.a = c->products, v.b = w->grad, v.depth = rows, v.factor = w->of_row, v.factor_row = 1;
    FOR_ISA(multiply)(&v);
    for (int64_t m = 0; m < rows; m++) {
        for (int64_t p = 0; p < columns; p += LANES) {
            const int64_t left = a->head_dim - p < LANES ? a->head_dim - p : LANES;
            const vec grad = vec_load(w->grad + m * columns + p);
            store_part(&b->grad_v, AT(b->grad_v, first + m), 1, left,
                       vec_fma(vec_set(D), grad, vec_load(w->grad_v + m * columns + p)));
            vec_store(w->grad + m * columns + p, grad * vec_set(c->from_start[m]));
        }
    }
#undef AT
    vec both = vec_set(0.0f);
    for (int64_t i = 0; i < a->dstate * columns; i += LANES)
        both = vec_fma(vec_load(state + i), vec_load(w->later + i), both);
    float total = vec_sum(both) * c->from_start[rows - 1];
    for (int64_t m = 0; m < rows; m++) total += c->weight[m] * w->into_end[m];
    for (int64_t m = rows - 1; m >= 0; m--) {
        const int64_t step = first + m - k->t->start;
        total += w->of_total[m] - c->weight[m] * w->into_end[m];
        b->grad_adt[(batch * a->heads + head) * a->seqlen + first + m] = total;
        const float of_weight = w->of_weight[m] + w->into_end[m];
        w->grad_same[step] = of_weight + w->own[m];
        w->grad_earlier[step + 1] = of_weight;
    }
    const struct product before = {.c = w->later,
                                   .a = c->q,
                                   .b = w->grad,
                                   .c_row = columns,
                                   .a_row = wide,
                                   .a_column = 1,
                                   .b_row = columns,
                                   .rows = a->dstate,
                                   .depth = rows,
                                   .columns = columns,
                                   .factor = c->from_start + rows - 1};
    FOR_ISA(multiply)(&before);
}

/* Rotates the gradients of q and k back, and adds what they give of the angle. */
static void mamba3_unrotate(const struct mamba3_args *a, const struct mamba3_work *c, const float *x, float *grad,
                            float *grad_angle) {
    for (int64_t i = 0; i < a->angles; i++) {
        const int64_t one = first_of_pair(a, i) * c->wide, other = second_of_pair(a, i) * c->wide, at = i * c->wide;
        for (int64_t m = 0; m < c->wide; m += LANES) {
            const vec cosine = vec_load(c->cosine + at + m), sine = vec_load(c->sine + at + m);
            const vec g0 = vec_load(grad + one + m), g1 = vec_load(grad + other + m);
            const vec angle =
                vec_load(grad_angle + at + m) + (g1 * vec_load(x + one + m) - g0 * vec_load(x + other + m));
            vec_store(grad_angle + at + m, angle);
            vec_store(grad + one + m, g0 * cosine + g1 * sine);
            vec_store(grad + other + m, g1 * cosine - g0 * sine);
        }
    }
}

/* Adds the rows of grad_q or grad_k to those of all heads of the group, and their sum to the bias's gradient. */
static void mamba3_add_rows(const struct mamba3_backward_task *k, const float *grad, float *rows_of_all, float *bias,
                            int64_t first, int64_t rows) {
    const struct mamba3_args *a = k->t->a;
    const int64_t wide = k->t->w->wide, states = whole_vectors(a->dstate), dstate = a->dstate;
    transpose(k->w->grad_rows, states, grad, dstate, wide, wide);
    float *const of_bias = bias + (k->t->sequence * a->heads + k->t->head) * dstate;
    for (int64_t m = 0; m < rows; m++) {
        const int64_t step = (k->part * k->b->batch + k->t->batch) * a->seqlen + first + m;
        float *const to = rows_of_all + (step * a->groups + k->t->group) * dstate;
        const float *const from = k->w->grad_rows + m * states;
        for (int64_t n = 0; n < dstate; n++) {
            to[n] += from[n];
            of_bias[n] += from[n];
        }
    }
}

/* The gradients of the angles' rates, and what they give of dt. */
static void mamba3_grad_angles(const struct mamba3_backward_task *k, int64_t first, int64_t rows) {
    const struct mamba3_backward_args *b = k->b;
    const struct mamba3_args *a = k->t->a;
    const struct mamba3_work *c = k->t->w;
    const struct mamba3_backward_work *w = k->w;
    const vec pi = vec_set(0x1.921fb6p+1f);
    transpose(w->angle_rows, c->turns, w->grad_angle, c->turns, c->wide, c->wide);
    for (int64_t m = rows - 1; m >= 0; m--) {
        const int64_t step = first + m;
        vec of_dt = vec_set(0.0f);
        for (int64_t i = 0; i < a->angles; i += LANES) {
            const int64_t left = a->angles - i < LANES ? a->angles - i : LANES;
            const int64_t at =
                k->t->batch * a->rates.stride[0] + step * a->rates.stride[1] + k->t->head * a->rates.stride[2];
            const vec rate = vec_tanh(load_part(&a->rates, at + i, 1, left));
            const vec grad = vec_load(w->from_later + i) + vec_load(w->angle_rows + m * c->turns + i);
            vec_store(w->from_later + i, grad);
            of_dt = vec_fma(grad, rate, of_dt);
            float values[LANES];
            vec_store(values, grad * pi * vec_set(c->dt[m]) * (vec_set(1.0f) - rate * rate));
            memcpy(b->grad_rates + ((k->t->batch * a->seqlen + step) * a->heads + k->t->head) * a->angles + i, values,
                   (size_t)left * sizeof(float));
        }
        b->grad_dt[(k->t->batch * a->heads + k->t->head) * a->seqlen + step] = 0x1.921fb6p+1f * vec_sum(of_dt);
    }
}

/* The gradients of what the sequence began with, from that of the state before the first step. */
static void mamba3_grad_first(const struct mamba3_backward_task *k) {
    const struct mamba3_backward_args *b = k->b;
    const struct mamba3_args *a = k->t->a;
    const struct mamba3_work *c = k->t->w;
    const struct mamba3_backward_work *w = k->w;
    const int64_t dstate = a->dstate, head_dim = a->head_dim, at = k->t->sequence * a->heads + k->t->head;
    w->grad_earlier[0] = 0.0f;
    if (!a->first_state.data) return;
    for (int64_t i = 0; i < a->angles; i++) b->grad_first_angle[at * a->angles + i] = w->from_later[i];
    float *const of_state = b->grad_first_state + at * head_dim * dstate, *const of_k = b->grad_first_k + at * dstate,
                 *const of_v = b->grad_first_v + at * head_dim;
    for (int64_t p = 0; p < head_dim; p++)
        for (int64_t n = 0; n < dstate; n++) of_state[p * dstate + n] = w->later[n * c->columns + p];
    if (k->t->start >= k->t->end) {
        const struct tensor *last = &b->grad_last_k;
        if (last->data)
            load_floats(of_k, last, k->t->sequence * last->stride[0] + k->t->head * last->stride[2], 1, dstate);
        return;
    }
    mamba3_mixes(k->t, k->t->start, 1);
    const struct tensor *first_k = &a->first_k, *first_v = &a->first_v;
    load_floats(c->q, first_k, k->t->sequence * first_k->stride[0] + k->t->head * first_k->stride[2], 1, dstate);
    load_floats(c->v, first_v, k->t->sequence * first_v->stride[0] + k->t->head * first_v->stride[1], 1, head_dim);
    const float earlier = c->earlier[0];
    float of_earlier = 0.0f;
    for (int64_t n = 0; n < dstate; n++) {
        float sum = 0.0f;
        for (int64_t p = 0; p < head_dim; p++) {
            const float grad = w->later[n * c->columns + p];
            sum += grad * c->v[p];
            of_v[p] += earlier * grad * c->q[n];
        }
        of_k[n] = earlier * sum;
        of_earlier += sum * c->q[n];
    }
    w->grad_earlier[0] = of_earlier;
}

static void mamba3_backward_sequence(const struct mamba3_backward_task *k) {
    const struct mamba3_backward_args *b = k->b;
    const struct mamba3_args *a = k->t->a;
    const struct mamba3_task *t = k->t;
    const struct mamba3_work *c = t->w;
    const struct mamba3_backward_work *w = k->w;
    const int64_t states = a->dstate * c->columns, start = states + 2 * c->turns;
    mamba3_first_state(t, w->starts);
    const int64_t chunks = (t->end - t->start + c->steps - 1) / c->steps;
    for (int64_t i = 0; i < chunks; i++) {
        const int64_t first = t->start + i * c->steps, left = t->end - first, count = left < c->steps ? left : c->steps;
        float *const before = w->starts + i * start;
        memcpy(before + states, c->angle, 2 * (size_t)c->turns * sizeof(float));
        if (i + 1 == chunks) break;
        mamba3_read(t, first, count);
        mamba3_decays(t, count);
        memcpy(before + start, before, (size_t)states * sizeof(float));
        mamba3_advance(t, count, before + start);
    }
    memset(w->later, 0, (size_t)states * sizeof(float));
    memset(w->from_later, 0, (size_t)c->turns * sizeof(float));
    const struct tensor *last = &b->grad_last_state;
    for (int64_t p = 0; last->data && p < a->head_dim; p++)
        for (int64_t n = 0; n < a->dstate; n++)
            w->later[n * c->columns + p] =
                load_float(last, t->sequence * last->stride[0] + t->head * last->stride[1] + p * last->stride[2] + n);
    last = &b->grad_last_angle;
    if (last->data)
        load_floats(w->from_later, last, t->sequence * last->stride[0] + t->head * last->stride[1], 1, a->angles);
    last = &b->grad_last_k;
    for (int64_t i = chunks - 1; i >= 0; i--) {
        const int64_t first = t->start + i * c->steps, left = t->end - first, count = left < c->steps ? left : c->steps;
        const float *const before = w->starts + i * start;
        memcpy(c->angle, before + states, 2 * (size_t)c->turns * sizeof(float));
        mamba3_read(t, first, count);
        for (int64_t m = count; m < c->wide; m++) {
            memset(c->v + m * c->columns, 0, (size_t)c->columns * sizeof(float));
            memset(w->grad + m * c->columns, 0, (size_t)c->columns * sizeof(float));
            c->weight[m] = 0.0f;
        }
        mamba3_decays(t, count);
        mamba3_products(t, count);
        memcpy(w->scores, c->products, (size_t)(c->wide * c->wide) * sizeof(float));
        mamba3_weigh(t, count);
        for (int64_t m = 0; m < count; m++) {
            const int64_t filled = whole_vectors(rows_before(a, m / TALL * TALL, count));
            memset(c->products + m * c->wide + filled, 0, (size_t)(c->wide - filled) * sizeof(float));
        }
        if (a->z.data) mamba3_outputs(t, count, before, w->out);
        mamba3_grad_rows(k, first, count);
        transpose(w->grad_across, c->wide, w->grad, count, c->columns, c->columns);
        transpose(w->v_across, c->wide, c->v, count, c->columns, c->columns);
        mamba3_grad_weights(k, count);
        mamba3_grad_qk(k, count, before);
        mamba3_grad_rest(k, first, count, before);
        if (i == chunks - 1 && last->data)
            for (int64_t n = 0; n < a->dstate; n++)
                w->grad_k[n * c->wide + count - 1] +=
                    load_float(last, t->sequence * last->stride[0] + t->head * last->stride[2] + n);
        memset(w->grad_angle, 0, (size_t)(c->turns * c->wide) * sizeof(float));
        mamba3_unrotate(a, c, c->q, w->grad_q, w->grad_angle);
        mamba3_unrotate(a, c, c->k, w->grad_k, w->grad_angle);
        mamba3_add_rows(k, w->grad_q, b->grad_q, b->grad_q_bias, first, count);
        mamba3_add_rows(k, w->grad_k, b->grad_k, b->grad_k_bias, first, count);
        mamba3_grad_angles(k, first, count);
    }
    mamba3_grad_first(k);
    for (int64_t first = t->start; first < t->end; first += c->steps) {
        const int64_t left = t->end - first, count = left < c->steps ? left : c->steps;
        mamba3_mixes(t, first, count);
        for (int64_t s = 0; s < count; s++) {
            const int64_t at = (t->batch * a->heads + t->head) * a->seqlen + first + s, step = first + s - t->start;
            const float mix = c->mix[s], same = w->grad_same[step], earlier = w->grad_earlier[step];
            b->grad_dt[at] += mix * same + (1.0f - mix) * earlier;
            b->grad_trap[at] = c->dt[s] * (same - earlier) * mix * (1.0f - mix);
        }
    }
}

static void mamba3_backward_part(const void *context, int64_t index, void *scratch) {
    const struct mamba3_backward_context *x = context;
    const struct mamba3_backward_args *b = x->args;
    const struct mamba3_args *a = &b->scan;
    const struct mamba3_work chunk = mamba3_locate(&x->layout.chunk, scratch);
    const struct mamba3_backward_layout *const layout = &x->layout;
    float *const memory = (float *)scratch + x->layout.chunk.total.floats;
    struct mamba3_backward_work work, *const w = &work;
    MAMBA3_BACKWARD_PARTS(SCRATCH_LOCATE)
    for (int64_t m = 0; m < chunk.wide; m++) w->place[m] = (float)m;
    const int64_t heads = a->heads / a->groups, part = index % b->parts, group = index / b->parts % a->groups;
    for (int64_t head = group * heads + part; head < (group + 1) * heads; head += b->parts) {
        const struct mamba3_task t = mamba3_begin(a, &chunk, index / b->parts / a->groups, head);
        const struct mamba3_backward_task k = {b, &t, w, part};
        mamba3_backward_sequence(&k);
    }
}

int FOR_ISA(mamba3_backward)(const struct mamba3_backward_args *b) {
    struct mamba3_backward_context context = {.args = b};
    struct mamba3_backward_layout *const layout = &context.layout;
    const struct mamba3_args *a = &b->scan;
    if (a->seqlen > LONGEST || mamba3_layout(a, &layout->chunk)) return TOO_LARGE;
    const int64_t dstate = a->dstate, wide = layout->chunk.wide, columns = layout->chunk.columns,
                  turns = layout->chunk.turns, states = whole_vectors(dstate), length = a->seqlen + 1,
                  chunks = a->seqlen / layout->chunk.steps + 2;
    int64_t start;
    if (__builtin_mul_overflow(dstate, columns, &start) || start > LONGEST) return TOO_LARGE;
    start += 2 * turns;
    MAMBA3_BACKWARD_PARTS(SCRATCH_ADD)
    struct scratch total = layout->chunk.total;
    total.overflow |= layout->total.overflow;
    scratch_add(&total, 1, (int64_t)layout->total.floats);
    return parallel_run(mamba3_backward_part, &context, a->sequences * a->groups * b->parts, scratch_bytes(&total),
                        a->threads);
}
