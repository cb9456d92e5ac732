"""The CUDA code as torch operators: their schemas and fakes, torch.compile and torch.export."""

from __future__ import annotations

import pytest
import torch
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from mamba_ssm import Mamba
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn


@pytest.fixture(autouse=True)
def gpu(device):
    if device == "cpu":
        pytest.skip("operators of CUDA tensors")
    pytest.importorskip("causal_conv1d_cuda._cuda")
    pytest.importorskip("selective_scan_cuda._cuda")
    torch._dynamo.reset()


def scan_inputs(variable=True, gated=True, rest=True, length=2100):
    u, delta = torch.randn(2, 8, length, device="cuda"), torch.rand(2, 8, length, device="cuda")
    A = -torch.rand(8, 4, device="cuda")
    shape = (2, 2, 4, length) if variable else (8, 4)
    B, C = torch.randn(shape, device="cuda"), torch.randn(shape, device="cuda")
    D, bias = (torch.randn(8, device="cuda"), torch.rand(8, device="cuda")) if rest else (None, None)
    return [u, delta, A, B, C, D, torch.randn(2, 8, length, device="cuda") if gated else None, bias]


# Each is a plain function of tensors, with no autograd formula: that of autograd.Function stands around it.
TESTS = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.mark.parametrize("variable", [True, False])
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("rest", [True, False])
def test_the_scans_schema_and_fake_are_those_of_its_kernel(variable, gated, rest):
    ops = torch.ops.selective_scan_cuda
    inputs = scan_inputs(variable, gated, rest)
    torch.library.opcheck(ops.fwd.default, (*inputs, True), test_utils=TESTS)
    out, x, _ = ops.fwd(*inputs, True)
    dz = torch.empty_like(out) if gated else None
    backward = (*inputs, torch.randn_like(out), x, out if gated else None, dz, True, gated)
    torch.library.opcheck(ops.bwd.default, backward, test_utils=TESTS)


@pytest.mark.parametrize("states", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_convolutions_schema_and_fake_are_those_of_its_kernel(states, bias):
    ops = torch.ops.causal_conv1d_cuda
    x, dout, out, dx = (torch.randn(2, 40, 16, device="cuda").transpose(1, 2) for _ in range(4))
    weight, b = torch.randn(16, 4, device="cuda"), torch.randn(16, device="cuda") if bias else None
    initial, final, dinitial = (
        torch.randn(2, 3, 16, device="cuda").transpose(1, 2) if states else None for _ in range(3)
    )
    fwd = (x, weight, b, None, initial, out, final, True)
    torch.library.opcheck(ops.causal_conv1d_fwd.default, fwd, test_utils=TESTS)
    dweight, dbias = torch.zeros_like(weight), torch.zeros_like(b) if bias else None
    bwd = (x, weight, b, dout, None, initial, None, dx, dweight, dbias, dinitial, True)
    torch.library.opcheck(ops.causal_conv1d_bwd.default, bwd, test_utils=("test_schema", "test_faketensor"))
    state = torch.randn(2, 16, 4, device="cuda")
    step, one = (torch.randn(2, 16, 1, device="cuda") for _ in range(2))
    torch.library.opcheck(
        ops.causal_conv1d_update.default, (step, state, weight, b, one, True, None, None), test_utils=TESTS
    )


def close(out, want):
    assert out.shape == want.shape
    assert ((out - want).abs().max() / want.abs().max()).item() < 1e-5


@pytest.mark.parametrize("gated", [True, False])
def test_a_compiled_scan_is_one_graph_and_the_same(gated):
    inputs = [None if t is None else t.requires_grad_() for t in scan_inputs(gated=gated)]
    weight = torch.randn_like(inputs[0])
    want = selective_scan_fn(*inputs, delta_softplus=True)
    given = [t for t in inputs if t is not None]
    wants = torch.autograd.grad(want, given, weight)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def run(*tensors):
        return selective_scan_fn(*tensors, delta_softplus=True)

    out = run(*inputs)
    close(out, want)
    for grad, wanted in zip(torch.autograd.grad(out, given, weight), wants, strict=True):
        close(grad, wanted)


@pytest.mark.parametrize("form", ["channels first", "channels last", "packed"])
def test_a_compiled_convolution_is_one_graph_and_the_same(form):
    x = torch.randn(2, 16, 40, device="cuda", requires_grad=True)
    if form != "channels first":
        x = torch.randn(2, 40, 16, device="cuda").transpose(1, 2).requires_grad_()
    seq_idx = None
    if form == "packed":
        seq_idx = (torch.arange(40, device="cuda") // 7).int().repeat(2, 1)
    weight, bias = torch.randn(16, 4, device="cuda"), torch.randn(16, device="cuda")
    want = causal_conv1d_fn(x, weight, bias, seq_idx=seq_idx, activation="silu")
    (wanted,) = torch.autograd.grad(want.sum(), x)
    compiled = torch.compile(causal_conv1d_fn, fullgraph=True, backend="aot_eager")
    out = compiled(x, weight, bias, seq_idx=seq_idx, activation="silu")
    close(out, want)
    close(torch.autograd.grad(out.sum(), x)[0], wanted)


def test_a_compiled_step_of_the_convolution_is_one_graph_and_the_same():
    x, state = torch.randn(2, 16, device="cuda"), torch.randn(2, 16, 4, device="cuda")
    weight, other = torch.randn(16, 4, device="cuda"), state.clone()
    want = causal_conv1d_update(x, state, weight, activation="silu")
    compiled = torch.compile(causal_conv1d_update, fullgraph=True, backend="aot_eager")
    close(compiled(x, other, weight, activation="silu"), want)
    assert torch.equal(other, state)


@pytest.mark.parametrize("kind", ["none", "v2"])
def test_a_module_compiled_by_inductor_is_the_same(kind):
    module = Mamba(64, bimamba_type=kind).to("cuda")
    hidden = torch.randn(2, 32, 64, device="cuda", requires_grad=True)
    want = module(hidden)
    (wanted,) = torch.autograd.grad(want.sum(), hidden)
    out = torch.compile(module)(hidden)
    close(out, want)
    close(torch.autograd.grad(out.sum(), hidden)[0], wanted)


class Scan(torch.nn.Module):
    def __init__(self, tensors):
        super().__init__()
        for number, tensor in enumerate(tensors):
            self.register_buffer(f"t{number}", tensor)

    def forward(self, u, delta, B, C):
        return selective_scan_fn(u, delta, self.t0, B, C, self.t1, None, None, True)


def test_an_exported_scan_serves_every_length_and_holds_the_operator():
    u, delta, A, B, C, D, _, _ = scan_inputs(gated=False)
    module = Scan([A, D])
    length = torch.export.Dim("length", min=2, max=100_000)
    shapes = ({2: length}, {2: length}, {3: length}, {3: length})
    with torch.no_grad():
        program = torch.export.export(module, (u, delta, B, C), dynamic_shapes=shapes)
        targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        assert "selective_scan_cuda.fwd.default" in targets
        for end in (2100, 5, 2049):
            words = [t[..., :end].contiguous() for t in (u, delta, B, C)]
            close(program.module()(*words), module(*words))


def test_autograd_does_not_look_at_the_raw_functions():
    import selective_scan_cuda

    inputs = [None if t is None else t.requires_grad_() for t in scan_inputs()]
    assert not any(t.requires_grad for t in selective_scan_cuda.fwd(*inputs, 1))


def test_a_tensor_on_the_cpu_among_those_on_the_gpu_is_refused():
    import selective_scan_cuda

    inputs = scan_inputs()
    inputs[2] = inputs[2].cpu()
    with pytest.raises(RuntimeError, match="is_cuda"):
        selective_scan_cuda.fwd(*inputs, True)
