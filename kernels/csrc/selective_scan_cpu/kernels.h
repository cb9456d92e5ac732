/* All kernels of this library. */
#pragma once

#include "linear.h"
#include "mamba3.h"
#include "mamba3_step.h"
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
    KERNEL(quantized_linear, quantized, quantized_args, QUANTIZED_FIELDS) \
    KERNEL(mamba_mixer_step, mamba_step, mamba_step_args, MAMBA_STEP_FIELDS) \
    KERNEL(mamba_model_step, mamba_decode, mamba_decode_args, MAMBA_DECODE_FIELDS) \
    KERNEL(mamba3_scan_forward, mamba3_forward, mamba3_forward_args, MAMBA3_FORWARD_FIELDS) \
    KERNEL(mamba3_scan_backward, mamba3_backward, mamba3_backward_args, MAMBA3_BACKWARD_FIELDS) \
    KERNEL(mamba3_mixer_step, mamba3_step, mamba3_step_args, MAMBA3_STEP_FIELDS)
KERNELS(DECLARE_KERNEL)
// clang-format on
