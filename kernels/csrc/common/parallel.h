#pragma once

#include <stddef.h>
#include <stdint.h>

/* One piece of the work: `index` says which, `scratch` is memory of this worker's own. */
typedef void (*parallel_task)(const void *context, int64_t index, void *scratch);

/* Runs tasks 0 to count - 1 on up to `threads` threads. Which thread takes which task is left open, so a task
   must not depend on the others. Returns -1, having run nothing, where scratch memory cannot be had. */
int parallel_run(parallel_task task, const void *context, int64_t count, size_t scratch_bytes, int64_t threads);
