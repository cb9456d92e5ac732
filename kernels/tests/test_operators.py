"""Every torch operator of the kernels: its schema agrees with its implementation, its fake and its public function."""

from __future__ import annotations

import inspect

import causal_conv1d_cpu
import pytest
import selective_scan_cpu
import torch

NAMESPACES = ("causal_conv1d_cpu", "selective_scan_cpu")
# Public functions of an operator, with the operator's names for parameters that it computes from theirs.
NORM = {"is_rms_norm": "rms"}
PUBLIC = {
    "causal_conv1d_cpu::conv": [(causal_conv1d_cpu.causal_conv1d, {"activation": "silu"})],
    "causal_conv1d_cpu::update": [(causal_conv1d_cpu.causal_conv1d_update, {"activation": "silu"})],
    "selective_scan_cpu::scan": [(selective_scan_cpu.selective_scan, {})],
    "selective_scan_cpu::projected_scan": [(selective_scan_cpu.projected_scan, {})],
    "selective_scan_cpu::chunk_scan": [(selective_scan_cpu.chunk_scan, {"dt_limit": "dt_min, dt_max"})],
    "selective_scan_cpu::state_update": [(selective_scan_cpu.selective_state_update, {})],
    "selective_scan_cpu::mamba3": [
        (selective_scan_cpu.mamba3, {"states": "first_angle, first_state, first_k, first_v"})
    ],
    "selective_scan_cpu::mamba3_step": [(selective_scan_cpu.mamba3_step, {})],
    "selective_scan_cpu::mamba_step": [(selective_scan_cpu.mamba_step, {})],
    "selective_scan_cpu::linear": [(selective_scan_cpu.linear, {})],
    "selective_scan_cpu::quantized_linear": [(selective_scan_cpu.quantized_linear, {})],
    "selective_scan_cpu::norm": [
        (selective_scan_cpu.layer_norm, {**NORM, "prenorm": "total_dtype", "residual_in_fp32": "total_dtype"}),
        (selective_scan_cpu.gated_norm, {**NORM, "group_size": "group", "norm_before_gate": "gate"}),
    ],
}
# Called by autograd alone.
BACKWARD = {"causal_conv1d_cpu::conv_backward": "causal_conv1d_cpu::conv",
            "selective_scan_cpu::scan_backward": "selective_scan_cpu::scan",
            "selective_scan_cpu::mamba3_backward": "selective_scan_cpu::mamba3"}  # fmt: skip


def operators() -> list[str]:
    names = torch._C._dispatch_get_all_op_names()
    return sorted(name for name in names if name.startswith(tuple(f"{space}::" for space in NAMESPACES)))


def arguments(operator: str) -> list[str]:
    return [argument.name for argument in torch._C._get_schema(operator, "").arguments]


def test_every_operator_is_here():
    assert operators() == sorted([*PUBLIC, *BACKWARD])


@pytest.mark.parametrize("operator", PUBLIC)
def test_a_public_function_has_the_arguments_of_its_operator(operator):
    passed: set[str] = set()
    for function, renamed in PUBLIC[operator]:
        parameters = inspect.signature(function).parameters
        assert renamed.keys() <= parameters.keys()
        names = [name for parameter in parameters for name in renamed.get(parameter, parameter).split(", ")]
        assert set(names) <= set(arguments(operator))
        passed |= set(names)
        # Tensors come in the operator's order, so that a call by position means the same in both.
        tensors = [a.name for a in torch._C._get_schema(operator, "").arguments if "Tensor" in str(a.type)]
        assert [name for name in names if name in tensors] == [name for name in tensors if name in names]
    assert passed == set(arguments(operator))


@pytest.mark.parametrize("operator", BACKWARD)
def test_a_backward_operator_takes_what_its_forward_takes(operator):
    forward = arguments(BACKWARD[operator])
    own = [name for name in arguments(operator) if not name.startswith("grad_")]
    assert own == [name for name in forward if not name.startswith("return_")]
