#if defined __x86_64__
#include "simd_avx2.h"

#include "mamba_step_simd.h"
#include "norm_simd.h"
#include "scan_backward_simd.h"

int scan_forward_avx2(const struct scan_args *a) { return scan_forward(a); }
int scan_backward_avx2(const struct scan_back_args *b) { return scan_backward(b); }
int state_update_avx2(const struct state_update_args *a) { return state_update(a); }
int mamba_step_avx2(const struct mamba_step_args *a) { return mamba_step(a); }
int linear_avx2(const struct linear_args *a) { return linear(a); }
int norm_avx2(const struct norm_args *a) { return norm(a); }

#include "simd_end.h"
#endif
