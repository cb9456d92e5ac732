/* Tensors of a call as views for the kernels. */
#pragma once

#include "compute.h"

/* A view with up to four strides, in elements. */
#define VIEW(memory, ...) ((struct tensor){.data = (char *)(memory), .dtype = FLOAT32, .stride = {__VA_ARGS__}})

/* A (batch, dim, seqlen) tensor, or with `last` a (batch, seqlen, dim) tensor, of which `channels` channels are stored
   side by side and those from `first` on are read; time runs backwards with `reverse`. Axes: batch, dim, time. */
struct timeline {
    char *data;
    int64_t batch, channel, step;
};

static inline struct timeline timeline_of(void *data, int64_t channels, int64_t seqlen, double first, int last,
                                          int reverse) {
    struct timeline t = {data, channels * seqlen, last ? 1 : seqlen, last ? channels : 1};
    if (!data) return t;
    if (first > 0.0) t.data += (int64_t)first * t.channel * (int64_t)sizeof(float);
    if (reverse) {
        t.data += (seqlen > 0 ? seqlen - 1 : 0) * t.step * (int64_t)sizeof(float);
        t.step = -t.step;
    }
    return t;
}
