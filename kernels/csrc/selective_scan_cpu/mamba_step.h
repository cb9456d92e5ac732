/* A whole Mamba-1 mixer on one token: both projections, the convolution, the state update, in one call. What it does
   beside reading the weights must cost next to nothing, since a step of decoding waits for memory alone. */
#pragma once

#include "kernel.h"

struct mamba_step_args {
    int64_t inner, dstate, rank, width, features, threads;
    struct tensor x, out;                    /* (features,) */
    struct tensor in_weight, in_bias;        /* (2 inner, features), (2 inner,) */
    struct tensor conv_weight, conv_bias;    /* (inner, width), (inner,) */
    struct tensor conv_state;                /* (inner, width): the last inputs, this token's among them afterwards */
    struct tensor x_weight;                  /* (rank + 2 dstate, inner) */
    struct tensor dt_weight, dt_bias;        /* (inner, rank), (inner,) */
    struct tensor A_log, D;                  /* (inner, dstate), (inner,) */
    struct tensor state;                     /* (inner, dstate) */
    struct tensor out_weight, out_bias;      /* (features, inner), (features,) */
};

int mamba_step_base(const struct mamba_step_args *a);
int mamba_step_avx2(const struct mamba_step_args *a);
int mamba_step_avx512(const struct mamba_step_args *a);
