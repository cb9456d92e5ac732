/* The product of two matrices. Lanes are columns of the result.

   A task computes a panel of `WIDE` vectors of columns for a block of rows. It copies the panel's weights, DEPTH of
   each row at a time, so that the columns of one step are adjacent, and multiplies all rows of its block with the copy,
   which stays in the cache. The copy costs a few additions' time for each row of the block, so no packed form of the
   weights is kept, which would double their memory, and would be made again when the weights change. */
#include "kernels.h"
#include "parallel.h"
#include "product_simd.h"
#include "simd_math.h"

enum { DEPTH = 384, TILE = 6, MOST_ROWS = 256, LEAST_ROWS = 48, PANEL = WIDE * LANES };

/* The sums of one tile, with `rows` x `vectors` registers: x and b go through `depth` steps. The sums of earlier steps
   are in c where `more`. */
INLINE void gemm_tile(const float *x, int64_t x_row, const float *b, float *c, int64_t c_row, int64_t depth,
                      const float *bias, int more, int64_t columns, const int rows, const int vectors) {
    vec sums[TILE][WIDE];
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int j = 0; j < vectors; j++) sums[i][j] = vec_set(0.0f);
    }
    for (int64_t k = 0; k < depth; k++) {
        vec now[WIDE];
        UNROLL
        for (int j = 0; j < vectors; j++) now[j] = vec_load(b + j * LANES);
        UNROLL
        for (int i = 0; i < rows; i++) {
            const vec element = vec_set(x[i * x_row + k]);
            UNROLL
            for (int j = 0; j < vectors; j++) sums[i][j] = vec_fma(element, now[j], sums[i][j]);
        }
        b += vectors * LANES;
    }
    float tile[TILE * PANEL];
    const int whole = columns >= vectors * LANES;
    float *const to = whole ? c : tile;
    const int64_t to_row = whole ? c_row : PANEL;
    if (more && !whole)
        for (int i = 0; i < rows; i++) memcpy(tile + i * PANEL, c + i * c_row, (size_t)columns * sizeof *c);
    UNROLL
    for (int i = 0; i < rows; i++) {
        UNROLL
        for (int j = 0; j < vectors; j++) {
            if (more) sums[i][j] = sums[i][j] + vec_load(to + i * to_row + j * LANES);
            if (bias) sums[i][j] = sums[i][j] + vec_load(bias + j * LANES);
            vec_store(to + i * to_row + j * LANES, sums[i][j]);
        }
    }
    if (!whole)
        for (int i = 0; i < rows; i++) memcpy(c + i * c_row, tile + i * PANEL, (size_t)columns * sizeof *c);
}

struct gemm_work {
    const struct gemm_args *a;
    int64_t block; /* rows of a task */
};

/* All rows of a block. */
INLINE void gemm_rows(const struct gemm_args *a, const float *x, const float *b, float *c, int64_t rows, int64_t depth,
                      const float *bias, int more, int64_t columns, const int vectors) {
    const int64_t x_row = a->x.stride[0], c_row = a->out.stride[0];
    for (; rows >= TILE; rows -= TILE, x += TILE * x_row, c += TILE * c_row)
        gemm_tile(x, x_row, b, c, c_row, depth, bias, more, columns, TILE, vectors);
    for (; rows >= TILE / 2; rows -= TILE / 2, x += TILE / 2 * x_row, c += TILE / 2 * c_row)
        gemm_tile(x, x_row, b, c, c_row, depth, bias, more, columns, TILE / 2, vectors);
    for (; rows > 0; rows--, x += x_row, c += c_row)
        gemm_tile(x, x_row, b, c, c_row, depth, bias, more, columns, 1, vectors);
}

/* Copies LANES steps of LANES columns. */
INLINE void copy_square(const struct tensor *weight, int64_t at, float *b, int64_t b_row, const int64_t dtype) {
    const int64_t size = dtype == FLOAT32 ? 4 : 2;
    vec square[LANES];
    UNROLL
    for (int i = 0; i < LANES; i++) square[i] = vec_load_as(weight->data + (at + i * weight->stride[0]) * size, dtype);
    vec_transpose(square);
    UNROLL
    for (int i = 0; i < LANES; i++) vec_store(b + i * b_row, square[i]);
}

/* Copies `depth` steps of a panel's weights; columns that do not exist are zero. */
static void copy_panel(const struct gemm_args *a, int64_t column, int64_t first, int64_t depth, int vectors, float *b) {
    for (int j = 0; j < vectors; j++) {
        const int64_t corner = (column + j * LANES) * a->weight.stride[0] + first;
        int64_t k = 0;
        if (column + (j + 1) * LANES <= a->columns)
            for (; k + LANES <= depth; k += LANES) {
                float *const to = b + (k * vectors + j) * LANES;
                if (a->weight.dtype == FLOAT32) copy_square(&a->weight, corner + k, to, vectors * LANES, FLOAT32);
                else if (a->weight.dtype == BFLOAT16)
                    copy_square(&a->weight, corner + k, to, vectors * LANES, BFLOAT16);
                else copy_square(&a->weight, corner + k, to, vectors * LANES, FLOAT16);
            }
        for (; k < depth; k += LANES) {
            vec square[LANES];
            for (int i = 0; i < LANES; i++) {
                const int64_t row = column + j * LANES + i, at = row * a->weight.stride[0] + first + k;
                square[i] = row < a->columns ? load_part(&a->weight, at, 1, lanes_left(depth, k)) : vec_set(0.0f);
            }
            vec_transpose(square);
            for (int i = 0; i < LANES && k + i < depth; i++) vec_store(b + ((k + i) * vectors + j) * LANES, square[i]);
        }
    }
}

static void gemm_task(const void *context, int64_t index, void *scratch) {
    const struct gemm_work *work = context;
    const struct gemm_args *a = work->a;
    const int64_t panels = (a->columns + PANEL - 1) / PANEL, column = index % panels * PANEL,
                  row = index / panels * work->block;
    const int64_t rows = a->rows - row < work->block ? a->rows - row : work->block, columns = a->columns - column;
    const int vectors = columns >= PANEL ? WIDE : (int)((columns + LANES - 1) / LANES);
    float *const b = scratch, bias[PANEL] = {0};
    float *const out = (float *)a->out.data + row * a->out.stride[0] + column;
    if (a->bias.data)
        load_floats(bias, &a->bias, column * a->bias.stride[0], a->bias.stride[0], columns < PANEL ? columns : PANEL);
    for (int64_t first = 0; first == 0 || first < a->depth; first += DEPTH) {
        const int64_t depth = a->depth - first < DEPTH ? a->depth - first : DEPTH;
        const float *const x = (const float *)a->x.data + row * a->x.stride[0] + first;
        const float *const last = a->bias.data && first + depth == a->depth ? bias : NULL;
        copy_panel(a, column, first, depth, vectors, b);
        switch (vectors) {
        case 1: gemm_rows(a, x, b, out, rows, depth, last, first > 0, columns, 1); break;
        case 2: gemm_rows(a, x, b, out, rows, depth, last, first > 0, columns, 2); break;
        case 3: gemm_rows(a, x, b, out, rows, depth, last, first > 0, columns, WIDE > 2 ? 3 : 2); break;
        default: gemm_rows(a, x, b, out, rows, depth, last, first > 0, columns, WIDE);
        }
    }
}

int FOR_ISA(gemm)(const struct gemm_args *a) {
    if (a->rows > LONGEST || a->columns > LONGEST) return TOO_LARGE;
    const int64_t panels = (a->columns + PANEL - 1) / PANEL;
    int64_t blocks = (a->rows + MOST_ROWS - 1) / MOST_ROWS;
    /* More blocks, where threads would have no task or a task more than others. The sums of an element are the same in
       every block. */
    while (a->threads > 1 && blocks * LEAST_ROWS < a->rows && blocks * panels < 4 * a->threads) blocks *= 2;
    const int64_t block = blocks ? (a->rows + blocks * TILE - 1) / (blocks * TILE) * TILE : TILE;
    const struct gemm_work work = {a, block};
    struct scratch layout = {0};
    scratch_add(&layout, DEPTH, PANEL);
    const int64_t small = a->rows * a->columns < 1 << 12;
    return parallel_run(gemm_task, &work, (a->rows + block - 1) / block * panels, scratch_bytes(&layout),
                        small ? 1 : a->threads);
}
