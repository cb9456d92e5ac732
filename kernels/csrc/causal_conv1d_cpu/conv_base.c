#include "simd_base.h"

#include "conv_simd.h"

int conv_forward_base(const struct conv_args *a) { return conv_forward(a); }
int conv_backward_base(const struct conv_back_args *b) { return conv_backward(b); }
int conv_update_base(const struct conv_update_args *a) { return conv_update(a); }

#include "simd_end.h"
