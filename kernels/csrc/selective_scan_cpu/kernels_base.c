#include "simd_base.h"

#include "kernels.h"
#include "mamba3_backward_simd.h"
#include "mamba3_step_simd.h"
#include "mamba_step_simd.h"
#include "norm_simd.h"
#include "scan_backward_simd.h"

KERNELS(DEFINE_BASE)

#include "simd_end.h"
