/* One token through a language model, in one call: its row of the embedding, blocks, the last norm, and the output
   layer. The weights of the embedding and of the output layer may be packed, as in mamba_step.h. */
#pragma once

#include "interface.h"

/* What a block computes of the norm's output. The arguments are those of the kernel. */
enum mixer { MAMBA_MIXER, MAMBA2_MIXER, MAMBA3_MIXER, GATED_MLP };

// clang-format off
/* residual += hidden; hidden = mixer(norm(residual)) */
#define DECODE_BLOCK_FIELDS(FIELD) \
    FIELD(integer, mixer) /* enum mixer */ \
    FIELD(integer, arguments) /* the address of the mixer's, whose x is `normed` and whose out is `hidden` */ \
    FIELD(integer, features) FIELD(integer, threads) \
    FIELD(tensor, hidden) FIELD(tensor, residual) FIELD(tensor, normed) /* (features,) */ \
    FIELD(tensor, norm_weight) FIELD(tensor, norm_bias) /* (features,) */ \
    FIELD(flag, first) /* hidden is stored in residual, and not added to it */ \
    FIELD(flag, rms) FIELD(real, eps)

struct decode_block_args { DECODE_BLOCK_FIELDS(MEMBER) };

#define DECODE_FIELDS(FIELD) \
    FIELD(integer, count) FIELD(integer, features) FIELD(integer, vocabulary) FIELD(integer, threads) \
    FIELD(integer, token) FIELD(tensor, embedding) FIELD(bytes, embedding_packed) /* (tokens, features) */ \
    FIELD(integer, blocks) /* the address of the arguments of `count` blocks, one after the other */ \
    FIELD(tensor, hidden) FIELD(tensor, residual) /* (features,): the output of the last block, and its residual */ \
    FIELD(tensor, norm_weight) FIELD(tensor, norm_bias) FIELD(flag, rms) FIELD(real, eps) \
    FIELD(tensor, head_weight) FIELD(tensor, head_bias) FIELD(bytes, head_packed) /* (vocabulary, features) */ \
    FIELD(tensor, logits) /* (vocabulary,) */

struct decode_args { DECODE_FIELDS(MEMBER) };
// clang-format on
