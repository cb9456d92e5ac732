/* CausalConv and CausalConvUpdate. */
#include "conv.h"

#include "views.h"

enum { X, WEIGHT, BIAS, INITIAL_STATES, SEQ_IDX };

static int check_width(struct call *call) {
    const int64_t width = call_length(call, "width");
    if (width >= 2 && width <= MAX_WIDTH) return 0;
    return call_fail(call, "weight has width %lld, expected 2 to %d", (long long)width, MAX_WIDTH);
}

int causal_conv(struct call *call) {
    const struct input *const in = call->input;
    const int64_t batch = call_length(call, "batch"), dim = call_length(call, "dim"),
                  seqlen = call_length(call, "seqlen"), width = call_length(call, "width");
    const int last = call_attribute(call, "channels_last") != 0.0, reverse = call_attribute(call, "reverse") != 0.0;
    if (check_width(call)) return FAILED;
    if (reverse && (in[SEQ_IDX].data || in[INITIAL_STATES].data))
        return call_fail(call, "reverse=1 goes with neither seq_idx nor initial_states");
    if (call_outputs(call)) return FAILED;
    if (reverse && call->output[1]) return call_fail(call, "reverse=1 goes without the output final_states");
    const struct timeline x = timeline_of(in[X].data, in[X].length[last ? 2 : 1], seqlen,
                                          call_attribute(call, "x_offset"), last, reverse),
                          out = timeline_of(call->output[0], dim, seqlen, 0.0, last, reverse);
    if (seqlen == 1 && in[INITIAL_STATES].data && call->output[1] && !in[SEQ_IDX].data) {
        call_keep(call->output[1], &in[INITIAL_STATES]);
        const struct conv_update_args step = {
            .batch = batch,
            .dim = dim,
            .seqlen = 1,
            .width = width,
            .silu = call_attribute(call, "silu") != 0.0,
            .threads = worker_count(),
            .state_len = width - 1,
            .x = VIEW(x.data, x.batch, x.channel, 1),
            .out = VIEW(out.data, out.batch, out.channel, 1),
            .weight = VIEW(in[WEIGHT].data, width, 1),
            .bias = VIEW(in[BIAS].data, 1),
            .state = VIEW(call->output[1], dim * (width - 1), width - 1, 1),
        };
        return CHOSEN_ISA(conv_update, &step);
    }
    const struct conv_args args = {
        .batch = batch,
        .dim = dim,
        .seqlen = seqlen,
        .width = width,
        .silu = call_attribute(call, "silu") != 0.0,
        .threads = worker_count(),
        .x = VIEW(x.data, x.batch, x.channel, x.step),
        .out = VIEW(out.data, out.batch, out.channel, out.step),
        .weight = VIEW(in[WEIGHT].data, width, 1),
        .bias = VIEW(in[BIAS].data, 1),
        .initial_states = VIEW(in[INITIAL_STATES].data, dim * (width - 1), width - 1, 1),
        .final_states = VIEW(call->output[1], dim * (width - 1), width - 1, 1),
        .seq_idx = in[SEQ_IDX].data,
    };
    return CHOSEN_ISA(conv_forward, &args);
}

int causal_conv_update(struct call *call) {
    enum { STATE = 1, UPDATE_WEIGHT, UPDATE_BIAS };
    const struct input *const in = call->input;
    const int64_t batch = call_length(call, "batch"), dim = call_length(call, "dim"),
                  seqlen = in[X].count == 3 ? in[X].length[2] : 1, width = call_length(call, "width"),
                  state_len = call_length(call, "state_len");
    if (check_width(call)) return FAILED;
    if (state_len < width - 1)
        return call_fail(call, "state holds %lld inputs of each channel, expected width-1=%lld or more",
                         (long long)state_len, (long long)(width - 1));
    if (call_outputs(call)) return FAILED;
    float *const state = call->output[1];
    call_keep(state, &in[STATE]);
    const struct conv_update_args args = {
        .batch = batch,
        .dim = dim,
        .seqlen = seqlen,
        .width = width,
        .silu = call_attribute(call, "silu") != 0.0,
        .threads = worker_count(),
        .state_len = state_len,
        .x = VIEW(in[X].data, dim * seqlen, seqlen, 1),
        .out = VIEW(call->output[0], dim * seqlen, seqlen, 1),
        .weight = VIEW(in[UPDATE_WEIGHT].data, width, 1),
        .bias = VIEW(in[UPDATE_BIAS].data, 1),
        .state = VIEW(state, dim * state_len, state_len, 1),
    };
    return CHOSEN_ISA(conv_update, &args);
}
