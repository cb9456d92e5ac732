#include "simd_base.h"

#include "conv_simd.h"

KERNELS(DEFINE_BASE)

#include "simd_end.h"
