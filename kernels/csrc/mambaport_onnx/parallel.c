/* The threads of ONNX Runtime's session, in place of csrc/common/parallel.c: a session has one pool of threads, of the
   size that its options say, and a second pool would mean more threads than cores. */
#include <stdlib.h>
#include <unistd.h>

#include "parallel.h"

#include "compute.h"

/* The session whose kernel runs on this thread. */
static _Thread_local const OrtApi *session_api;
static _Thread_local const OrtKernelContext *session_context;

void use_session_threads(const OrtApi *api, const OrtKernelContext *context) {
    session_api = api;
    session_context = context;
}

/* The machine's processors. The size of the session's pool is not known to an operator; more shares of
   the work than the pool has threads cost nearly nothing. */
static int64_t processors(void) {
    static int64_t known; /* set by each thread that finds 0, to the same number */
    int64_t count = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (count == 0) {
        count = sysconf(_SC_NPROCESSORS_ONLN);
        if (count < 1) count = 1;
        __atomic_store_n(&known, count, __ATOMIC_RELAXED);
    }
    return count;
}

int64_t worker_count(void) {
    enum { FINEST = 16 }; /* finer shares would cost a session of one thread more than they bring */
    const int64_t count = processors();
    return count < FINEST ? count : FINEST;
}

struct team {
    parallel_task task;
    const void *context;
    size_t scratch_bytes;
    int64_t count, next;
    int failed;
};

/* One worker: takes tasks until none is left. A worker that finds no task allocates nothing. Where a worker gets no
   memory, others may have run tasks: then parallel_run returns NO_MEMORY, and the outputs are undefined. */
static void work(void *data, size_t worker) {
    struct team *const team = data;
    (void)worker;
    int64_t index = __atomic_fetch_add(&team->next, 1, __ATOMIC_RELAXED);
    if (index >= team->count) return;
    enum { PAGE = 4096 };
    void *scratch = NULL;
    if (posix_memalign(&scratch, PAGE, team->scratch_bytes) != 0) {
        __atomic_store_n(&team->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    do {
        team->task(team->context, index, scratch);
        index = __atomic_fetch_add(&team->next, 1, __ATOMIC_RELAXED);
    } while (index < team->count);
    free(scratch);
}

int parallel_run(parallel_task task, const void *context, int64_t count, size_t scratch_bytes, int64_t threads) {
    if (count <= 0) return DONE;
    if (__builtin_add_overflow(scratch_bytes, (size_t)64, &scratch_bytes)) return TOO_LARGE;
    struct team team = {task, context, scratch_bytes, count, 0, 0};
    const int64_t most = threads > 1 ? processors() : 1, workers = most < count ? most : count;
    OrtStatus *status = NULL;
    if (workers > 1)
        status = ORT(session_api, KernelContext_ParallelFor)(session_context, work, (size_t)workers, 0, &team);
    if (status) ORT(session_api, ReleaseStatus)(status);
    work(&team, 0); /* what is left: all where nothing ran in parallel */
    return team.failed ? NO_MEMORY : DONE;
}
