/* One step of the scan for each of (batch, head, head_dim) channels, moving their states on in place. */
#pragma once

#include "kernel.h"

struct state_update_args {
    int64_t batch, heads, head_dim, dstate, groups, dt_softplus, A_is_log, threads; /* A_is_log: A holds log(-A) */
    struct tensor state;             /* (entry, head, head_dim, dstate) */
    struct tensor x, dt, z, out;     /* (batch, head, head_dim) */
    struct tensor A;                 /* (head, head_dim, dstate); a stride of 0 in dstate: one exponential serves all */
    struct tensor B, C;              /* (batch, group, dstate) */
    struct tensor D, dt_bias;        /* (head, head_dim) */
    const int32_t *state_indices;    /* (batch,): the entry of each row */
};

int state_update_base(const struct state_update_args *a);
int state_update_avx2(const struct state_update_args *a);
int state_update_avx512(const struct state_update_args *a);
