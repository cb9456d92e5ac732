/* StateUpdate, MambaStep, Linear, QuantizedLinear and Norm. */
#include "kernels.h"
#include "views.h"

int update_state(struct call *call) {
    enum { STATE, X, DT, RATES, B, C, D, Z, DT_BIAS };
    const struct input *const in = call->input;
    const int with_heads = in[STATE].count == 4;
    const int64_t batch = call_length(call, "batch"), heads = call_length(call, "heads"),
                  dstate = call_length(call, "dstate");
    /* The most axes of each input where the state has no axis head_dim, and the number that x and z then have. */
    static const int most[] = {3, 2, 2, 2, 2, 2, 1, 2, 1};
    for (int i = X; i <= DT_BIAS; i++) {
        const int exact = i == X || i == Z, expected = most[i] + with_heads;
        if (in[i].data && (in[i].count > expected || (exact && in[i].count < expected)))
            return call_fail(call, "%s has %d axes, expected %d, because state has %d",
                             call->node->operation->input[i].name, in[i].count, expected, in[STATE].count);
    }
    const int64_t head_dim = with_heads ? call_length(call, "head_dim") : 1, channels = heads * head_dim;
    const int grouped = in[B].count == 3 || in[C].count == 3;
    const int64_t groups = grouped ? call_length(call, "groups") : 1;
    if (groups <= 0 || heads % groups != 0)
        return call_fail(call, "heads=%lld is not a multiple of groups=%lld", (long long)heads, (long long)groups);
    if (grouped && in[B].count != in[C].count)
        return call_fail(call, "B has %d axes and C %d, expected as many", in[B].count, in[C].count);
    if (call_outputs(call)) return FAILED;
    float *const state = call->output[1];
    call_keep(state, &in[STATE]);
    /* Without the axis head_dim, the kernel sees one head, whose channels are the heads. */
#define ROW(i)                                                                \
    (in[i].count == 2 && with_heads ? VIEW(in[i].data, heads, 1, 0)           \
     : with_heads                   ? VIEW(in[i].data, channels, head_dim, 1) \
                                    : VIEW(in[i].data, heads, 0, 1))
#define PARAMETER(i) \
    (!with_heads ? VIEW(in[i].data, 0, 1) : in[i].count == 1 ? VIEW(in[i].data, 1, 0) : VIEW(in[i].data, head_dim, 1))
    const struct state_update_args args = {
        .batch = batch,
        .heads = with_heads ? heads : 1,
        .head_dim = with_heads ? head_dim : heads,
        .dstate = dstate,
        .groups = groups,
        .dt_softplus = call_attribute(call, "dt_softplus") != 0.0,
        .threads = worker_count(),
        .state = with_heads ? VIEW(state, channels * dstate, head_dim * dstate, dstate, 1)
                            : VIEW(state, channels * dstate, 0, dstate, 1),
        .x = ROW(X),
        .dt = ROW(DT),
        .z = ROW(Z),
        .out = with_heads ? VIEW(call->output[0], channels, head_dim, 1) : VIEW(call->output[0], heads, 0, 1),
        .A = in[RATES].count == 3   ? VIEW(in[RATES].data, head_dim * dstate, dstate, 1)
             : in[RATES].count == 2 ? VIEW(in[RATES].data, with_heads ? dstate : 0, with_heads ? 0 : dstate, 1)
                                    : VIEW(in[RATES].data, with_heads, !with_heads, 0),
        .B = VIEW(in[B].data, groups * dstate, dstate, 1),
        .C = VIEW(in[C].data, groups * dstate, dstate, 1),
        .D = PARAMETER(D),
        .dt_bias = PARAMETER(DT_BIAS),
    };
#undef ROW
#undef PARAMETER
    return CHOSEN_ISA(state_update, &args);
}

int mamba_step_rows(struct call *call) {
    enum {
        X,
        CONV_STATE,
        SSM_STATE,
        IN_WEIGHT,
        IN_BIAS,
        CONV_WEIGHT,
        CONV_BIAS,
        X_WEIGHT,
        DT_WEIGHT,
        DT_BIAS,
        A_LOG,
        SKIP,
        OUT_WEIGHT,
        OUT_BIAS
    };
    const struct input *const in = call->input;
    const int64_t batch = call_length(call, "batch"), dim = call_length(call, "dim"),
                  dstate = call_length(call, "dstate"), rank = call_length(call, "rank"),
                  width = call_length(call, "width"), features = call_length(call, "features");
    if (call_outputs(call)) return FAILED;
    float *const conv_state = call->output[1], *const ssm_state = call->output[2];
    call_keep(conv_state, &in[CONV_STATE]);
    call_keep(ssm_state, &in[SSM_STATE]);
    int failed = 0;
    for (int64_t row = 0; row < batch && !failed; row++) {
        const struct mamba_step_args args = {
            .inner = dim,
            .dstate = dstate,
            .rank = rank,
            .width = width,
            .features = features,
            .threads = worker_count(),
            .x = VIEW((float *)in[X].data + row * features, 1),
            .out = VIEW(call->output[0] + row * features, 1),
            .in_weight = VIEW(in[IN_WEIGHT].data, features, 1),
            .in_bias = VIEW(in[IN_BIAS].data, 1),
            .conv_weight = VIEW(in[CONV_WEIGHT].data, width, 1),
            .conv_bias = VIEW(in[CONV_BIAS].data, 1),
            .conv_state = VIEW(conv_state + row * dim * width, width, 1),
            .x_weight = VIEW(in[X_WEIGHT].data, dim, 1),
            .dt_weight = VIEW(in[DT_WEIGHT].data, rank, 1),
            .dt_bias = VIEW(in[DT_BIAS].data, 1),
            .A_log = VIEW(in[A_LOG].data, dstate, 1),
            .D = VIEW(in[SKIP].data, 1),
            .state = VIEW(ssm_state + row * dim * dstate, dstate, 1),
            .out_weight = VIEW(in[OUT_WEIGHT].data, dim, 1),
            .out_bias = VIEW(in[OUT_BIAS].data, 1),
        };
        failed = CHOSEN_ISA(mamba_step, &args);
    }
    return failed;
}

/* The rows of a tensor whose leading axes are `...`. */
static int64_t rest_rows(const struct call *call) {
    int64_t rows = 1;
    for (int i = 0; i < call->lengths.rest_count; i++) rows *= call->lengths.rest[i];
    return rows;
}

/* Up to FEW_ROWS rows, each row reads the weights; of more rows, each block. */
int linear_rows(struct call *call) {
    enum { X, WEIGHT, BIAS, FEW_ROWS = 2 };
    const struct input *const in = call->input;
    const int64_t columns = call_length(call, "columns"), rows = call_length(call, "rows"), count = rest_rows(call);
    if (call_outputs(call)) return FAILED;
    if (count > FEW_ROWS) {
        const struct gemm_args args = {
            .rows = count,
            .columns = rows,
            .depth = columns,
            .threads = worker_count(),
            .x = VIEW(in[X].data, columns, 1),
            .weight = VIEW(in[WEIGHT].data, columns, 1),
            .bias = VIEW(in[BIAS].data, 1),
            .out = VIEW(call->output[0], rows, 1),
        };
        return CHOSEN_ISA(gemm, &args);
    }
    int failed = 0;
    for (int64_t row = 0; row < count && !failed; row++) {
        const struct linear_args args = {
            .rows = rows,
            .columns = columns,
            .threads = worker_count(),
            .weight = VIEW(in[WEIGHT].data, columns, 1),
            .x = VIEW((float *)in[X].data + row * columns, 1),
            .bias = VIEW(in[BIAS].data, 1),
            .out = VIEW(call->output[0] + row * rows, 1),
        };
        failed = CHOSEN_ISA(linear, &args);
    }
    return failed;
}

int quantized_rows(struct call *call) {
    enum { X, WEIGHT, SCALES, BIAS };
    const struct input *const in = call->input;
    const int64_t columns = call_length(call, "columns"), rows = call_length(call, "rows"),
                  tiles = (rows + TILE_ROWS - 1) / TILE_ROWS, parts = blocks_of(columns) * (BLOCK_COLUMNS / 4);
    if (tiles != call_length(call, "tiles") || parts != call_length(call, "parts"))
        return call_fail(
            call, "weight has shape (%lld, %lld, 16, 4), expected (%lld, %lld, 16, 4) for %lld rows and %lld columns",
            (long long)call_length(call, "tiles"), (long long)call_length(call, "parts"), (long long)tiles,
            (long long)parts, (long long)rows, (long long)columns);
    if (call_outputs(call)) return FAILED;
    const struct quantized_args args = {
        .rows = rows,
        .columns = columns,
        .tokens = rest_rows(call),
        .bits = 8,
        .threads = worker_count(),
        .weight = in[WEIGHT].data,
        .scales = VIEW(in[SCALES].data, 1),
        .x = VIEW(in[X].data, columns, 1),
        .bias = VIEW(in[BIAS].data, 1),
        .out = VIEW(call->output[0], rows, 1),
    };
    return CHOSEN_ISA(quantized, &args);
}

int norm_rows(struct call *call) {
    enum { X, WEIGHT, BIAS, RESIDUAL, Z };
    const struct input *const in = call->input;
    const int64_t dim = call_length(call, "dim");
    const double wanted = call_attribute(call, "group"), gate = call_attribute(call, "gate");
    const int64_t group = wanted == 0.0 ? dim : wanted > (double)dim ? 0 : (int64_t)wanted;
    if (gate != NO_GATE && gate != GATE_AFTER && gate != GATE_BEFORE)
        return call_fail(call, "gate is %.0f, expected 0, 1 or 2", gate);
    if ((gate == NO_GATE) != !in[Z].data)
        return call_fail(call, "gate is %.0f and z is %s", gate,
                         in[Z].data ? "there: expected 1 or 2" : "absent: expected 0");
    if (dim && (group <= 0 || dim % group))
        return call_fail(call, "dim=%lld is not a multiple of group=%.0f", (long long)dim, wanted);
    if (call_outputs(call)) return FAILED;
    if (!dim) return DONE;
    const struct norm_args args = {
        .rows = rest_rows(call),
        .dim = dim,
        .group = group,
        .rms = call_attribute(call, "rms") != 0.0,
        .gate = (int64_t)gate,
        .threads = worker_count(),
        .eps = call_attribute(call, "eps"),
        .x = VIEW(in[X].data, dim, 1),
        .residual = VIEW(in[RESIDUAL].data, dim, 1),
        .z = VIEW(in[Z].data, dim, 1),
        .out = VIEW(call->output[0], dim, 1),
        .total = VIEW(call->output[1], dim, 1),
        .weight = VIEW(in[WEIGHT].data, 1),
        .bias = VIEW(in[BIAS].data, 1),
    };
    return CHOSEN_ISA(norm, &args);
}
