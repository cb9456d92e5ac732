"""What mamba_ssm does around its CUDA extension, with a stand-in for the extension on CPU tensors.

Run by test_cuda_paths.py with the patched trees on PYTHONPATH. The stand-in computes in float64, and leaves a
constant B to C, as the kernel does (selective_scan_fwd_kernel.cuh). Prints a JSON object of relative errors.
"""

from __future__ import annotations

import json

import torch
from mamba_ssm.ops import dispatch, fallback
from mamba_ssm.ops import selective_scan_interface as interface


class StandIn:
    @staticmethod
    def fwd(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        for tensor in (u, delta, z):
            assert tensor is None or (tensor.stride(-1) == 1 and tensor.dtype == u.dtype)
        constant = B.dim() == 2
        kernels_b = torch.ones_like(B) if constant else B
        kernels_c = B * C if constant and C.dim() == 2 else C
        _, state = fallback.selective_scan(
            u, delta, A, kernels_b, kernels_c, D, None, delta_bias, delta_softplus, return_last_state=True
        )
        out = fallback.selective_scan(u, delta, A, B, C, D, None, delta_bias, delta_softplus)
        x = torch.zeros(*state.shape[:2], 1, 2 * state.shape[2])
        x[:, :, 0, 1::2] = state
        return (out, x) if z is None else (out, x, out * torch.nn.functional.silu(z))

    @staticmethod
    def bwd(u, delta, A, B, C, D, z, delta_bias, dout, x, out, dz, delta_softplus, recompute_out_z):
        leaves = [t.detach().requires_grad_() for t in (u, delta, A, B, C, D, z, delta_bias)]
        with torch.enable_grad():
            gated = fallback.selective_scan(*leaves, delta_softplus)
        du, ddelta, dA, dB, dC, dD, dz, dbias = torch.autograd.grad(gated, leaves, dout)
        return du, ddelta, dA, dB, dC, dD, dbias, dz


def error(result, right):
    return ((result.double() - right.double()).abs().max() / right.abs().max()).item()


torch.manual_seed(0)
batch, dim, seqlen, dstate, rank = 2, 8, 11, 4, 3
errors = {}

u, delta = torch.randn(batch, dim, seqlen), torch.rand(batch, dim, seqlen)
A, B, C = -torch.rand(dim, dstate), torch.randn(dim, dstate), torch.randn(batch, dstate, seqlen)
plain = [u, delta, A, B, C]
for name, c in (("variable C", C), ("constant C", torch.randn(dim, dstate))):
    _, expected = interface.selective_scan_fn(u, delta, A, B, c, return_last_state=True)
    dispatch.use_cuda = lambda x: True
    interface.selective_scan_cuda = StandIn
    _, last = interface.selective_scan_fn(u, delta, A, B, c, return_last_state=True)
    errors[f"last state, {name}"] = error(last, expected)
    dispatch.use_cuda = lambda x: False

tensors = {
    "xz": torch.randn(batch, 2 * dim, seqlen),
    "conv1d_weight": torch.randn(dim, 1, 4),
    "conv1d_bias": torch.randn(dim),
    "x_proj_weight": torch.randn(rank + 2 * dstate, dim),
    "delta_proj_weight": torch.randn(dim, rank),
    "out_proj_weight": torch.randn(6, dim),
    "out_proj_bias": torch.randn(6),
    "A": -torch.rand(dim, dstate),
    "D": torch.randn(dim),
    "delta_bias": torch.rand(dim),
    "b_rms_weight": torch.rand(dstate) + 0.5,
    "c_rms_weight": torch.rand(dstate) + 0.5,
    "dt_rms_weight": torch.rand(dim) + 0.5,
}
weight = torch.randn(batch, seqlen, 6)


def gradients(dtype):
    leaves = {name: tensor.detach().to(dtype).requires_grad_() for name, tensor in tensors.items()}
    out = interface.mamba_inner_fn(**leaves, delta_softplus=True)
    return out.detach(), torch.autograd.grad(out, list(leaves.values()), weight.to(dtype))


right, rights = gradients(torch.float64)
dispatch.use_cuda = lambda x: True
result, results = gradients(torch.float32)
errors["inner, forward"] = error(result, right)
errors.update({f"inner, {name}": error(*pair) for name, *pair in zip(tensors, results, rights, strict=True)})
print(json.dumps(errors))
