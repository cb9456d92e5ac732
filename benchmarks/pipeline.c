/* The kernels' hot loops, one for each compilation with -DLOOP_NAME: the
   function `hot_loop` holds no other loop. benchmarks/pipeline.py compiles this
   file for each instruction set. */
#if defined LOOP_scan
#include "../selective_scan_cpu/operators/scan_block.c"
void hot_loop(struct workspace *w, float *h, const float *rates,
              int64_t steps) {
  scan_states(w, h, rates, 0, BLOCK, steps,
              (struct variant){.variable_B = 1, .variable_C = 1});
}
#elif defined LOOP_product
#include "../selective_scan_cpu/operators/product.c"
void hot_loop(const struct product *p) {
  product_tile(p, 0, 0, TALL / 2, WIDE);
}
#elif defined LOOP_gemm
#include "../selective_scan_cpu/operators/gemm.c"
void hot_loop(const float *x, int64_t x_row, const float *b, float *c,
              int64_t c_row, int64_t depth) {
  gemm_tile(x, x_row, b, c, c_row, depth, NULL, 0, PANEL, TILE, WIDE);
}
#elif defined LOOP_row_float32 || defined LOOP_row_bfloat16 ||                 \
    defined LOOP_row_float16
#include "../selective_scan_cpu/operators/linear.c"
#if defined LOOP_row_float32
enum { TYPE = FLOAT32 };
#elif defined LOOP_row_bfloat16
enum { TYPE = BFLOAT16 };
#else
enum { TYPE = FLOAT16 };
#endif
void hot_loop(const struct linear_args *a, const float *x, int64_t apart,
              float *out) {
  dot_rows(a, x, 0, apart, STREAMS, TYPE, out);
}
#elif defined LOOP_int8 || defined LOOP_int4
#include "../selective_scan_cpu/operators/quantized.c"
#if defined LOOP_int8
enum { BITS = 8 };
#else
enum { BITS = 4 };
#endif
/* Four vectors of rows times one token. */
void hot_loop(const struct inputs *x, const int8_t *weights,
              const uint16_t *row_scales, int64_t blocks, float *out) {
  vec sums[4] = {vec_set(0.0f), vec_set(0.0f), vec_set(0.0f), vec_set(0.0f)};
  for (int64_t b = 0; b < blocks; b++) {
    UNROLL
    for (int v = 0; v < 4; v++) {
      bytes block[PER_BLOCK];
      load_block(block, weights + (b * BITS * 4 + v) * LANES * 4, BITS);
      const vec row_scale =
          BITS == 4 ? vec_load_bfloat16(row_scales + (b * 4 + v) * LANES)
                    : vec_set(1.0f);
      sums[v] = add_block(sums[v], block, x, b, row_scale, BITS);
    }
  }
  UNROLL
  for (int v = 0; v < 4; v++)
    vec_store(out + v * LANES, sums[v]);
}
#elif defined LOOP_conv_silu
#include "../causal_conv1d_cpu/operators/conv.c"
void hot_loop(float *out, const float *x, int64_t stride, const float *earlier,
              const struct taps *taps, int64_t n) {
  convolve_channels(out, stride, x, stride, earlier, taps, n, 4, 1);
}
#else
#include "simd_math.h"
#if defined LOOP_load_float16
#define STEP vec_store(floats + i, vec_load_half(halves + i))
#elif defined LOOP_store_float16
#define STEP vec_store_half(halves + i, vec_load(floats + i))
#elif defined LOOP_load_bfloat16
#define STEP vec_store(floats + i, vec_load_bfloat16(halves + i))
#elif defined LOOP_store_bfloat16
#define STEP vec_store_bfloat16(halves + i, vec_load(floats + i))
#elif defined LOOP_load_float16_apart
#define STEP floats[i] = float_of_half(halves[i * stride])
#elif defined LOOP_store_float16_apart
#define STEP halves[i * stride] = half_of_float(floats[i])
#else
#define STEP halves[i * stride] = bfloat16_of_float(floats[i])
#endif
void hot_loop(float *restrict floats, uint16_t *restrict halves, int64_t stride,
              int64_t n) {
  for (int64_t i = 0; i < n; i += PER_STEP)
    STEP;
  (void)stride;
}
#endif
