"""Small configurations of the models of transformers that call mamba_ssm or causal_conv1d. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

COMMON = {
    "vocab_size": 89,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
ATTENTION = {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "intermediate_size": 64,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
SHARED = {"shared_expert_intermediate_size": 32}
SCAN_2 = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 2,
    "mamba_d_state": 16,
    "mamba_chunk_size": 8,
}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}
CONV = {"layer_types": ["conv", "full_attention", "conv"]}
HYBRID = {"layers_block_type": ["mamba", "hybrid", "hybrid"], "num_key_value_heads": 4}


@dataclass(frozen=True)
class Model:
    """A configuration, and what in the model calls the packages."""

    title: str
    options: dict[str, Any]
    """Of the configuration."""
    family: str
    """``mamba``: Mamba-1's scan; ``mamba2``: Mamba-2's scan; ``conv``: the convolution alone."""
    mixers: int = 3
    """The number of layers that call the packages."""
    heads: int = 1
    """The number of scans in a mixer of Mamba-1."""
    fused: bool = False
    """Whether training calls one function of mamba_ssm for a whole mixer."""
    packing: str = "apart"
    """What transformers does with seq_idx: a key of PACKING."""
    drops_state: bool = False
    """Whether transformers begins a second piece of a prompt with an empty state, as for Mamba-1's scan."""
    clamps_dt: bool = False
    """Whether transformers clamps dt in the scan and not in a step of decoding."""
    kernels: bool = True
    """Whether the kernels take the model's convolution: 2 to 4 taps, as upstream's."""
    named: bool = True
    """Whether the model is in the short selection."""
    scale: float = field(default=1.0)
    """Of the random weights. Smaller where rounding errors grow from layer to layer."""


PACKING = {
    "apart": "sequences are kept apart",
    "mask": "sequences are kept apart, if attention_mask keeps them apart in the attention layers",
    "conv": "the convolution keeps sequences apart, the scan does not",
    "ignored": "seq_idx is ignored",
    "refused": "ValueError: the linear attention needs flash-linear-attention",
}


def _model(title: str, family: str, *options: dict[str, Any], **rest: Any) -> Model:
    merged = dict(COMMON)
    for part in options:
        merged |= part
    return Model(title, merged, family, **rest)


MODELS = {
    "mamba": _model("Mamba", "mamba", {"state_size": 16}, fused=True, packing="ignored", drops_state=True),
    "falcon_mamba": _model(
        "FalconMamba", "mamba", {"state_size": 16}, fused=True, packing="ignored", drops_state=True
    ),
    "jamba": _model(
        "Jamba",
        "mamba",
        ATTENTION,
        {"num_experts": 4, "num_experts_per_tok": 2, "expert_layer_period": 2},
        {"attn_layer_period": 3, "attn_layer_offset": 1},
        mixers=2,
        packing="ignored",
        drops_state=True,
    ),
    "zamba": _model("Zamba", "mamba", ATTENTION, HYBRID, heads=2, packing="conv", drops_state=True),
    "mamba2": _model(
        "Mamba-2",
        "mamba2",
        {"num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 16, "chunk_size": 8},
        fused=True,
        packing="ignored",
    ),
    "zamba2": _model(
        "Zamba2",
        "mamba2",
        ATTENTION,
        HYBRID,
        {"n_mamba_heads": 8, "mamba_ngroups": 2, "mamba_d_state": 16, "chunk_size": 8, "adapter_rank": 8},
        fused=True,
        clamps_dt=True,
    ),
    "bamba": _model("Bamba", "mamba2", ATTENTION, SCAN_2, {"attn_layer_indices": [1]}, mixers=2, fused=True),
    "falcon_h1": _model("Falcon-H1", "mamba2", ATTENTION, SCAN_2, {"mamba_d_ssm": 64}, fused=True),
    "granitemoehybrid": _model(
        "Granite-MoE-hybrid",
        "mamba2",
        ATTENTION,
        SCAN_2,
        {
            "shared_intermediate_size": 32,
            "num_local_experts": 4,
            "layer_types": ["mamba", "attention", "mamba"],
        },
        mixers=2,
        fused=True,
        packing="mask",
    ),
    "nemotron_h": _model(
        "Nemotron-H",
        "mamba2",
        ATTENTION,
        {"ssm_state_size": 16, "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 2, "chunk_size": 8},
        {"layers_block_type": ["mamba", "attention", "mamba", "moe"], "num_hidden_layers": 4, "head_dim": 8},
        {"n_routed_experts": 4, "moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 32},
        mixers=2,
        fused=True,
        clamps_dt=True,
    ),
    "lfm2": _model("LFM2", "conv", ATTENTION, CONV, mixers=2),
    "qwen3_next": _model(
        "Qwen3-Next", "conv", ATTENTION, EXPERTS, SHARED, LINEAR, mixers=2, packing="refused", scale=0.5
    ),
    "qwen3_5_text": _model(
        "Qwen3.5", "conv", ATTENTION, LINEAR, mixers=2, packing="refused", scale=0.5, named=False
    ),
    "qwen3_5_moe_text": _model(
        "Qwen3.5-MoE",
        "conv",
        ATTENTION,
        EXPERTS,
        SHARED,
        LINEAR,
        mixers=2,
        packing="refused",
        scale=0.5,
        named=False,
    ),
    "lfm2_moe": _model("LFM2-MoE", "conv", ATTENTION, EXPERTS, CONV, mixers=2, named=False),
    "lfm3": _model("LFM3", "conv", ATTENTION, CONV, {"head_dim": 8}, mixers=2, kernels=False, named=False),
    "olmo_hybrid": _model(
        "OLMo hybrid", "conv", ATTENTION, LINEAR, mixers=2, packing="refused", scale=0.5, named=False
    ),
    "lara_mini": _model(
        "Lara mini",
        "conv",
        ATTENTION,
        EXPERTS,
        SHARED,
        LINEAR,
        mixers=2,
        packing="refused",
        scale=0.5,
        named=False,
    ),
    "kimi_linear": _model(
        "Kimi Linear",
        "conv",
        ATTENTION,
        {
            "moe_intermediate_size": 32,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "linear_num_heads": 4,
        },
        {
            "linear_head_dim": 8,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 8,
            "qk_nope_head_dim": 8,
        },
        {"layer_types": LINEAR["layer_types"], "num_key_value_heads": 4},
        mixers=2,
        packing="refused",
        scale=0.5,
        named=False,
    ),
}
