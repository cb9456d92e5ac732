"""The compiled kernels as part of a process: threads, fork, memory, instruction sets, torch.compile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import causal_conv1d_cpu as conv
import pytest
import reference
import selective_scan_cpu as kernels
import torch

# Those that this processor has.
INSTRUCTION_SETS = kernels._lib.library.available


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def inputs(batch=2, dim=96, seqlen=300, dstate=16):
    rng = torch.Generator().manual_seed(0)
    shapes = [(batch, dim, seqlen)] * 2 + [(dim, dstate)] + [(batch, dstate, seqlen)] * 2
    u, delta, A, B, C = (torch.randn(*shape, generator=rng) for shape in shapes)
    return [u, delta, -A.abs(), B, C]


def gradients(count):
    torch.set_num_threads(count)
    tensors = [t.requires_grad_() for t in inputs()]
    out = kernels.selective_scan(*tensors, delta_softplus=True)
    return [out.detach(), *torch.autograd.grad(out.sin().sum(), tensors)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_same_bits_for_the_same_number_of_threads(count):
    first = gradients(count)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(count), strict=True))


def test_the_forward_pass_does_not_depend_on_the_number_of_threads():
    assert torch.equal(gradients(1)[0], gradients(4)[0])


def test_calls_from_several_threads_at_once():
    want, wrong = gradients(2), []

    def work():
        for _ in range(5):
            if not all(torch.equal(a, b) for a, b in zip(want, gradients(2), strict=True)):
                wrong.append(threading.current_thread())

    started = [threading.Thread(target=work) for _ in range(4)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_neither_hangs_nor_differs():
    """OpenMP's threads do not live on in a child, where asking for them waits for ever."""
    want = gradients(3)
    child = os.fork()
    if child == 0:
        same = False
        try:
            u = inputs()
            out = kernels.selective_scan(*u, delta_softplus=True)
            x = conv.causal_conv1d(u[0], torch.ones(96, 4))
            torch.set_num_threads(1)  # torch's own functions do hang otherwise
            same = torch.equal(out, want[0]) and bool(x.isfinite().all())
        finally:
            os._exit(0 if same else 1)
    for _ in range(600):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        threading.Event().wait(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0


def run(code, **environment):
    """What a fresh interpreter prints."""
    folders = {str(Path(module.__file__).parent.parent) for module in (kernels, conv)}
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")]),
        **environment,
    }
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout


def test_large_outputs_are_on_large_pages_and_small_ones_are_not():
    found = json.loads(run(Path(__file__).with_name("large_pages.py").read_text()))
    if not found.pop("Linux"):
        pytest.skip("this Linux gives no large pages, or does not say so")
    assert len(found) == 6
    assert found == {operator: [False, True] for operator in found}


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_instruction_sets_agree(isa, tmp_path):
    """Each is compiled from the same source."""
    torch.save([t.requires_grad_() for t in inputs(seqlen=70)], tmp_path / "in")
    code = (
        "import torch, sys, selective_scan_cpu as k, causal_conv1d_cpu as c\n"
        f"i = torch.load({str(tmp_path / 'in')!r})\n"
        "o = k.selective_scan(*i, delta_softplus=True)\n"
        "x = c.causal_conv1d(i[0], torch.ones(96, 4), activation='silu')\n"
        "grads = torch.autograd.grad(o.sum() + x.sum(), i)\n"
        f"torch.save([o.detach(), *grads, x.detach()], {str(tmp_path / 'out')!r})\n"
        "print(k.instruction_set(), c.instruction_set())\n"
    )
    assert run(code, MAMBAPORT_KERNEL_ISA=isa).split() == [isa, isa]
    tensors = [t.double().requires_grad_() for t in inputs(seqlen=70)]

    out, _ = reference.selective_scan(*tensors, delta_softplus=True)
    x, _ = reference.causal_conv1d(tensors[0], torch.ones(96, 4).double(), activation="silu")
    wants = [out, *torch.autograd.grad(out.sum() + x.sum(), tensors, retain_graph=True), x]
    for actual, want in zip(torch.load(tmp_path / "out"), wants, strict=True):
        assert (actual - want).abs().max() <= 5e-6 * want.abs().max()


def test_memory():
    """Nothing of size batch x dim x length x state is ever made: the peak grows by about the output."""
    code = (
        "import resource, torch, selective_scan_cpu as k\n"
        "torch.set_num_threads(2)\n"
        "d, l, n = 1536, 2048, 16\n"
        "r = torch.randn\n"
        "a = [r(1, d, l), r(1, d, l).abs(), -r(d, n).abs(), r(1, n, l), r(1, n, l)]\n"
        "k.selective_scan(*[t[..., :8] if t.dim() == 3 else t for t in a])\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "o = k.selective_scan(*a)\n"
        "forward = peak() - before - o.numel() * 4 / 1024\n"
        "a = [t.requires_grad_() for t in a]\n"
        "before = peak()\n"
        "o = k.selective_scan(*a)\n"
        "grads = torch.autograd.grad(o, a, o.detach())\n"
        "backward = peak() - before - sum(t.numel() for t in (o, *grads)) * 4 / 1024\n"
        "print(forward, backward)\n"
    )
    forward, backward = map(float, run(code).split())
    projections = 2 * 16 * 2048 * 4 / 1024  # B and C, in KiB
    states = 2 * 1536 * 16 * 4 / 1024  # dim x state for each of two threads
    slack = 1024
    assert forward < 4 * projections + states + slack
    assert backward < 2 * (4 * projections + states) + 4 * slack


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_takes_the_kernels_in(backend):
    """No break in the graph: the kernels are operators, with shapes and gradients that the compiler knows."""

    def f(x, weight, u, delta, A, B, C):
        x = conv.causal_conv1d(x, weight, activation="silu")
        return kernels.selective_scan(x * u, delta, A, B, C, delta_softplus=True)

    args = [t.requires_grad_() for t in (inputs()[0], torch.randn(96, 4), *inputs())]
    want = f(*args)
    wants = torch.autograd.grad(want.sum(), args)
    out = torch.compile(f, backend=backend, fullgraph=True)(*args)
    torch.testing.assert_close(out, want)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), args), wants)


def test_export_takes_the_kernels_in():
    class Scan(torch.nn.Module):
        def forward(self, u, delta, A, B, C):
            return kernels.selective_scan(u, delta, A, B, C, delta_softplus=True)

    args = tuple(inputs())
    program = torch.export.export(Scan(), args)
    assert any("selective_scan_cpu" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(*args), Scan()(*args))
