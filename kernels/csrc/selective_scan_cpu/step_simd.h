/* For whole layers: products of a layer's weights, and one step of a convolution. */
#pragma once

#include "kernels.h"
#include "parallel.h"
#include "simd_math.h"

/* A matrix, or packed weights where `packed` is not NULL and `values` are their scales. */
struct weights {
    const int8_t *packed;
    struct tensor values;
};

/* out = x weights^T + bias, for packed weights and `tokens` rows of x */
HELPER int project_packed(int64_t tokens, int64_t rows, int64_t columns, int64_t threads, struct weights weights,
                          struct tensor x, struct tensor bias, struct tensor out) {
    const struct quantized_args args = {
        .rows = rows,
        .columns = columns,
        .tokens = tokens,
        .bits = weights.values.dtype == FLOAT32 ? 8 : 4,
        .threads = threads,
        .weight = weights.packed,
        .scales = weights.values,
        .x = x,
        .bias = bias,
        .out = out,
    };
    return CHOSEN_ISA(quantized, &args); /* it may be compiled for a better set than this file */
}

/* out = weights x + bias, for one token */
HELPER int project(int64_t rows, int64_t columns, int64_t threads, struct weights weights, struct tensor x,
                   struct tensor bias, struct tensor out) {
    if (weights.packed) return project_packed(1, rows, columns, threads, weights, x, bias, out);
    const struct linear_args args = {rows, columns, threads, weights.values, x, bias, out};
    return FOR_ISA(linear)(&args);
}

/* convolve_step without silu, for a width of four and float32: the last input of a channel is stride elements after the
   one before. */
INLINE void convolve_four(int64_t channels, const float *weight, const struct tensor *bias, float *state,
                          int64_t channel_stride, int64_t time_stride, const float *x, float *out) {
    for (int64_t c = 0; c < channels; c++) {
        float sum = bias->data ? load_float(bias, c * bias->stride[0]) : 0.0f;
        float *const s = state + c * channel_stride;
        const float *const w = weight + 4 * c;
        s[0] = s[time_stride], s[time_stride] = s[2 * time_stride], s[2 * time_stride] = s[3 * time_stride];
        s[3 * time_stride] = x[c];
        for (int i = 0; i < 4; i++) sum += w[i] * s[i * time_stride];
        out[c] = sum;
    }
}

/* Advances the state of a convolution by x, and stores silu of the convolved state in out, in whole vectors.
   weight, state: (channel, width); bias: (channel,), or absent */
HELPER void convolve_step(int64_t channels, int64_t width, const struct tensor *weight, const struct tensor *bias,
                          const struct tensor *state, const float *x, float *out) {
    const int simple = width == 4 && state->dtype == FLOAT32 && weight->dtype == FLOAT32 && weight->stride[0] == 4 &&
                       weight->stride[1] == 1;
    const float *const weights = (const float *)weight->data;
    float *const states = (float *)state->data;
    if (simple && state->stride[0] == 4 && state->stride[1] == 1) {
        convolve_four(channels, weights, bias, states, 4, 1, x, out);
    } else if (simple && state->stride[0] == 1) {
        convolve_four(channels, weights, bias, states, 1, state->stride[1], x, out);
    } else {
        for (int64_t c = 0; c < channels; c++) {
            float sum = bias->data ? load_float(bias, c * bias->stride[0]) : 0.0f;
            const int64_t at = c * state->stride[0], weight_at = c * weight->stride[0];
            for (int64_t w = 0; w < width; w++) {
                float value = x[c];
                if (w + 1 < width) load_floats(&value, state, at + (w + 1) * state->stride[1], 1, 1);
                store_floats(state, at + w * state->stride[1], 1, 1, &value);
                sum += load_float(weight, weight_at + w * weight->stride[1]) * value;
            }
            out[c] = sum;
        }
    }
    for (int64_t c = 0; c < channels; c += LANES) vec_store(out + c, vec_silu(vec_load(out + c)));
}
