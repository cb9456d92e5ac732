#include "simd_base.h"

#include "mamba_step_simd.h"
#include "norm_simd.h"
#include "scan_backward_simd.h"

int scan_forward_base(const struct scan_args *a) { return scan_forward(a); }
int scan_backward_base(const struct scan_back_args *b) { return scan_backward(b); }
int state_update_base(const struct state_update_args *a) { return state_update(a); }
int mamba_step_base(const struct mamba_step_args *a) { return mamba_step(a); }
int linear_base(const struct linear_args *a) { return linear(a); }
int norm_base(const struct norm_args *a) { return norm(a); }

#include "simd_end.h"
