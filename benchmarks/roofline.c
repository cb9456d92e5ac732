/* As many exponentials, multiply-adds and loads as a selective scan of these sizes has, and nothing else: no
   recurrence to wait for, all data in the first cache, on one core. Each line on stdin is a run, whose milliseconds
   are printed.

   usage: roofline DIM SEQLEN */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined __AVX512F__
#define ISA avx512
#elif defined __AVX2__
#define ISA avx2
#else
#define ISA base
#endif
#include "simd_math.h"

enum { STATES = 16, STEPS = 64 };

/* Per vector and step, as in the scan: softplus and silu once; for each state one exponential, the products
   delta A and delta u B, and the multiply-adds into the state and into the output, with B and C loaded. */
static void work(int64_t vectors_of_steps) {
    static float data[4][STEPS * STATES * LANES / 4], projections[2][STEPS * STATES];
    for (int i = 0; i < STEPS * STATES; i++) projections[0][i] = projections[1][i] = 0.001f * (float)i;
    vec rates[4], states[4];
    for (int i = 0; i < 4; i++) rates[i] = vec_set(-0.01f * (float)i), states[i] = vec_set(0.0f);
    vec total = vec_set(0.0f);
    for (int64_t left = vectors_of_steps; left > 0; left -= STEPS) {
        for (int t = 0; t < STEPS; t++) {
            vec_store(data[0] + t * LANES, vec_softplus(vec_load(data[0] + t * LANES)));
            vec_store(data[1] + t * LANES, vec_silu(vec_load(data[1] + t * LANES)));
        }
        for (int n = 0; n < STATES; n += 4) {
            for (int t = 0; t < STEPS; t++) {
                const vec delta = vec_load(data[0] + t * LANES), input = vec_load(data[1] + t * LANES);
                UNROLL for (int i = 0; i < 4; i++) {
                    vec rest;
                    const vec power = vec_power(delta, rates[i], 0, &rest);
                    states[i] = vec_step(power, rest, input, input, vec_set(projections[0][t * STATES + n + i]));
                    total = vec_fma(vec_set(projections[1][t * STATES + n + i]), states[i], total);
                }
            }
        }
    }
    volatile float keep = vec_sum(total);
    (void)keep;
}

/* The thread's own clock, which a busy machine hardly stretches. */
static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    const int64_t dim = atoi(argv[1]), seqlen = atoi(argv[2]);
    while (getchar() != EOF) {
        const double start = now();
        work(dim * seqlen / LANES);
        printf("%f\n", now() - start);
        fflush(stdout);
    }
    return 0;
}
