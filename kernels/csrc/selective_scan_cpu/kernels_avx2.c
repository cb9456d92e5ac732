#if defined __x86_64__
#include "simd_avx2.h"

#include "kernels.h"
#include "mamba3_backward_simd.h"
#include "mamba3_step_simd.h"
#include "mamba_step_simd.h"
#include "norm_simd.h"
#include "scan_backward_simd.h"

KERNELS(DEFINE_AVX2)

#include "simd_end.h"
#endif
