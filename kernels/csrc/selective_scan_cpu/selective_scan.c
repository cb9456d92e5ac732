/* What Python calls. */
#include "isa.h"
#include "linear.h"
#include "mamba_step.h"
#include "norm.h"
#include "scan.h"
#include "state_update.h"

EXPORT int selective_scan_forward(const struct scan_args *a) { return BEST_ISA(scan_forward, a); }
EXPORT int selective_scan_backward(const struct scan_back_args *b) { return BEST_ISA(scan_backward, b); }
EXPORT int selective_state_update(const struct state_update_args *a) { return BEST_ISA(state_update, a); }
EXPORT int layer_norm(const struct norm_args *a) { return BEST_ISA(norm, a); }
EXPORT int linear_step(const struct linear_args *a) { return BEST_ISA(linear, a); }
EXPORT int mamba_mixer_step(const struct mamba_step_args *a) { return BEST_ISA(mamba_step, a); }
