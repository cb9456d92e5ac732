/* Products of small matrices that lie in the cache. Lanes are columns. */
#pragma once

#include "kernel.h"
#include "simd.h"

/* Sums that are held in registers at once: as many as 32 registers can hold where a processor has them, or 16. */
#if defined __aarch64__ || defined __AVX512F__
enum { WIDE = 4 };
#else
enum { WIDE = 2 };
#endif
enum { TALL = 8 };

/* c = factor c + a b: element (m, k) of a is a[m * a_row + k * a_column], rows of b and c are adjacent vectors. */
struct product {
    float *c;
    const float *a, *b;
    int64_t c_row, a_row, a_column, b_row;
    int64_t rows, depth, columns; /* of a, of a, of b; columns is a multiple of LANES */
    const float *factor;          /* one for each row at distances of factor_row; NULL: c is not read */
    int64_t factor_row;
};

void FOR_ISA(multiply)(const struct product *p);
