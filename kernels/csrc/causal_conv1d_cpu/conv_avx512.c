#if defined __x86_64__
#include "simd_avx512.h"

#include "conv_simd.h"

KERNELS(DEFINE_AVX512)

#include "simd_end.h"
#endif
