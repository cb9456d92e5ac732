"""The components: each gives its inputs, what the packages make of them, and what they should.

Shapes are small, so that an emulated machine gets through them, and odd enough to meet every edge.
"""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import references as ref
import torch

FORWARD = 2e-5
"""Bound on the relative error of float32 results."""
BACKWARD = 1e-4
"""The same for gradients, which sum over batch and time."""
HALF = 5e-3
"""Bound in float16, and on a GPU where triton multiplies float32 as TF32: both keep ten bits."""
MAMBA3 = "mamba_ssm/modules/mamba3.py"
CONV, SCAN = ("causal_conv1d_cpu",), ("selective_scan_cpu",)
ALL = []
DEVICE = "cpu"
"""Where the packages compute; references always do on the CPU."""


class Component(NamedTuple):
    """A function that returns (inputs, results, references), and the error that is allowed."""

    name: str
    function: Callable
    bound: float
    gpu_bound: float
    gpu_only: bool
    kernels: tuple
    """The modules whose compiled code runs for it on a CPU."""


def component(name, *, bound=FORWARD, gpu_bound=None, gpu_only=False, kernels=(), needs=None):
    """Registers a component; ``kernels`` are the modules whose compiled code runs for it on a CPU.

    ``needs`` is the path of a file in site-packages: without this file the release has no such function.
    """

    def register(function):
        if needs is not None and not any(Path(folder, needs).is_file() for folder in sys.path):
            return function
        ALL.append(Component(name, function, bound, gpu_bound or bound, gpu_only, kernels))
        return function

    return register


@contextlib.contextmanager
def computing_on(device):
    """The packages compute on ``device`` meanwhile."""
    global DEVICE  # noqa: PLW0603 - one setting of one script
    before, DEVICE = DEVICE, device
    try:
        yield
    finally:
        DEVICE = before


def tensors(seed, **shapes):
    """Random float32 tensors by name, with gradients; ``A`` negative."""
    generator = torch.Generator().manual_seed(seed)
    values = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {
        name: (-value.abs() - 0.1 if name == "A" else value).to(DEVICE).requires_grad_()
        for name, value in values.items()
    }


def doubled(values):
    return {name: ref.exact(value).requires_grad_() for name, value in values.items()}


def gradients(out, values):
    """Gradients of a fixed weighted sum of ``out`` with respect to every tensor, in order of names."""
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).reshape(out.shape)
    return list(torch.autograd.grad((out * weights).sum(), [values[name] for name in sorted(values)]))


# causal-conv1d ---------------------------------------------------------------------------------------


def conv_inputs():
    v = tensors(1, x=(2, 32, 64), weight=(32, 4), bias=(32,))
    return v, doubled(v)


@component("causal_conv1d_fn", kernels=CONV)
def conv_forward():
    from causal_conv1d import causal_conv1d_fn

    v, r = conv_inputs()
    return [v["x"]], [causal_conv1d_fn(**v, activation="silu")], [ref.conv(**r)]


@component("causal_conv1d_fn backward", bound=BACKWARD, kernels=CONV)
def conv_backward():
    from causal_conv1d import causal_conv1d_fn

    v, r = conv_inputs()
    return [v["x"]], gradients(causal_conv1d_fn(**v, activation="silu"), v), gradients(ref.conv(**r), r)


@component("causal_conv1d_fn, packed", bound=BACKWARD, kernels=CONV)
def conv_packed():
    """Two sequences in each row, the first with states. CUDA code takes states and seq_idx since 1.7."""
    import causal_conv1d

    v, r = conv_inputs()
    if DEVICE == "cpu" or tuple(map(int, causal_conv1d.__version__.split(".")[:2])) >= (1, 7):
        v |= tensors(2, initial_states=(2, 32, 3))
        r = doubled(v)
    index = torch.tensor([[4] * 21 + [7] * 43, [0] * 21 + [1] * 43], dtype=torch.int32, device=DEVICE)
    x = v["x"].mT.contiguous().mT  # CUDA code takes seq_idx with the channels innermost
    out = causal_conv1d.causal_conv1d_fn(**(v | {"x": x}), seq_idx=index, activation="silu")
    first = torch.cat([r.get("initial_states", torch.zeros(2, 32, 3)), r["x"][..., :21]], dim=-1)
    parts = [ref.conv(part, r["weight"], r["bias"]) for part in (first, r["x"][..., 21:])]
    expected = torch.cat([parts[0][..., 3:], parts[1]], dim=-1)
    return [x], [out, *gradients(out, v)], [expected, *gradients(expected, r)]


@component("causal_conv1d_update", kernels=CONV)
def conv_update():
    from causal_conv1d import causal_conv1d_update

    v, r = conv_inputs()
    x, state = v["x"].detach(), torch.zeros(2, 32, 4, device=DEVICE)
    weight, bias = v["weight"].detach(), v["bias"].detach()
    out = [causal_conv1d_update(x[..., t].contiguous(), state, weight, bias, "silu") for t in range(12)]
    return [x[..., 0], state], [torch.stack(out, -1), state], [ref.conv(**r)[..., :12], r["x"][..., 8:12]]


@component("causal_conv1d_varlen_states")
def conv_varlen():
    from causal_conv1d.causal_conv1d_varlen import causal_conv1d_varlen_states

    x = tensors(1, x=(9, 5))["x"].detach()
    ends = torch.tensor([0, 2, 2, 9], device=DEVICE)
    states = torch.zeros(3, 5, 4, dtype=torch.float64)
    states[0, :, 2:], states[2] = ref.exact(x[0:2]).T, ref.exact(x[5:9]).T
    return [x], [causal_conv1d_varlen_states(x, ends, 4)], [states]


# mamba-ssm: functions --------------------------------------------------------------------------------


def scan_inputs(groups=None):
    shape = (2, 16, 64) if groups is None else (2, groups, 16, 64)
    v = tensors(
        2, u=(2, 32, 64), delta=(2, 32, 64), A=(32, 16), B=shape, C=shape, D=(32,), z=(2, 32, 64),
        delta_bias=(32,),
    )  # fmt: skip
    return v, doubled(v)


@component("selective_scan_fn", kernels=SCAN)
def scan_forward():
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    v, r = scan_inputs()
    out = selective_scan_fn(**v, delta_softplus=True, return_last_state=True)
    return [v["u"], v["A"]], list(out), list(ref.scan(**r))


@component("selective_scan_fn, 2 threads", kernels=SCAN)
def scan_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        return scan_forward()
    finally:
        torch.set_num_threads(before)


@component("selective_scan_fn backward", bound=BACKWARD, kernels=SCAN)
def scan_backward():
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    v, r = scan_inputs(groups=2)
    out = selective_scan_fn(**v, delta_softplus=True)
    return [v["u"], v["B"]], gradients(out, v), gradients(ref.scan(**r)[0], r)


@component("selective_scan_cuda_core", kernels=SCAN)
def scan_core():
    import selective_scan_cuda_core

    v, r = scan_inputs(groups=4)
    v.pop("z"), r.pop("z")
    args = [v[name].detach() for name in ("u", "delta", "A", "B", "C", "D", "delta_bias")]
    out, state = selective_scan_cuda_core.fwd(*args, True, 1)
    expected = ref.scan(**r)[0]
    dout = torch.linspace(-1, 1, out.numel(), device=DEVICE).reshape(out.shape)
    grads = selective_scan_cuda_core.bwd(*args, dout, state, True, 1)
    names = ("u", "delta", "A", "B", "C", "D", "delta_bias")
    wanted = torch.autograd.grad(expected, [r[name] for name in names], ref.exact(dout))
    return [v["u"], v["B"]], [out, *grads], [expected, *wanted]


@component("selective_scan_cuda_core, Mamba-YOLO's", gpu_only=True, bound=BACKWARD)
def scan_core_on_maps():
    """Maps of (2, 64, 32, 32), read in four directions: four groups of 64 channels over 1024 steps."""
    import selective_scan_cuda_core

    length, channels = 32 * 32, 4 * 64
    v = tensors(
        9, u=(2, channels, length), delta=(2, channels, length), A=(channels, 16), B=(2, 4, 16, length),
        C=(2, 4, 16, length), D=(channels,), delta_bias=(channels,),
    )  # fmt: skip
    args = [value.detach() for value in v.values()]
    out = selective_scan_cuda_core.fwd(*args, True, 1)[0]
    return [v["u"], v["B"]], [out], [ref.scan(**doubled(v))[0]]


def inner_inputs():
    v = tensors(
        3, xz=(2, 64, 40), conv_weight=(32, 1, 4), conv_bias=(32,), x_proj=(2 + 2 * 8, 32), dt_proj=(32, 2),
        out_proj=(16, 32), A=(32, 8), D=(32,), dt_bias=(32,),
    )  # fmt: skip
    v = {name: (0.3 * x.detach()).requires_grad_() if "proj" in name else x for name, x in v.items()}
    return v, doubled(v)


def inner_result(v):
    from mamba_ssm.ops.selective_scan_interface import mamba_inner_fn

    return mamba_inner_fn(
        v["xz"], v["conv_weight"], v["conv_bias"], v["x_proj"], v["dt_proj"], v["out_proj"], None,
        v["A"], None, None, v["D"], delta_bias=v["dt_bias"], delta_softplus=True,
    )  # fmt: skip


def inner_reference(r):
    rest = {name: value for name, value in r.items() if name != "out_proj"}
    return ref.inner(**rest).transpose(1, 2) @ r["out_proj"].T


@component("mamba_inner_fn", kernels=CONV + SCAN)
def inner_forward():
    v, r = inner_inputs()
    return [v["xz"]], [inner_result(v)], [inner_reference(r)]


@component("mamba_inner_fn backward", bound=BACKWARD, kernels=CONV + SCAN)
def inner_backward():
    v, r = inner_inputs()
    return [v["xz"]], gradients(inner_result(v), v), gradients(inner_reference(r), r)


@component("selective_state_update", kernels=SCAN)
def state_update():
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update

    v = tensors(
        7, state=(2, 32, 16), x=(2, 32), dt=(2, 32), A=(32, 16), B=(2, 16), C=(2, 16), D=(32,), z=(2, 32),
        dt_bias=(32,),
    )  # fmt: skip
    v = {name: value.detach() for name, value in v.items()}
    expected, state = ref.state_update(**{name: ref.exact(value) for name, value in v.items()})
    out = selective_state_update(**v, dt_softplus=True)
    return [v["state"], v["x"]], [out, v["state"]], [expected, state]


def chunk_inputs():
    v = tensors(
        8, x=(2, 40, 4, 8), dt=(2, 40, 4), A=(4,), B=(2, 40, 2, 16), C=(2, 40, 2, 16), D=(4,), dt_bias=(4,)
    )
    return v, doubled(v)


def chunk_result(v):
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return mamba_chunk_scan_combined(
        v["x"], v["dt"], v["A"], v["B"], v["C"], 16, D=v["D"], dt_bias=v["dt_bias"], dt_softplus=True,
        return_final_states=True,
    )  # fmt: skip


@component("mamba_chunk_scan_combined", gpu_bound=HALF, kernels=SCAN)
def chunk_forward():
    v, r = chunk_inputs()
    with torch.no_grad():
        out = list(chunk_result(v))
    return [v["x"], v["B"]], out, list(ref.chunk_scan(**r))


@component("mamba_chunk_scan_combined backward", bound=BACKWARD, gpu_bound=HALF)
def chunk_backward():
    v, r = chunk_inputs()
    return [v["x"], v["B"]], gradients(chunk_result(v)[0], v), gradients(ref.chunk_scan(**r)[0], r)


def mamba3_inputs(rank=1):
    shapes = {
        "q": (2, 40, rank, 2, 16), "k": (2, 40, rank, 2, 16), "v": (2, 40, 4, 8), "A": (2, 4, 40),
        "dt": (2, 4, 40), "trap": (2, 4, 40), "q_bias": (4, rank, 16), "k_bias": (4, rank, 16),
        "angles": (2, 40, 4, 4), "D": (4,), "z": (2, 40, 4, 8),
    }  # fmt: skip
    if rank > 1:
        shapes |= dict.fromkeys(("mimo_v", "mimo_z", "mimo_out"), (4, rank, 8))
    v = tensors(9, **shapes)
    v["dt"] = (v["dt"].detach().abs() * 0.3).requires_grad_()
    return v, doubled(v)


def mamba3_result(v):
    from mamba_ssm.ops.triton.mamba3.mamba3_siso_combined import mamba3_siso_combined

    return mamba3_siso_combined(
        v["q"].squeeze(2), v["k"].squeeze(2), v["v"], v["A"], v["dt"], v["trap"], v["q_bias"].squeeze(1),
        v["k_bias"].squeeze(1), v["angles"], v["D"], v["z"], None, 16,
    )  # fmt: skip


@component("mamba3_siso_combined", gpu_bound=HALF, kernels=SCAN, needs=MAMBA3)
def mamba3_forward():
    v, r = mamba3_inputs()
    with torch.no_grad():
        out = mamba3_result(v)
    return [v["v"], v["q"]], [out], [ref.mamba3(**r)]


@component("mamba3_siso_combined backward", bound=BACKWARD, gpu_bound=HALF, kernels=SCAN, needs=MAMBA3)
def mamba3_backward():
    v, r = mamba3_inputs()
    return [v["v"], v["q"]], gradients(mamba3_result(v), v), gradients(ref.mamba3(**r), r)


@component("mamba3_mimo", gpu_bound=HALF, kernels=SCAN, needs=MAMBA3)
def mamba3_mimo():
    from mamba_ssm.ops.tilelang.mamba3.mamba3_mimo import mamba3_mimo

    v, r = mamba3_inputs(rank=2)
    with torch.no_grad():
        out = mamba3_mimo(
            v["q"], v["k"], v["v"], v["A"], v["dt"], v["trap"], v["q_bias"], v["k_bias"], v["mimo_v"],
            v["mimo_z"], v["mimo_out"], v["angles"], v["D"], v["z"], 16, 4, v["v"].dtype,
        )  # fmt: skip
    return [v["v"], v["q"]], [out], [ref.mamba3(**r)]


@component("Mamba3 step", kernels=SCAN, needs=MAMBA3)
def mamba3_step():
    """Steps of a module are the whole, whose scan the rows above hold against the recurrence."""
    from mamba_ssm.modules.mamba3 import Mamba3
    from mamba_ssm.utils.generation import InferenceParams

    layer = seeded(lambda: Mamba3(32, d_state=16, headdim=8, ngroups=2, chunk_size=16, layer_idx=0))
    hidden, rows = hidden_states(length=12)[0]["hidden"], []
    cache = InferenceParams(hidden.shape[1], hidden.shape[0])
    with torch.no_grad():
        for t in range(hidden.shape[1]):
            cache.seqlen_offset = t
            rows.append(layer(hidden[:, t : t + 1], inference_params=cache))
        return [hidden], [torch.cat(rows, 1)], [ref.exact(layer(hidden))]


@component("layer_norm_fn, rms_norm_fn", kernels=SCAN)
def norms():
    from mamba_ssm.ops.triton.layer_norm import layer_norm_fn, rms_norm_fn

    v = tensors(6, x=(2, 64, 24), residual=(2, 64, 24), weight=(24,), bias=(24,))
    r = doubled(v)
    with torch.no_grad():
        out, residual = layer_norm_fn(
            v["x"], v["weight"], v["bias"], residual=v["residual"], prenorm=True, eps=1e-5
        )
        plain = rms_norm_fn(v["x"], v["weight"], None, eps=1e-5)
    total = r["x"] + r["residual"]
    expected = [ref.layer_norm(total, r["weight"], r["bias"]), total, ref.rms_norm(r["x"], r["weight"])]
    return [v["x"]], [out, residual, plain], expected


@component("rmsnorm_fn, gated", kernels=SCAN)
def gated_norm():
    from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn

    v = tensors(6, x=(2, 64, 24), z=(2, 64, 24), weight=(24,))
    r = doubled(v)
    with torch.no_grad():
        out = rmsnorm_fn(v["x"], v["weight"], None, z=v["z"], eps=1e-5, norm_before_gate=False)
    return [v["x"]], [out], [ref.rms_norm(r["x"] * ref.silu(r["z"]), r["weight"])]


# mamba-ssm: modules ----------------------------------------------------------------------------------


def hidden_states(length=40, width=32):
    v = tensors(5, hidden=(2, length, width))
    return v, doubled(v)


def seeded(make):
    torch.manual_seed(4)
    return make().to(DEVICE)


def mamba_block(**options):
    from mamba_ssm import Mamba

    return seeded(lambda: Mamba(d_model=32, layer_idx=0, **options))


def mamba2_block():
    from mamba_ssm import Mamba2

    return seeded(lambda: Mamba2(d_model=32, d_state=16, headdim=8, chunk_size=16, layer_idx=0))


def steps(layer, hidden, count=10):
    """The outputs of ``count`` single steps, side by side."""
    conv_state, ssm_state = layer.allocate_inference_cache(hidden.shape[0], count)
    rows = [layer.step(hidden[:, t : t + 1], conv_state, ssm_state)[0] for t in range(count)]
    return torch.cat(rows, 1)


@component("Mamba", kernels=SCAN)
def mamba_forward():
    layer, (v, r) = mamba_block(), hidden_states()
    with torch.no_grad():
        return [v["hidden"]], [layer(v["hidden"])], [ref.mamba(layer, r["hidden"])]


@component("Mamba, half", bound=HALF, kernels=CONV + SCAN)
def mamba_half():
    from mamba_ssm import Mamba

    layer = seeded(lambda: Mamba(d_model=64, layer_idx=0)).half()
    hidden = tensors(5, hidden=(2, 32, 64))["hidden"].detach().half()
    with torch.no_grad():
        return [hidden], [layer(hidden)], [ref.mamba(layer, ref.exact(hidden))]


@component("Mamba backward", bound=BACKWARD, kernels=CONV + SCAN)
def mamba_backward():
    layer, (v, r) = mamba_block(), hidden_states()
    return (
        [v["hidden"]],
        gradients(layer(v["hidden"]), v),
        gradients(ref.mamba(layer, r["hidden"]), r),
    )


@component("Mamba step", kernels=CONV + SCAN)
def mamba_step():
    layer, (v, r) = mamba_block(), hidden_states(10)
    with torch.no_grad():
        return [v["hidden"]], [steps(layer, v["hidden"])], [ref.mamba(layer, r["hidden"])]


@component("Mamba, Vision Mamba's v2", kernels=SCAN)
def vision_forward():
    layer, (v, r) = mamba_block(bimamba_type="v2", if_divide_out=True), hidden_states()
    with torch.no_grad():
        return [v["hidden"]], [layer(v["hidden"])], [ref.vision_mamba(layer, r["hidden"])]


@component("Mamba2", gpu_bound=HALF, kernels=CONV + SCAN)
def mamba2_forward():
    layer, (v, r) = mamba2_block(), hidden_states()
    with torch.no_grad():
        return [v["hidden"]], [layer(v["hidden"])], [ref.mamba2(layer, r["hidden"])]


@component("Mamba2 step", kernels=CONV + SCAN)
def mamba2_step():
    layer, (v, r) = mamba2_block(), hidden_states(10)
    with torch.no_grad():
        return [v["hidden"]], [steps(layer, v["hidden"])], [ref.mamba2(layer, r["hidden"])]


def language_model():
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    config = MambaConfig(d_model=32, n_layer=2, vocab_size=64, rms_norm=True, fused_add_norm=True)
    return seeded(lambda: MambaLMHeadModel(config).eval())


@component("MambaLMHeadModel", kernels=SCAN)
def model_forward():
    model, tokens = language_model(), torch.arange(30, device=DEVICE).reshape(2, 15) % 64
    with torch.no_grad():
        return [tokens], [model(tokens).logits], [ref.language_model(model, tokens)]


@component("MambaLMHeadModel generate", kernels=CONV + SCAN)
def model_generate():
    model, tokens = language_model(), torch.arange(8, device=DEVICE).reshape(2, 4)
    found = model.generate(tokens, max_length=9)
    expected = tokens
    for _ in range(5):
        following = ref.language_model(model, expected)[:, -1].argmax(-1)
        expected = torch.cat([expected, following[:, None]], 1)
    return [tokens], [found], [expected]
