/* What Python calls. */
#include "conv.h"
#include "isa.h"

EXPORT int causal_conv1d_forward(const struct conv_args *a) { return BEST_ISA(conv_forward, a); }
EXPORT int causal_conv1d_backward(const struct conv_back_args *b) { return BEST_ISA(conv_backward, b); }
EXPORT int causal_conv1d_update(const struct conv_update_args *a) { return BEST_ISA(conv_update, a); }
