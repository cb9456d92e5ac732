/* The innermost loops of the scan. */
#include "kernels.h"
#include "scan_simd.h"

/* The decay 2^(delta rate) of `count` states, as vec_power returns it; with `careful` the power is the whole decay. */
INLINE void powers(vec *power, vec *rest, vec delta, const vec *rate, const int count, const struct variant v) {
    UNROLL
    for (int i = 0; i < count; i++) {
        if (v.careful) power[i] = vec_exp(delta * rate[i] * vec_set(LN_2));
        else power[i] = vec_power(delta, rate[i], v.far, &rest[i]);
    }
}

/* States first to first + count - 1, through all steps. */
INLINE void scan_states(struct workspace *w, float *h_memory, const float *rates, int64_t first, const int count,
                        int64_t steps, const struct variant v) {
    vec h[BLOCK], rate[BLOCK], B[BLOCK], C[BLOCK], power[BLOCK], rest[BLOCK];
    UNROLL
    for (int i = 0; i < count; i++) {
        h[i] = vec_load(h_memory + (first + i) * LANES);
        if (!v.tied) rate[i] = vec_load(rates + (first + i) * LANES);
        if (!v.variable_B) B[i] = vec_load(w->fixed_B + (first + i) * LANES);
        if (!v.variable_C) C[i] = vec_load(w->fixed_C + (first + i) * LANES);
    }
    /* Local copies, because the compiler must assume that the stores below change *w. */
    const float *inputs = w->input, *deltas = w->delta, *decays = w->decay, *keeps = w->keep;
    const float *B_now = w->B + first, *C_now = w->C + first;
    float *outs = w->out;
    const int64_t pitch = w->pitch;
    const struct ahead ahead = first < 4 * BLOCK ? w->ahead[first / BLOCK] : (struct ahead){0};
    const char *line = ahead.data;
    int64_t fetched = 0, row = 0;
    if (!v.tied) powers(power, rest, vec_load(deltas), rate, count, v);
    for (const float *end = inputs + steps * LANES; inputs < end;
         inputs += LANES, outs += LANES, B_now += pitch, C_now += pitch) {
        const vec input = vec_load(inputs);
        vec out = vec_load(outs);
        if (fetched++ < ahead.count) {
            __builtin_prefetch(line + row * ahead.pitch);
            if (++row == ahead.rows) row = 0, line += 64;
        }
        UNROLL
        for (int i = 0; i < count; i++) {
            const vec now = v.variable_B ? vec_set(B_now[i]) : B[i];
            if (v.tied) {
                h[i] = vec_fma(vec_load(decays), h[i], input * now) + vec_and(vec_load(keeps), h[i]);
            } else if (v.careful) {
                h[i] = vec_fma(power[i], h[i], input * now);
            } else {
                h[i] = vec_step(power[i], rest[i], h[i], input, now);
            }
            out = vec_fma(v.variable_C ? vec_set(C_now[i]) : C[i], h[i], out);
        }
        vec_store(outs, out);
        if (v.tied) decays += LANES, keeps += LANES;
        /* The powers of the next step, which wait for no state. After the last step they are not used. */
        else powers(power, rest, vec_load(deltas += LANES), rate, count, v);
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

void FOR_ISA(scan_block)(const struct scan_args *a, struct workspace *w, struct channels c, float *h, int64_t first,
                         int64_t steps, enum range range) {
    if (a->tied_A) prepare_tied(a, w, c, first, steps, range == CAREFUL);
    scan_steps(a, w, h, slot_of(w->rates, c, a->dstate), steps, range);
}
