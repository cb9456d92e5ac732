#if defined __x86_64__
#include "simd_avx2.h"

#include "conv_simd.h"

KERNELS(DEFINE_AVX2)

#include "simd_end.h"
#endif
