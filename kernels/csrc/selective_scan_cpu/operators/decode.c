/* One token through a language model, by the kernels of its layers. */
#include "quantized.h"
#include "step_simd.h"

/* Row `row` of a table of float32, or of packed weights (quantized.h). */
static void read_row(struct weights table, int64_t row, int64_t features, float *out) {
    if (!table.packed) {
        load_floats(out, &table.values, row * table.values.stride[0], 1, features);
        return;
    }
    const int64_t tile = row / TILE_ROWS, place = row % TILE_ROWS, blocks = blocks_of(features);
    const int bits = table.values.dtype == FLOAT32 ? 8 : 4;
    const int8_t *const at = table.packed + tile * blocks * bits * 64 + place * 4;
    if (bits == 8) {
        const float scale = load_float(&table.values, row);
        for (int64_t c = 0; c < features; c++) out[c] = at[c / 4 * 64 + c % 4] * scale;
        return;
    }
    for (int64_t c = 0; c < features; c++) {
        const int both = (uint8_t)at[c / 8 * 64 + c % 4], half = c % 8 < 4 ? both & 15 : both >> 4;
        out[c] = (half - 8) * load_float(&table.values, (tile * blocks + c / BLOCK_COLUMNS) * TILE_ROWS + place);
    }
}

static int normalize(struct norm_args *args, int64_t features, int64_t threads) {
    args->rows = 1;
    args->dim = args->group = features;
    args->threads = threads;
    return FOR_ISA(norm)(args);
}

int FOR_ISA(decode_block)(const struct decode_block_args *a) {
    struct norm_args norm = {
        .rms = a->rms,
        .eps = a->eps,
        .x = a->hidden,
        .total = a->residual,
        .weight = a->norm_weight,
        .bias = a->norm_bias,
        .out = a->normed,
    };
    if (!a->first) norm.residual = a->residual;
    const int failed = normalize(&norm, a->features, a->threads);
    if (failed) return failed;
    const void *const arguments = (const void *)(intptr_t)a->arguments;
    switch ((enum mixer)a->mixer) {
    case MAMBA_MIXER: return FOR_ISA(mamba_step)(arguments);
    case MAMBA2_MIXER: return FOR_ISA(mamba2_step)(arguments);
    case MAMBA3_MIXER: return FOR_ISA(mamba3_step)(arguments);
    case GATED_MLP: return FOR_ISA(gated_mlp)(arguments);
    }
    __builtin_unreachable();
}

int FOR_ISA(decode)(const struct decode_args *a) {
    read_row((struct weights){a->embedding_packed, a->embedding}, a->token, a->features, (float *)a->hidden.data);
    const struct decode_block_args *const blocks = (const struct decode_block_args *)(intptr_t)a->blocks;
    for (int64_t i = 0; i < a->count; i++) {
        const int failed = FOR_ISA(decode_block)(&blocks[i]);
        if (failed) return failed;
    }
    struct norm_args norm = {
        .rms = a->rms,
        .eps = a->eps,
        .x = a->hidden,
        .residual = a->residual,
        .weight = a->norm_weight,
        .bias = a->norm_bias,
        .out = a->hidden,
    };
    const int failed = normalize(&norm, a->features, a->threads);
    if (failed) return failed;
    return project(a->vocabulary, a->features, a->threads, (struct weights){a->head_packed, a->head_weight}, a->hidden,
                   a->head_bias, a->logits);
}
