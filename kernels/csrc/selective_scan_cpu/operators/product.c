/* Products of small matrices that lie in the cache. Lanes are columns. */
#include "product_simd.h"

INLINE void product_tile(const struct product *p, int64_t row, int64_t column, const int rows, const int vectors) {
    vec sums[TALL][WIDE];
    float *const c = p->c + row * p->c_row + column;
    const float *a = p->a + row * p->a_row, *b = p->b + column;
    UNROLL
    for (int i = 0; i < rows; i++) {
        const vec factor = vec_set(p->factor ? p->factor[(row + i) * p->factor_row] : 0.0f);
        UNROLL
        for (int j = 0; j < vectors; j++) {
            sums[i][j] = vec_set(0.0f);
            if (p->factor) sums[i][j] = vec_load(c + i * p->c_row + j * LANES) * factor;
        }
    }
    for (int64_t k = 0; k < p->depth; k++) {
        vec columns[WIDE];
        UNROLL
        for (int j = 0; j < vectors; j++) columns[j] = vec_load(b + j * LANES);
        UNROLL
        for (int i = 0; i < rows; i++) {
            const vec element = vec_set(a[i * p->a_row]);
            UNROLL
            for (int j = 0; j < vectors; j++) sums[i][j] = vec_fma(element, columns[j], sums[i][j]);
        }
        a += p->a_column;
        b += p->b_row;
    }
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int j = 0; j < vectors; j++) vec_store(c + i * p->c_row + j * LANES, sums[i][j]);
    }
}

INLINE void product_columns(const struct product *p, int64_t column, const int rows, const int vectors) {
    int64_t row = 0;
    for (; row + rows <= p->rows; row += rows) product_tile(p, row, column, rows, vectors);
    for (; row < p->rows; row++) product_tile(p, row, column, 1, vectors);
}

void FOR_ISA(multiply)(const struct product *p) {
    int64_t column = 0;
    for (; column + WIDE * LANES <= p->columns; column += WIDE * LANES) product_columns(p, column, TALL / 2, WIDE);
    if (WIDE > 2)
        for (; column + 2 * LANES <= p->columns; column += 2 * LANES) product_columns(p, column, TALL, 2);
    for (; column < p->columns; column += LANES) product_columns(p, column, TALL, 1);
}
