/* For all kernels: the view of a tensor, and the conversion of its elements to and from float. */
#pragma once

#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

#define DTYPES(NAME) NAME(FLOAT32) NAME(BFLOAT16) NAME(FLOAT16)
#define DTYPE_ENUMERATOR(name) name,
enum dtype { DTYPES(DTYPE_ENUMERATOR) };
#undef DTYPE_ENUMERATOR

/* A strided view of a tensor. Strides count elements. An absent tensor has data NULL. */
struct tensor {
    char *data;
    int64_t dtype;
    int64_t stride[4];
};

/* A contiguous vector of floats as a tensor. */
static inline struct tensor of_floats(float *data) {
    return (struct tensor){.data = (char *)data, .dtype = FLOAT32, .stride = {1}};
}

static inline int64_t element_size(const struct tensor *t) { return t->dtype == FLOAT32 ? 4 : 2; }

static inline char *element(const struct tensor *t, int64_t offset) { return t->data + offset * element_size(t); }

static inline float float_of_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t bits_of_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

#if defined __aarch64__
/* The processor's own conversions, which NEON has on every aarch64 processor. */
static inline float float_of_half(uint16_t half) {
    __fp16 value;
    memcpy(&value, &half, sizeof value);
    return value;
}

static inline uint16_t half_of_float(float value) {
    const __fp16 rounded = (__fp16)value;
    uint16_t half;
    memcpy(&half, &rounded, sizeof half);
    return half;
}
#else
static inline float float_of_half(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    if (rest >= 0x7c00) return float_of_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13); /* infinity or NaN */
    /* 2^112 moves the exponent bias from 15 to 127; it normalises subnormal numbers on the way. */
    return float_of_bits(sign | bits_of_float(float_of_bits(rest << 13) * 0x1p112f));
}

static inline uint16_t half_of_float(float value) {
    const uint32_t bits = bits_of_float(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* 65520 and more round to infinity */
    if (rest < 0x38800000) {                                  /* subnormal: the addition rounds */
        return (uint16_t)(sign | (bits_of_float(float_of_bits(rest) + 0.5f) - 0x3f000000));
    }
    return (uint16_t)(sign | (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13);
}
#endif

#if defined __ARM_FEATURE_BF16_SCALAR_ARITHMETIC
#include <arm_neon.h>

static inline uint16_t bfloat16_of_float(float value) {
    const bfloat16_t rounded = vcvth_bf16_f32(value);
    uint16_t half;
    memcpy(&half, &rounded, sizeof half);
    return half;
}
#else
static inline uint16_t bfloat16_of_float(float value) {
    const uint32_t bits = bits_of_float(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* NaN stays NaN */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
#endif

/* Writes to `out` n elements of t as floats: element `offset` and those that follow it at distances of `stride`. */
static inline void load_floats(float *out, const struct tensor *t, int64_t offset, int64_t stride, int64_t n) {
    const char *data = element(t, offset);
    if (t->dtype == FLOAT32) {
        const float *from = (const float *)data;
        if (stride == 1) memcpy(out, from, (size_t)n * sizeof *out);
        else
            for (int64_t i = 0; i < n; i++) out[i] = from[i * stride];
    } else {
        const uint16_t *from = (const uint16_t *)data;
        if (t->dtype == BFLOAT16)
            for (int64_t i = 0; i < n; i++) out[i] = float_of_bits((uint32_t)from[i * stride] << 16);
        else
            for (int64_t i = 0; i < n; i++) out[i] = float_of_half(from[i * stride]);
    }
}

static inline void store_floats(const struct tensor *t, int64_t offset, int64_t stride, int64_t n,
                                const float *values) {
    char *data = element(t, offset);
    if (t->dtype == FLOAT32) {
        float *to = (float *)data;
        if (stride == 1) memcpy(to, values, (size_t)n * sizeof *to);
        else
            for (int64_t i = 0; i < n; i++) to[i * stride] = values[i];
    } else {
        uint16_t *to = (uint16_t *)data;
        if (t->dtype == BFLOAT16)
            for (int64_t i = 0; i < n; i++) to[i * stride] = bfloat16_of_float(values[i]);
        else
            for (int64_t i = 0; i < n; i++) to[i * stride] = half_of_float(values[i]);
    }
}

static inline float load_float(const struct tensor *t, int64_t offset) {
    float value;
    load_floats(&value, t, offset, 1, 1);
    return value;
}
