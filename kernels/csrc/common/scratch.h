/* The layout of a worker's scratch memory: arrays of floats one after the other, their total checked for overflow. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* What a kernel returns. */
enum status { DONE = 0, NO_MEMORY = -1, TOO_LARGE = -2 };

struct scratch {
    size_t floats; /* the total so far */
    int overflow;  /* the total does not fit a size_t; `floats` is then meaningless */
};

/* Adds an array of rows * columns floats and returns the place where it starts, in floats. Operands of one type: for a
   mixed multiplication, clang calls a function of its own runtime library on aarch64, which gcc's library lacks. */
static inline size_t scratch_add(struct scratch *s, int64_t rows, int64_t columns) {
    const size_t start = s->floats;
    size_t count;
    s->overflow |= __builtin_mul_overflow((size_t)rows, (size_t)columns, &count) ||
                   __builtin_add_overflow(start, count, &s->floats);
    return start;
}

/* The total in bytes, or SIZE_MAX after an overflow. */
static inline size_t scratch_bytes(const struct scratch *s) {
    size_t bytes;
    return s->overflow || __builtin_mul_overflow(s->floats, sizeof(float), &bytes) ? SIZE_MAX : bytes;
}

/* A layout as a list, PARTS(PART), which expands to PART(name, rows, columns) for each array: members of a struct of
   places (with a `struct scratch total`), their computation, members of a struct of pointers, and their computation. */
#define SCRATCH_PLACE(name, rows, columns) size_t name;
#define SCRATCH_ADD(name, rows, columns) layout->name = scratch_add(&layout->total, rows, columns);
#define SCRATCH_POINTER(name, rows, columns) float *name;
#define SCRATCH_LOCATE(name, rows, columns) w->name = memory + layout->name;

/* No dimension is longer: so many floats do not fit the address space. A layout checks its dimensions against this
   length first, so that the sums and small multiples of dimensions in the kernels do not overflow. */
#define LONGEST (INT64_C(1) << 48)
