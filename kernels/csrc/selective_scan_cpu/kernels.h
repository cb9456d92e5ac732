/* All kernels of this library. */
#pragma once

#include "decode.h"
#include "gated_mlp.h"
#include "gemm.h"
#include "linear.h"
#include "mamba2_step.h"
#include "mamba3.h"
#include "mamba3_step.h"
#include "mamba_forward.h"
#include "mamba_step.h"
#include "norm.h"
#include "quantized.h"
#include "scan.h"
#include "state_update.h"

// clang-format off
#define KERNELS(KERNEL) \
    KERNEL(selective_scan_forward, scan_forward, scan_args, SCAN_FIELDS) \
    KERNEL(selective_scan_backward, scan_backward, scan_back_args, SCAN_BACK_FIELDS) \
    KERNEL(selective_state_update, state_update, state_update_args, STATE_UPDATE_FIELDS) \
    KERNEL(layer_norm, norm, norm_args, NORM_FIELDS) \
    KERNEL(linear_step, linear, linear_args, LINEAR_FIELDS) \
    KERNEL(linear_rows, gemm, gemm_args, GEMM_FIELDS) \
    KERNEL(quantized_linear, quantized, quantized_args, QUANTIZED_FIELDS) \
    KERNEL(mamba_mixer_step, mamba_step, mamba_step_args, MAMBA_STEP_FIELDS) \
    KERNEL(mamba2_mixer_step, mamba2_step, mamba2_step_args, MAMBA2_STEP_FIELDS) \
    KERNEL(mamba_mixer_forward, mamba_forward, mamba_forward_args, MAMBA_FORWARD_FIELDS) \
    KERNEL(mamba3_scan_forward, mamba3_forward, mamba3_forward_args, MAMBA3_FORWARD_FIELDS) \
    KERNEL(mamba3_scan_backward, mamba3_backward, mamba3_backward_args, MAMBA3_BACKWARD_FIELDS) \
    KERNEL(mamba3_mixer_step, mamba3_step, mamba3_step_args, MAMBA3_STEP_FIELDS) \
    KERNEL(gated_mlp_step, gated_mlp, gated_mlp_args, GATED_MLP_FIELDS) \
    KERNEL(model_block_step, decode_block, decode_block_args, DECODE_BLOCK_FIELDS) \
    KERNEL(mamba_model_step, decode, decode_args, DECODE_FIELDS)
KERNELS(DECLARE_KERNEL)
// clang-format on
