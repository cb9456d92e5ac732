/* Threads. torch keeps a team of OpenMP threads, and a second team would mean twice as many threads as cores. So work
   runs on torch's team, by an entry point that Python passes in. Without an entry point, or in a forked child, where
   the team of the parent process does not exist, each call starts plain threads. */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "kernel.h"
#include "parallel.h"

typedef void (*gomp_parallel_function)(void (*body)(void *), void *data, unsigned threads, unsigned flags);

static gomp_parallel_function gomp_parallel;
static pid_t openmp_process;

EXPORT void use_openmp(void *entry) {
    gomp_parallel = (gomp_parallel_function)entry;
    openmp_process = getpid();
}

struct team {
    parallel_task task;
    const void *context;
    char *scratch;
    size_t scratch_bytes;
    int64_t count, next, workers;
};

static void work(void *data) {
    struct team *team = data;
    const int64_t worker = __atomic_fetch_add(&team->workers, 1, __ATOMIC_RELAXED);
    for (;;) {
        const int64_t index = __atomic_fetch_add(&team->next, 1, __ATOMIC_RELAXED);
        if (index >= team->count) return;
        team->task(team->context, index, team->scratch + (size_t)worker * team->scratch_bytes);
    }
}

static void *work_in_thread(void *data) {
    work(data);
    return NULL;
}

static void run_plain_threads(struct team *team, int64_t threads) {
    pthread_t started[256];
    int64_t n = 0;
    if (threads > 256) threads = 256;
    while (n + 1 < threads && pthread_create(&started[n], NULL, work_in_thread, team) == 0) n++;
    work(team);
    while (n > 0) pthread_join(started[--n], NULL);
}

int parallel_run(parallel_task task, const void *context, int64_t count, size_t scratch_bytes, int64_t threads) {
    if (threads > count) threads = count;
    if (count <= 0) return DONE;
    enum { PAGE = 4096 }; /* whole pages per worker, so that no two workers share a cache line */
    size_t total;
    if (__builtin_add_overflow(scratch_bytes, PAGE - 1, &scratch_bytes)) return TOO_LARGE;
    scratch_bytes &= ~(size_t)(PAGE - 1);
    if (__builtin_mul_overflow(scratch_bytes, (size_t)threads, &total) || __builtin_add_overflow(total, 64, &total))
        return TOO_LARGE;
    struct team team = {.task = task, .context = context, .scratch_bytes = scratch_bytes, .count = count};
    void *scratch = NULL;
    if (posix_memalign(&scratch, PAGE, total) != 0) return NO_MEMORY;
    team.scratch = scratch;
    if (threads <= 1) work(&team);
    else if (gomp_parallel && getpid() == openmp_process) gomp_parallel(work, &team, (unsigned)threads, 0);
    else run_plain_threads(&team, threads);
    free(scratch);
    return DONE;
}
