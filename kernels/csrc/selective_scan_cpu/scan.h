/* The selective scan over (batch, head, head_dim, seqlen):

       h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]
       out[t] = (C[t] . h[t] + D u[t]) silu(z[t])

   with a state of dstate numbers for each of heads * head_dim channels. Mamba-1 is the case of one head per group of
   B and C; Mamba-2 has an A that is the same for all of a head. */
#pragma once

#include "kernel.h"

struct scan_args {
    int64_t batch, heads, head_dim, seqlen, dstate, groups;
    int64_t delta_softplus, tied_A, variable_B, variable_C, threads;
    struct tensor u, delta, z, out;          /* (batch, head, head_dim, seqlen) */
    struct tensor A;                         /* (head, head_dim, dstate), float32 */
    struct tensor D, delta_bias;             /* (head, head_dim) */
    struct tensor B, C;                      /* variable: (batch, group, dstate, seqlen); else as A */
    struct tensor first_state, last_state;   /* (batch, head, head_dim, dstate) */
    double delta_min, delta_max;             /* what delta is kept within, after softplus */
    const int32_t *seq_idx;                  /* (batch, seqlen): the state starts anew where it changes; needs tied_A */
    int64_t rank;                            /* with delta_weight, delta is that times a (batch, any, rank, seqlen) tensor, */
    struct tensor delta_weight;              /* (head, head_dim, rank); it then stands in delta's place */
    struct tensor onto;                      /* like out: what is stored is scale times the sum of both */
    double scale;
};

/* The gradient; A must not be tied. Sums over channels are made per channel part and sums over the batch per batch
   part, float32 and contiguous, for the caller to add up. Those of B and C must come in as zeros. */
struct scan_back_args {
    struct scan_args scan;
    struct tensor grad_out, grad_u, grad_delta, grad_z; /* (batch, head, head_dim, seqlen) */
    float *grad_A, *grad_D, *grad_bias;                 /* (batch part, channel, dstate), (batch part, channel) */
    float *grad_B, *grad_C; /* (channel part, batch, group, seqlen, dstate), or as grad_A where they do not vary */
    int64_t batch_parts, channel_parts;
};

int scan_forward_base(const struct scan_args *a);
int scan_backward_base(const struct scan_back_args *a);
int scan_forward_avx2(const struct scan_args *a);
int scan_backward_avx2(const struct scan_back_args *a);
int scan_forward_avx512(const struct scan_args *a);
int scan_backward_avx512(const struct scan_back_args *a);
