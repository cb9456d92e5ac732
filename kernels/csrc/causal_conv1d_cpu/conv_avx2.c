#if defined __x86_64__
#include "simd_avx2.h"

#include "conv_simd.h"

int conv_forward_avx2(const struct conv_args *a) { return conv_forward(a); }
int conv_backward_avx2(const struct conv_back_args *b) { return conv_backward(b); }
int conv_update_avx2(const struct conv_update_args *a) { return conv_update(a); }

#include "simd_end.h"
#endif
