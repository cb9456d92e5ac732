#pragma once

#include <stddef.h>
#include <stdint.h>

#include "scratch.h"

/* One piece of the work: `index` is its number, `scratch` is memory that only this worker uses. */
typedef void (*parallel_task)(const void *context, int64_t index, void *scratch);

/* Runs tasks 0 to count - 1 on up to `threads` threads, each thread with `scratch_bytes` bytes of scratch memory. The
   order of the tasks and the thread of each are not defined, so a task must not depend on another. Returns DONE;
   NO_MEMORY or TOO_LARGE, having run nothing, where the scratch memory cannot be allocated or its size overflows. */
int parallel_run(parallel_task task, const void *context, int64_t count, size_t scratch_bytes, int64_t threads);
