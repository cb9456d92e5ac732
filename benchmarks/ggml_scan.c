/* ggml_ssm_scan on random inputs. Each line on stdin is a run, whose milliseconds are printed.

   usage: ggml_scan DIM SEQLEN THREADS */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "ggml-cpu.h"
#include "ggml.h"

enum { STATES = 16 };

static struct ggml_tensor *tensor(struct ggml_context *context, int64_t a, int64_t b, int64_t c, int64_t d, float low, float high) {
    struct ggml_tensor *t = ggml_new_tensor_4d(context, GGML_TYPE_F32, a, b, c, d);
    float *data = ggml_get_data_f32(t);
    for (int64_t i = 0; i < a * b * c * d; i++) data[i] = low + (high - low) * (float)rand() / (float)RAND_MAX;
    return t;
}

/* One thread is timed by its own clock, which a busy machine hardly stretches. */
static double now(int threads) {
    struct timespec t;
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    const int64_t dim = atoi(argv[1]), seqlen = atoi(argv[2]);
    const int threads = atoi(argv[3]);
    const struct ggml_init_params params = {.mem_size = (size_t)(dim * seqlen * 4 * 4 + (64 << 20))};
    struct ggml_context *context = ggml_init(params);
    /* Mamba-1: as many heads as channels, each of one feature. */
    struct ggml_tensor *state = tensor(context, STATES, 1, dim, 1, -1, 1), *x = tensor(context, 1, dim, seqlen, 1, -1, 1);
    struct ggml_tensor *dt = tensor(context, dim, seqlen, 1, 1, -6, 0), *A = tensor(context, STATES, dim, 1, 1, -16, 0);
    struct ggml_tensor *B = tensor(context, STATES, 1, seqlen, 1, -1, 1), *C = tensor(context, STATES, 1, seqlen, 1, -1, 1);
    struct ggml_tensor *ids = ggml_new_tensor_1d(context, GGML_TYPE_I32, 1);
    *(int32_t *)ids->data = 0;
    struct ggml_cgraph *graph = ggml_new_graph(context);
    ggml_build_forward_expand(graph, ggml_ssm_scan(context, state, x, dt, A, B, C, ids, 1));
    struct ggml_cplan plan = ggml_graph_plan(graph, threads, NULL);
    plan.work_data = malloc(plan.work_size + 1);
    while (getchar() != EOF) {
        const double start = now(threads);
        ggml_graph_compute(graph, &plan);
        printf("%f\n", now(threads) - start);
        fflush(stdout);
    }
    return 0;
}
