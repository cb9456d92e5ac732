/* SelectiveScan, ProjectedScan and ChunkScan. */
#include <math.h>
#include <stdlib.h>

#include "kernels.h"
#include "views.h"

static int divides(struct call *call, const char *many, const char *groups, int64_t group_count) {
    const int64_t count = call_length(call, many);
    if (group_count > 0 && count % group_count == 0) return 0;
    return call_fail(call, "%s=%lld is not a multiple of %s=%lld", many, (long long)count, groups,
                     (long long)group_count);
}

/* The arguments that both scans over (batch, dim, seqlen) have; the inputs of these names by their numbers. */
struct scan_inputs {
    int u, A, D, z, delta_bias, onto, first_state;
};

static struct tensor over_time(const struct call *call, void *data, int64_t channels, const char *offset,
                               int64_t groups) {
    const int last = call_attribute(call, "channels_last") != 0.0, reverse = call_attribute(call, "reverse") != 0.0;
    const struct timeline t = timeline_of(data, channels, call_length(call, "seqlen"),
                                          offset ? call_attribute(call, offset) : 0.0, last, reverse);
    return VIEW(t.data, t.batch, t.channel * (call_length(call, "dim") / groups), t.channel, t.step);
}

static struct scan_args scan_arguments(const struct call *call, struct scan_inputs at, int64_t groups) {
    const struct input *const in = call->input;
    const int64_t dim = call_length(call, "dim"), dstate = call_length(call, "dstate"), head_dim = dim / groups;
    const int axis = call_attribute(call, "channels_last") != 0.0 ? 2 : 1;
    return (struct scan_args){
        .batch = call_length(call, "batch"),
        .heads = groups,
        .head_dim = head_dim,
        .seqlen = call_length(call, "seqlen"),
        .dstate = dstate,
        .groups = groups,
        .delta_softplus = call_attribute(call, "delta_softplus") != 0.0,
        .variable_B = 1,
        .variable_C = 1,
        .threads = worker_count(),
        .u = over_time(call, in[at.u].data, in[at.u].length[axis], "u_offset", groups),
        .z = over_time(call, in[at.z].data, in[at.z].length[axis], "z_offset", groups),
        .onto = over_time(call, in[at.onto].data, dim, NULL, groups),
        .out = over_time(call, call->output[0], dim, NULL, groups),
        .A = VIEW(in[at.A].data, head_dim * dstate, dstate, 1),
        .D = VIEW(in[at.D].data, head_dim, 1),
        .delta_bias = VIEW(in[at.delta_bias].data, head_dim, 1),
        .first_state = VIEW(in[at.first_state].data, dim * dstate, head_dim * dstate, dstate, 1),
        .last_state = VIEW(call->output[1], dim * dstate, head_dim * dstate, dstate, 1),
        .delta_min = -INFINITY,
        .delta_max = INFINITY,
        .scale = call_attribute(call, "scale"),
    };
}

/* B or C: (batch, group, dstate, seqlen) in either layout, or constant in time. */
static struct tensor projection(const struct call *call, const struct input *in, int64_t groups) {
    const int64_t dim = call_length(call, "dim"), dstate = call_length(call, "dstate"),
                  seqlen = call_length(call, "seqlen");
    if (in->count == 2) return VIEW(in->data, dim / groups * dstate, dstate, 1);
    const int last = call_attribute(call, "channels_last") != 0.0, reverse = call_attribute(call, "reverse") != 0.0;
    const struct timeline t = timeline_of(in->data, groups * dstate, seqlen, 0.0, last, reverse);
    return VIEW(t.data, t.batch, dstate * t.channel, t.channel, t.step);
}

int selective_scan(struct call *call) {
    enum { U, DELTA, RATES, B, C, D, Z, DELTA_BIAS, ONTO, FIRST_STATE };
    const struct input *const in = call->input;
    const int grouped = in[B].count == 4 || in[C].count == 4;
    const int64_t groups = grouped ? call_length(call, "groups") : 1;
    if (divides(call, "dim", "groups", groups)) return FAILED;
    if (groups > 1 && (in[B].count == 3 || in[C].count == 3))
        return call_fail(call,
                         "B has %d axes and C %d: with groups=%lld, expected 4, or 2 where it is constant in time",
                         in[B].count, in[C].count, (long long)groups);
    if (call_outputs(call)) return FAILED;
    struct scan_args args =
        scan_arguments(call, (struct scan_inputs){U, RATES, D, Z, DELTA_BIAS, ONTO, FIRST_STATE}, groups);
    args.variable_B = in[B].count != 2;
    args.variable_C = in[C].count != 2;
    args.delta = over_time(call, in[DELTA].data, call_length(call, "dim"), NULL, groups);
    args.B = projection(call, &in[B], groups);
    args.C = projection(call, &in[C], groups);
    return CHOSEN_ISA(scan_forward, &args);
}

/* A scan of one step, by the kernel of a step. The scan has a first and a last state, and neither `onto` nor a scale.
   delta: (batch, head, head_dim) */
static int one_step(struct call *call, const struct scan_args *scan, int first_state, struct tensor delta) {
    call_keep(call->output[1], &call->input[first_state]);
    const struct state_update_args args = {
        .batch = scan->batch,
        .heads = scan->heads,
        .head_dim = scan->head_dim,
        .dstate = scan->dstate,
        .groups = scan->groups,
        .dt_softplus = scan->delta_softplus,
        .threads = scan->threads,
        .state = scan->last_state,
        .x = scan->u,
        .dt = delta,
        .z = scan->z,
        .out = scan->out,
        .A = scan->A,
        .B = scan->B,
        .C = scan->C,
        .D = scan->D,
        .dt_bias = scan->delta_bias,
    };
    return CHOSEN_ISA(state_update, &args);
}

/* one_step of a projected scan, after the product of delta's weights. */
static int one_projected_step(struct call *call, const struct scan_args *scan, int first_state) {
    const int64_t dim = scan->head_dim;
    size_t count;
    if (__builtin_mul_overflow((size_t)scan->batch * sizeof(float), (size_t)dim, &count)) return TOO_LARGE;
    float *const delta = malloc(count + 1); /* never of size 0, for which malloc may return NULL */
    if (!delta) return NO_MEMORY;
    int failed = 0;
    for (int64_t row = 0; row < scan->batch && !failed; row++) {
        const struct linear_args args = {
            .rows = dim,
            .columns = scan->rank,
            .threads = scan->threads,
            .weight = VIEW(scan->delta_weight.data, scan->rank, 1),
            .x = VIEW((float *)scan->delta.data + row * scan->delta.stride[0], 1),
            .out = VIEW(delta + row * dim, 1),
        };
        failed = CHOSEN_ISA(linear, &args);
    }
    if (!failed) failed = one_step(call, scan, first_state, VIEW(delta, dim, 0, 1));
    free(delta);
    return failed;
}

int projected_scan(struct call *call) {
    enum { U, PROJECTED, DELTA_WEIGHT, RATES, D, Z, DELTA_BIAS, ONTO, FIRST_STATE };
    const struct input *const in = call->input;
    const int64_t rank = call_length(call, "rank"), dstate = call_length(call, "dstate");
    if (call_outputs(call)) return FAILED;
    struct scan_args args =
        scan_arguments(call, (struct scan_inputs){U, RATES, D, Z, DELTA_BIAS, ONTO, FIRST_STATE}, 1);
    const struct tensor rows = over_time(call, in[PROJECTED].data, rank + 2 * dstate, NULL, 1);
    const int64_t row = rows.stride[2] * (int64_t)sizeof(float);
    /* The channels of a projection are its rows, and there is one group. */
    args.delta = VIEW(rows.data, rows.stride[0], 0, rows.stride[2], rows.stride[3]);
    args.B = args.C = args.delta;
    args.B.data += rank * row;
    args.C.data += (rank + dstate) * row;
    args.rank = rank;
    args.delta_weight = VIEW(in[DELTA_WEIGHT].data, args.head_dim * rank, rank, 1);
    if (args.seqlen == 1 && in[FIRST_STATE].data && call->output[1] && !in[ONTO].data && args.scale == 1.0)
        return one_projected_step(call, &args, FIRST_STATE);
    return CHOSEN_ISA(scan_forward, &args);
}

int chunk_scan(struct call *call) {
    enum { U, DT, RATES, B, C, D, Z, DT_BIAS, INITIAL_STATES, SEQ_IDX };
    const struct input *const in = call->input;
    const int64_t seqlen = call_length(call, "seqlen"), heads = call_length(call, "heads"),
                  head_dim = call_length(call, "head_dim"), groups = call_length(call, "groups"),
                  dstate = call_length(call, "dstate"), step = heads * head_dim;
    if (divides(call, "heads", "groups", groups)) return FAILED;
    if (call_outputs(call)) return FAILED;
#define OVER_TIME(data) VIEW(data, seqlen *step, head_dim, 1, step)
#define PROJECTION(data) VIEW(data, seqlen * groups * dstate, dstate, 1, groups * dstate)
#define STATE(data) VIEW(data, heads * head_dim * dstate, head_dim * dstate, dstate, 1)
    const struct scan_args args = {
        .batch = call_length(call, "batch"),
        .heads = heads,
        .head_dim = head_dim,
        .seqlen = seqlen,
        .dstate = dstate,
        .groups = groups,
        .delta_softplus = call_attribute(call, "dt_softplus") != 0.0,
        .tied_A = 1,
        .variable_B = 1,
        .variable_C = 1,
        .threads = worker_count(),
        .u = OVER_TIME(in[U].data),
        .delta = VIEW(in[DT].data, seqlen * heads, 1, 0, heads),
        .z = OVER_TIME(in[Z].data),
        .out = OVER_TIME(call->output[0]),
        .A = VIEW(in[RATES].data, 1, 0, 0),
        .D = in[D].count == 2 ? VIEW(in[D].data, head_dim, 1) : VIEW(in[D].data, 1, 0),
        .delta_bias = VIEW(in[DT_BIAS].data, 1, 0),
        .B = PROJECTION(in[B].data),
        .C = PROJECTION(in[C].data),
        .first_state = STATE(in[INITIAL_STATES].data),
        .last_state = STATE(call->output[1]),
        .delta_min = call_attribute(call, "dt_min"),
        .delta_max = call_attribute(call, "dt_max"),
        .seq_idx = in[SEQ_IDX].data,
        .scale = 1.0,
    };
    /* The kernel of a step knows no bounds; softplus gives positive numbers. */
    const int bounded = !args.delta_softplus || args.delta_min > 0.0 || args.delta_max < INFINITY;
    if (seqlen == 1 && in[INITIAL_STATES].data && call->output[1] && !in[SEQ_IDX].data && !bounded)
        return one_step(call, &args, INITIAL_STATES, args.delta);
    return CHOSEN_ISA(scan_forward, &args);
#undef OVER_TIME
#undef PROJECTION
#undef STATE
}
