#include "operators.h"

#include <math.h>

#include "compute.h"

/* A shape for each layout; the text without channels_last first. */
#define STEPS "batch dim seqlen", .channels_last = "batch seqlen dim"
#define CHANNELS(attribute) "batch dim@" attribute " seqlen", .channels_last = "batch seqlen dim@" attribute
#define PROJECTION                                               \
    "batch dstate seqlen|batch groups dstate seqlen|dim dstate", \
        .channels_last = "batch seqlen dstate|batch seqlen groups dstate|dim dstate"
#define PROJECTED "batch rank+2*dstate seqlen", .channels_last = "batch seqlen rank+2*dstate"

#define VALUE(label, ...) {.name = label, .shape = __VA_ARGS__}
#define OPTIONAL(label, ...) {.name = label, .optional = 1, .shape = __VA_ARGS__}
#define INTEGERS(label, ...) {.name = label, .optional = 1, .type = VALUE_INT32, .shape = __VA_ARGS__}

#define SCAN_ATTRIBUTES                                                                                           \
    {"delta_softplus", 0, 0}, {"reverse", 0, 0}, {"channels_last", 0, 0}, {"scale", 1, 1.0}, {"u_offset", 0, -1}, \
        {"z_offset", 0, -1}
#define SCAN_OUTPUTS VALUE("out", STEPS, .updates = "onto"), OPTIONAL("last_state", "batch dim dstate")

// clang-format off
const struct operation operations[OPERATION_COUNT] = {
    {"CausalConv", 5, 4, 2,
     {VALUE("x", CHANNELS("x_offset")), VALUE("weight", "dim width"), OPTIONAL("bias", "dim"),
      OPTIONAL("initial_states", "batch dim width-1"), INTEGERS("seq_idx", "batch seqlen")},
     {{"silu", 0, 0}, {"reverse", 0, 0}, {"channels_last", 0, 0}, {"x_offset", 0, -1}},
     {VALUE("out", STEPS), OPTIONAL("final_states", "batch dim width-1")},
     causal_conv},
    {"CausalConvUpdate", 4, 1, 2,
     {VALUE("x", "batch dim seqlen|batch dim"), VALUE("state", "batch dim state_len"), VALUE("weight", "dim width"),
      OPTIONAL("bias", "dim")},
     {{"silu", 0, 0}},
     {VALUE("out", "=x"), VALUE("next_state", "=state", .updates = "state")},
     causal_conv_update},
    {"SelectiveScan", 10, 6, 2,
     {VALUE("u", CHANNELS("u_offset")), VALUE("delta", STEPS), VALUE("A", "dim dstate"),
      VALUE("B", PROJECTION), VALUE("C", PROJECTION), OPTIONAL("D", "dim"),
      OPTIONAL("z", CHANNELS("z_offset")), OPTIONAL("delta_bias", "dim"),
      OPTIONAL("onto", STEPS), OPTIONAL("first_state", "batch dim dstate")},
     {SCAN_ATTRIBUTES},
     {SCAN_OUTPUTS},
     selective_scan},
    {"ProjectedScan", 9, 6, 2,
     {VALUE("u", CHANNELS("u_offset")), VALUE("projected", PROJECTED),
      VALUE("delta_weight", "dim rank"), VALUE("A", "dim dstate"), OPTIONAL("D", "dim"),
      OPTIONAL("z", CHANNELS("z_offset")), OPTIONAL("delta_bias", "dim"), OPTIONAL("onto", STEPS),
      OPTIONAL("first_state", "batch dim dstate")},
     {SCAN_ATTRIBUTES},
     {SCAN_OUTPUTS},
     projected_scan},
    {"ChunkScan", 10, 3, 2,
     {VALUE("x", "batch seqlen heads head_dim"), VALUE("dt", "batch seqlen heads"), VALUE("A", "heads"),
      VALUE("B", "batch seqlen groups dstate"), VALUE("C", "batch seqlen groups dstate"),
      OPTIONAL("D", "heads|heads head_dim"), OPTIONAL("z", "batch seqlen heads head_dim"),
      OPTIONAL("dt_bias", "heads"), OPTIONAL("initial_states", "batch heads head_dim dstate"),
      INTEGERS("seq_idx", "batch seqlen")},
     {{"dt_softplus", 0, 0}, {"dt_min", 1, 0.0}, {"dt_max", 1, INFINITY}},
     {VALUE("out", "batch seqlen heads head_dim"), OPTIONAL("final_states", "batch heads head_dim dstate")},
     chunk_scan},
    {"StateUpdate", 9, 1, 2,
     {VALUE("state", "batch heads dstate|batch heads head_dim dstate"), VALUE("x", "batch heads|batch heads head_dim"),
      VALUE("dt", "batch heads|batch heads head_dim"), VALUE("A", "heads|heads dstate|heads head_dim dstate"),
      VALUE("B", "batch dstate|batch groups dstate"), VALUE("C", "batch dstate|batch groups dstate"),
      OPTIONAL("D", "heads|heads head_dim"), OPTIONAL("z", "batch heads|batch heads head_dim"),
      OPTIONAL("dt_bias", "heads|heads head_dim")},
     {{"dt_softplus", 0, 0}},
     {VALUE("out", "=x"), VALUE("next_state", "=state", .updates = "state")},
     update_state},
    {"MambaStep", 14, 0, 3,
     {VALUE("x", "batch features|batch 1 features"), VALUE("conv_state", "batch dim width"),
      VALUE("ssm_state", "batch dim dstate"),
      VALUE("in_weight", "2*dim features"), OPTIONAL("in_bias", "2*dim"), VALUE("conv_weight", "dim width|dim 1 width"),
      OPTIONAL("conv_bias", "dim"), VALUE("x_weight", "rank+2*dstate dim"), VALUE("dt_weight", "dim rank"),
      OPTIONAL("dt_bias", "dim"), VALUE("A_log", "dim dstate"), OPTIONAL("D", "dim"),
      VALUE("out_weight", "features dim"), OPTIONAL("out_bias", "features")},
     {{0}},
     {VALUE("out", "=x"), VALUE("next_conv_state", "=conv_state", .updates = "conv_state"),
      VALUE("next_ssm_state", "=ssm_state", .updates = "ssm_state")},
     mamba_step_rows},
    {"Norm", 5, 4, 2,
     {VALUE("x", "... dim"), VALUE("weight", "dim"), OPTIONAL("bias", "dim"), OPTIONAL("residual", "... dim"),
      OPTIONAL("z", "... dim")},
     {{"eps", 1, 1e-6}, {"rms", 0, 0}, {"group", 0, 0}, {"gate", 0, 0}},
     {VALUE("out", "=x"), OPTIONAL("total", "=x")},
     norm_rows},
    {"Linear", 3, 0, 1,
     {VALUE("x", "... columns"), VALUE("weight", "rows columns"), OPTIONAL("bias", "rows")},
     {{0}},
     {VALUE("out", "... rows")},
     linear_rows},
    {"QuantizedLinear", 4, 0, 1,
     {VALUE("x", "... columns"), VALUE("weight", "tiles parts 16 4", .type = VALUE_INT8), VALUE("scales", "rows"),
      OPTIONAL("bias", "rows")},
     {{0}},
     {VALUE("out", "... rows")},
     quantized_rows},
};
// clang-format on
