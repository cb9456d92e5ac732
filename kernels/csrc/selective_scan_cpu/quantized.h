/* y = W x + bias for weights in 8 or 4 bits. The inputs of each block of 32 columns are rounded to 8 bits with a scale
   of their own, the products of a block are summed as integers, and the blocks as floats.

   Rows of W are in tiles of 16, padded with zeros. Columns are in blocks of 32, padded with zeros.
   8 bits: a tile is (columns / 4, 16, 4) signed bytes: four columns of one row are adjacent, then the rows. Values are
   -127 to 127. Each row has a scale in float32; the scales of the rows that pad the last tile are not read.
   4 bits: a tile is (columns / 8, 16, 4) bytes. The low half of byte c is column c, the high half column 4 + c; a half
   holds the value plus 8. Each row has a scale in bfloat16 for each block: (tiles, blocks, 16). */
#pragma once

#include "interface.h"

enum { TILE_ROWS = 16, BLOCK_COLUMNS = 32 };

static inline int64_t blocks_of(int64_t columns) { return (columns + BLOCK_COLUMNS - 1) / BLOCK_COLUMNS; }

// clang-format off
#define QUANTIZED_FIELDS(FIELD) \
    FIELD(integer, rows) FIELD(integer, columns) FIELD(integer, tokens) FIELD(integer, bits) FIELD(integer, threads) \
    FIELD(bytes, weight) FIELD(tensor, scales) /* as above, contiguous */ \
    FIELD(tensor, x) FIELD(tensor, bias) FIELD(tensor, out) /* (tokens, columns), (rows,), (tokens, rows) */

struct quantized_args { QUANTIZED_FIELDS(MEMBER) };
// clang-format on
