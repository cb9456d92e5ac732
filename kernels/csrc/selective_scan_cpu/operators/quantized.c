/* The product of a matrix of 8 or 4 bits and the inputs of one token or many. Lanes are rows. */
#include <math.h>
#include <stdlib.h>

#include "kernels.h"
#include "pages.h"
#include "parallel.h"
#include "quantized_simd.h"
#include "simd_math.h"

/* The inputs of a token are in blocks of columns. Many tokens are in groups of TOKENS, where the tokens of a block are
   adjacent. Each task computes MOST_TILES tiles of rows at most. For one token STREAMS tiles are read at once, because
   memory delivers several streams faster than one. Each stream is prefetched AHEAD bytes. */
enum { TOKENS = 64, MOST_TILES = 8, STREAMS = 4, AHEAD = 2048 };

/* Vectors of rows that many tokens are computed for at once: as many as registers can hold blocks of. */
#if defined __AVX512F__ || defined __aarch64__
enum { VECTORS = 2 };
#else
enum { VECTORS = 1 };
#endif

struct inputs {
    int8_t *values;   /* 32 for each block and token */
    float *scales;    /* one for each block and token */
    int32_t *offsets; /* the sums of the values, times -offset_of(bits) */
};

struct quantized_work {
    const struct quantized_args *a;
    struct inputs x;
    int64_t blocks, tiles, share; /* share: tiles of a task */
};

/* Inputs of a block whose largest is smaller count as zero: the factor 127 / largest would overflow. */
#define LEAST 1e-30f

/* A vector's lanes as integers of 32 and of 8 bits. */
typedef int32_t words_of_lanes __attribute__((vector_size(LANES * 4)));
typedef int8_t bytes_of_lanes __attribute__((vector_size(LANES)));

/* Rounds 32 floats to integers of -127 to 127 times the scale. NaN and infinities make the scale NaN. */
static void round_block(const float *x, int8_t *values, float *scale, int32_t *total) {
    vec largest = vec_set(0.0f), zero = vec_set(0.0f);
    for (int i = 0; i < BLOCK_COLUMNS; i += LANES) {
        const vec v = vec_load(x + i);
        largest = vec_max(vec_abs(v), largest);
        zero = vec_fma(v, vec_set(0.0f), zero);
    }
    const float most = vec_largest(largest), finite = vec_sum(zero),
                factor = finite == 0.0f && most >= LEAST ? 127.0f / most : 0.0f;
    *scale = finite == 0.0f ? (factor > 0.0f ? most / 127.0f : 0.0f) : NAN;
    *total = 0;
    if (factor == 0.0f) {
        memset(values, 0, BLOCK_COLUMNS);
        return;
    }
    vec sums = vec_set(0.0f);
    UNROLL
    for (int i = 0; i < BLOCK_COLUMNS; i += LANES) {
        /* The unit in the last place of 1.5 * 2^23 is 1: the sum is rounded to an integer, half to even. */
        const vec shifted = vec_load(x + i) * vec_set(factor) + vec_set(0x1.8p23f);
        const words_of_lanes rounded = (words_of_lanes)shifted - (int32_t)bits_of_float(0x1.8p23f);
        const bytes_of_lanes narrow = __builtin_convertvector(rounded, bytes_of_lanes);
        memcpy(values + i, &narrow, sizeof narrow);
        sums = sums + (shifted - vec_set(0x1.8p23f));
    }
    *total = (int32_t)vec_sum(sums); /* integers of at most 32 * 127: the sum is exact */
}

/* Rounds the tokens of a group; `row` has room for the columns of one token, padded to whole blocks. */
static void round_tokens(const void *context, int64_t group, void *row) {
    const struct quantized_work *w = context;
    const int64_t first = group * TOKENS, left = w->a->tokens - first, count = left < TOKENS ? left : TOKENS;
    float *x = row;
    memset(x + w->a->columns, 0, (size_t)(w->blocks * BLOCK_COLUMNS - w->a->columns) * sizeof *x);
    for (int64_t t = 0; t < count; t++) {
        load_floats(x, &w->a->x, (first + t) * w->a->x.stride[0], 1, w->a->columns);
        for (int64_t b = 0; b < w->blocks; b++) {
            const int64_t at = first * w->blocks + b * count + t;
            int32_t total;
            round_block(x + b * BLOCK_COLUMNS, w->x.values + at * BLOCK_COLUMNS, w->x.scales + at, &total);
            w->x.offsets[at] = -offset_of(w->a->bits) * total;
        }
    }
}

INLINE int64_t tile_bytes(const struct quantized_work *w, const int bits) { return w->blocks * bits * 64; }

INLINE void load_block(bytes *block, const int8_t *at, const int bits) {
    if (bits == 8) block_of_8(block, at);
    else block_of_4(block, at);
}

/* store_rows for rows that are no whole vector of floats, or have a bias. */
static __attribute__((noinline)) void store_any_rows(const struct quantized_work *w, int64_t token, int64_t vector,
                                                     vec sums) {
    const struct quantized_args *a = w->a;
    const int64_t first = vector * LANES, count = lanes_left(a->rows, first);
    if (count <= 0) return;
    if (a->bits == 8) sums = sums * load_part(&a->scales, first, 1, count);
    if (a->bias.data) sums = sums + load_part(&a->bias, first, 1, count);
    store_part(&a->out, token * a->out.stride[0] + first, 1, count, sums);
}

/* Scales, adds the bias, and stores the results of one token and a vector of rows. */
INLINE void store_rows(const struct quantized_work *w, int64_t token, int64_t vector, vec sums, const int bits) {
    const struct quantized_args *a = w->a;
    const int64_t first = vector * LANES;
    if (a->bias.data || a->out.dtype != FLOAT32 || lanes_left(a->rows, first) < LANES) {
        store_any_rows(w, token, vector, sums);
        return;
    }
    if (bits == 8) sums = sums * vec_load((const float *)a->scales.data + first);
    vec_store((float *)a->out.data + token * a->out.stride[0] + first, sums);
}

/* Adds the product of a block of weights and a token's inputs. */
INLINE vec add_block(vec sum, const bytes *block, const struct inputs *x, int64_t at, vec row_scale, const int bits) {
    const vec product = vec_of_ints(block_product(block, x->values + at * BLOCK_COLUMNS, x->offsets[at], bits));
    vec scale = vec_set(x->scales[at]);
    if (bits == 4) scale = scale * row_scale;
    return vec_fma(product, scale, sum);
}

INLINE vec load_row_scale(const struct quantized_work *w, int64_t tile, int64_t b, int part, const int bits) {
    if (bits == 8) return vec_set(1.0f);
    return vec_load_bfloat16((const uint16_t *)w->a->scales.data + (tile * w->blocks + b) * TILE_ROWS + part * LANES);
}

/* One token and `count` tiles, at most STREAMS, at distances of `apart` tiles. */
INLINE void one_token(const struct quantized_work *w, int64_t tile, int64_t apart, int count, const int bits) {
    const int8_t *const data = w->a->weight + tile * tile_bytes(w, bits);
    vec sums[STREAMS * PARTS];
    for (int i = 0; i < count * PARTS; i++) sums[i] = vec_set(0.0f);
    for (int64_t b = 0; b < w->blocks; b++) {
        for (int j = 0; j < count; j++) {
            const int8_t *const at = data + j * apart * tile_bytes(w, bits) + b * bits * 64;
            UNROLL
            for (int line = 0; line < bits; line++) __builtin_prefetch(at + AHEAD + line * 64);
            for (int p = 0; p < PARTS; p++) {
                bytes block[PER_BLOCK];
                load_block(block, at + p * LANES * 4, bits);
                const vec scale = load_row_scale(w, tile + j * apart, b, p, bits);
                sums[j * PARTS + p] = add_block(sums[j * PARTS + p], block, &w->x, b, scale, bits);
            }
        }
    }
    for (int i = 0; i < count * PARTS; i++)
        store_rows(w, 0, (tile + i / PARTS * apart) * PARTS + i % PARTS, sums[i], bits);
}

/* The tokens of a group and `count` vectors of rows, VECTORS at most. Each block of weights and inputs is read once. */
INLINE void many_tokens(const struct quantized_work *w, int64_t vector, const int count, int64_t first, int64_t tokens,
                        const int bits) {
    vec sums[TOKENS][VECTORS];
    const int8_t *data[VECTORS];
    UNROLL
    for (int v = 0; v < count; v++) {
        for (int64_t t = 0; t < tokens; t++) sums[t][v] = vec_set(0.0f);
        data[v] = w->a->weight + (vector + v) / PARTS * tile_bytes(w, bits) + (vector + v) % PARTS * LANES * 4;
    }
    for (int64_t b = 0; b < w->blocks; b++) {
        bytes block[VECTORS][PER_BLOCK];
        vec scales[VECTORS];
        UNROLL
        for (int v = 0; v < count; v++) {
            load_block(block[v], data[v] + b * bits * 64, bits);
            scales[v] = load_row_scale(w, (vector + v) / PARTS, b, (vector + v) % PARTS, bits);
        }
        for (int64_t t = 0; t < tokens; t++) {
            vec now[VECTORS];
            UNROLL
            for (int v = 0; v < count; v++)
                now[v] = add_block(sums[t][v], block[v], &w->x, first * w->blocks + b * tokens + t, scales[v], bits);
            UNROLL
            for (int v = 0; v < count; v++) sums[t][v] = now[v];
        }
    }
    for (int64_t t = 0; t < tokens; t++) {
        UNROLL
        for (int v = 0; v < count; v++) store_rows(w, first + t, vector + v, sums[t][v], bits);
    }
}

INLINE void all_tiles(const struct quantized_work *w, int64_t tile, int64_t count, const int bits) {
    if (w->a->tokens == 1) {
        const int64_t apart = count < STREAMS ? 1 : count / STREAMS;
        for (int64_t i = 0; i < apart; i++) one_token(w, tile + i, apart, count < STREAMS ? (int)count : STREAMS, bits);
        for (int64_t i = apart * STREAMS; i < count; i++) one_token(w, tile + i, 0, 1, bits);
        return;
    }
    for (int64_t first = 0; first < w->a->tokens; first += TOKENS) {
        const int64_t left = w->a->tokens - first, tokens = left < TOKENS ? left : TOKENS;
        const int64_t end = (tile + count) * PARTS;
        int64_t vector = tile * PARTS;
        for (; vector + VECTORS <= end; vector += VECTORS) many_tokens(w, vector, VECTORS, first, tokens, bits);
        if (PARTS % VECTORS)
            for (; vector < end; vector++) many_tokens(w, vector, 1, first, tokens, bits);
    }
}

static void compute_tiles(const void *context, int64_t index, void *scratch) {
    (void)scratch;
    const struct quantized_work *w = context;
    const int64_t first = index * w->share, left = w->tiles - first, count = left < w->share ? left : w->share;
    if (w->a->bits == 8) all_tiles(w, first, count, 8);
    else all_tiles(w, first, count, 4);
}

int FOR_ISA(quantized)(const struct quantized_args *a) {
    if (a->columns > LONGEST || a->tokens > LONGEST || a->rows > LONGEST) return TOO_LARGE;
    struct quantized_work w = {
        .a = a,
        .blocks = blocks_of(a->columns),
        .tiles = (a->rows + TILE_ROWS - 1) / TILE_ROWS,
    };
    if (a->tokens == 0 || a->rows == 0) return DONE;
    const int64_t even = (w.tiles + 4 * a->threads - 1) / (4 * a->threads),
                  whole = (even + STREAMS - 1) / STREAMS * STREAMS;
    w.share = whole < MOST_TILES ? whole : MOST_TILES;
    struct scratch of_inputs = {.overflow = 0}, row = {.overflow = 0};
    const size_t values = scratch_add(&of_inputs, a->tokens, w.blocks * (BLOCK_COLUMNS / 4)),
                 scales = scratch_add(&of_inputs, a->tokens, w.blocks),
                 offsets = scratch_add(&of_inputs, a->tokens, w.blocks), bytes = scratch_bytes(&of_inputs);
    scratch_add(&row, w.blocks, BLOCK_COLUMNS);
    if (bytes == SIZE_MAX) return TOO_LARGE;
    float *const memory = malloc(bytes);
    if (!memory && bytes) return NO_MEMORY;
    use_large_pages(memory, bytes);
    w.x = (struct inputs){(int8_t *)(memory + values), memory + scales, (int32_t *)(memory + offsets)};
    const int64_t small = a->rows * w.blocks * a->tokens < 1 << 11, groups = (a->tokens + TOKENS - 1) / TOKENS;
    const int64_t threads = small ? 1 : a->threads;
    int failed = parallel_run(round_tokens, &w, groups, scratch_bytes(&row), threads);
    if (!failed) failed = parallel_run(compute_tiles, &w, (w.tiles + w.share - 1) / w.share, 0, threads);
    free(memory);
    return failed;
}
