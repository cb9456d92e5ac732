/* llama.cpp on a model. For each number of tokens on stdin: 1 decodes one more token, more than 1 is a new prompt.
   Prints the milliseconds it took and the first logits after it.

   usage: llama MODEL.gguf THREADS
          llama MODEL.gguf quantize q8_0|q4_0 TO.gguf, by llama.cpp's own quantiser */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "llama.h"

enum { LONGEST = 4096, SHOWN = 8 };

/* One thread is timed by its own clock, which a busy machine hardly stretches. */
static double now(int threads) {
    struct timespec t;
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static void silent(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static int quantize(const char *from, const char *scheme, const char *to) {
    struct llama_model_quantize_params params = llama_model_quantize_default_params();
    params.ftype = strcmp(scheme, "q4_0") == 0 ? LLAMA_FTYPE_MOSTLY_Q4_0 : LLAMA_FTYPE_MOSTLY_Q8_0;
    return (int)llama_model_quantize(from, to, &params);
}

int main(int argc, char **argv) {
    if (argc == 5 && strcmp(argv[2], "quantize") == 0) {
        llama_log_set(silent, NULL);
        return quantize(argv[1], argv[3], argv[4]);
    }
    if (argc != 3) return 2;
    const int threads = atoi(argv[2]);
    llama_log_set(silent, NULL);
    llama_backend_init();
    struct llama_model_params of_model = llama_model_default_params();
    struct llama_model *model = llama_model_load_from_file(argv[1], of_model);
    if (!model) return 1;
    struct llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = LONGEST;
    params.n_threads = params.n_threads_batch = threads;
    struct llama_context *context = llama_init_from_model(model, params);
    if (!context) return 1;
    int count;
    while (scanf("%d", &count) == 1 && count > 0 && count <= LONGEST) {
        llama_token tokens[LONGEST];
        for (int i = 0; i < count; i++) tokens[i] = (i * 7919 + 13) % 50000;
        if (count > 1) llama_memory_clear(llama_get_memory(context), true);
        const double start = now(threads);
        if (llama_decode(context, llama_batch_get_one(tokens, count)) != 0) return 1;
        const float *logits = llama_get_logits_ith(context, -1);
        printf("%f", now(threads) - start);
        for (int i = 0; i < SHOWN; i++) printf(" %.9g", (double)logits[i]);
        printf("\n");
        fflush(stdout);
    }
    return 0;
}
