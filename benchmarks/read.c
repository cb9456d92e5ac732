/* Reads a block of memory once for each line on stdin, in four streams on each thread, and prints the milliseconds.

   usage: read BYTES THREADS */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { STREAMS = 4, AHEAD = 2048, MOST = 64 };
typedef uint64_t line __attribute__((vector_size(64)));

static char *memory;
static size_t bytes_of_stream;
static volatile uint64_t keep;

static void *work(void *which) {
    const char *data[STREAMS];
    line sums[STREAMS];
    for (int j = 0; j < STREAMS; j++) {
        data[j] = memory + ((size_t)(intptr_t)which * STREAMS + (size_t)j) * bytes_of_stream;
        memset(&sums[j], 0, sizeof sums[j]);
    }
    for (size_t i = 0; i < bytes_of_stream; i += sizeof(line))
        for (int j = 0; j < STREAMS; j++) {
            __builtin_prefetch(data[j] + i + AHEAD);
            sums[j] += *(const line *)(data[j] + i);
        }
    for (int j = 1; j < STREAMS; j++) sums[0] += sums[j];
    keep += sums[0][0] + sums[0][7];
    return NULL;
}

/* One thread is timed by its own clock, which a busy machine hardly stretches. */
static double now(int threads) {
    struct timespec t;
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    const int threads = atoi(argv[2]);
    if (threads < 1 || threads > MOST) return 2;
    bytes_of_stream = strtoull(argv[1], NULL, 10) / (size_t)(threads * STREAMS) / sizeof(line) * sizeof(line);
    const size_t total = bytes_of_stream * (size_t)(threads * STREAMS);
    if (posix_memalign((void **)&memory, 4096, total + AHEAD)) return 1;
    memset(memory, 1, total);
    while (getchar() != EOF) {
        pthread_t started[MOST];
        const double start = now(threads);
        for (int i = 1; i < threads; i++) pthread_create(&started[i], NULL, work, (void *)(intptr_t)i);
        work(NULL);
        for (int i = 1; i < threads; i++) pthread_join(started[i], NULL);
        printf("%f\n", now(threads) - start);
        fflush(stdout);
    }
    return 0;
}
