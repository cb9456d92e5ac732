"""A kernel's function, its dispatch and its fallback have one signature."""

from __future__ import annotations

import inspect
from importlib.util import find_spec

import causal_conv1d_cpu
import pytest
import selective_scan_cpu
from causal_conv1d import dispatch as conv_dispatch
from causal_conv1d import fallback as conv_fallback
from mamba_ssm.ops import dispatch as scan_dispatch
from mamba_ssm.ops import fallback as scan_fallback

# Kernel function -> its dispatch and fallback, each with the parameters that it has and the kernel has not
# (+), or the reverse (-). By the additional parameters the dispatch decides whether a kernel is called.
NORM = {"+x1", "+weight1", "+bias1", "+dropout_p", "+rowscale", "+return_dropout_mask"}
CHUNKS = {"+chunk_size", "+cu_seqlens", "+return_varlen_states"}
OTHERS = {
    causal_conv1d_cpu.causal_conv1d: [
        (conv_dispatch.causal_conv1d_fn, {"+final_states_out"}),
        (conv_fallback.causal_conv1d_fn, {"+final_states_out", "-reverse"}),
    ],
    causal_conv1d_cpu.causal_conv1d_update: [
        (conv_dispatch.causal_conv1d_update, set()),
        (conv_fallback.causal_conv1d_update, set()),
    ],
    selective_scan_cpu.selective_scan: [
        (scan_dispatch.selective_scan, set()),
        (scan_fallback.selective_scan, {"-reverse"}),
    ],
    selective_scan_cpu.projected_scan: [(scan_dispatch.projected_scan, set())],
    selective_scan_cpu.selective_state_update: [
        (scan_dispatch.selective_state_update, set()),
        (scan_fallback.selective_state_update, set()),
    ],
    selective_scan_cpu.layer_norm: [(scan_dispatch.layer_norm, NORM), (scan_fallback.layer_norm, NORM)],
    selective_scan_cpu.gated_norm: [(scan_dispatch.gated_norm, set()), (scan_fallback.gated_norm, set())],
    selective_scan_cpu.quantized_linear: [
        (scan_dispatch.quantized_linear, set()),
        (scan_fallback.quantized.quantized_linear, set()),
    ],
    selective_scan_cpu.chunk_scan: [
        (scan_dispatch.mamba_chunk_scan_combined, CHUNKS),
        (scan_fallback.mamba_chunk_scan_combined, CHUNKS),
    ],
}
# What a module calls: the kernel or the module's own layers, whose signatures are theirs.
OF_MODULES = {selective_scan_cpu.linear, selective_scan_cpu.mamba_step, selective_scan_cpu.mamba3_step}
# The decoder that a language model makes of its layers, and what describes the layers.
LAYERS = ("Block", "GatedMLP", "Mamba2Mixer", "Mamba3Mixer", "MambaMixer", "Norm", "Weights")
OF_MODULES |= {getattr(selective_scan_cpu, name) for name in ("MambaDecoder", *LAYERS)}
# A whole layer over a sequence, and what describes a direction of it.
OF_MODULES |= {selective_scan_cpu.mamba_forward, selective_scan_cpu.Direction}
if find_spec("mamba_ssm.ops.fallback.mamba3"):
    from mamba_ssm.ops.fallback.mamba3 import mamba3 as mamba3_fallback

    OTHERS[selective_scan_cpu.mamba3] = [(mamba3_fallback, {"-states", "+input_states", "+chunk_size"})]
else:  # a release without Mamba-3
    OF_MODULES.add(selective_scan_cpu.mamba3)


def parameters(function) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(inspect.unwrap(function)).parameters)


def test_every_kernel_function_is_here():
    public = set()
    for package in (causal_conv1d_cpu, selective_scan_cpu):
        names = set(package.__all__) - {"instruction_set"}
        public |= {getattr(package, name) for name in names if not name.startswith("supports")}
    assert public == set(OTHERS) | OF_MODULES


@pytest.mark.parametrize("kernel", OTHERS, ids=lambda kernel: kernel.__name__)
def test_the_same_parameters_in_the_same_order(kernel):
    expected = parameters(kernel)
    for other, differences in OTHERS[kernel]:
        found = parameters(other)
        only_other, only_kernel = found.keys() - expected.keys(), expected.keys() - found.keys()
        assert {f"+{name}" for name in only_other} | {f"-{name}" for name in only_kernel} == differences
        shared = [name for name in expected if name in found]
        assert shared == [name for name in found if name in expected]
        for name in shared:
            defaults = {expected[name].default, found[name].default} - {inspect.Parameter.empty}
            assert len(defaults) <= 1, f"{name} of {other.__module__}.{other.__name__}: {defaults}"
