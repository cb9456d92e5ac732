/* Depthwise causal convolution of width 2 to 4 over (batch, dim, seqlen), with or without silu after it:

       out[t] = silu(bias + weight[0] x[t - width + 1] + ... + weight[width - 1] x[t])                                  */
#pragma once

#include "kernel.h"

enum { MAX_WIDTH = 4 };

struct conv_args {
    int64_t batch, dim, seqlen, width, silu, threads;
    struct tensor x, out;                        /* (batch, dim, seqlen) */
    struct tensor weight, bias;                  /* (dim, width), (dim,) */
    struct tensor initial_states, final_states;  /* (batch, dim, width - 1): what comes before x; the last inputs */
    const int32_t *seq_idx;                      /* (batch, seqlen): taps do not cross from one index to another */
};

/* The gradient. Sums over the batch come out in float32, contiguous. */
struct conv_back_args {
    struct conv_args conv;
    struct tensor grad_out, grad_x, grad_initial_states, grad_final_states;
    float *grad_weight, *grad_bias; /* (dim, width), (dim,) */
};

/* A few steps at a time, with the inputs before them in a state that is moved on in place. */
struct conv_update_args {
    int64_t batch, dim, seqlen, width, silu, threads, state_len;
    struct tensor x, out;           /* (batch, dim, seqlen) */
    struct tensor weight, bias;     /* (dim, width), (dim,) */
    struct tensor state;            /* (entries, dim, state_len), state_len >= width - 1 */
    const int32_t *cache_seqlens;   /* (batch,): the state is a ring, which this many inputs have gone into */
    const int32_t *state_indices;   /* (batch,): the entry that each row has; negative: no entry, zeros come out */
};

#define DECLARE(isa)                                         \
    int conv_forward_##isa(const struct conv_args *a);       \
    int conv_backward_##isa(const struct conv_back_args *b); \
    int conv_update_##isa(const struct conv_update_args *a);
DECLARE(base)
DECLARE(avx2)
DECLARE(avx512)
#undef DECLARE
