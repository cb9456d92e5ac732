"""What the functions under test should give, written from their definitions, in float64, one step at a time.

Nothing here calls the packages under test, and nothing is fast. All of it is differentiable.
"""

from __future__ import annotations

import math

import torch

# The largest error allowed, relative to the largest value of the result. The 16-bit ones are about one unit
# in the last place: results are computed in float32 and rounded once.
TOLERANCE = {
    torch.float64: 1e-11,
    torch.float32: 4e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
    torch.complex64: 4e-6,
    torch.complex128: 1e-11,
}


def assert_close(actual, expected, loose=1.0):
    """`actual`, in any dtype, against `expected` in float64; `loose` widens where intermediates round."""
    assert actual.shape == expected.shape
    tolerance = TOLERANCE[actual.dtype] * loose
    wide = torch.complex128 if actual.is_complex() else torch.float64
    scale = max(1e-3, expected.detach().abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(
        actual.detach().to(wide), expected.detach().to(wide), rtol=tolerance, atol=tolerance * scale
    )


def double(*tensors):
    """Leaves in float64 with the same values, which gather gradients."""
    out = []
    for t in tensors:
        wide = None if t is None else t.detach().to(torch.complex128 if t.is_complex() else torch.float64)
        out.append(wide if wide is None else wide.requires_grad_())
    return out[0] if len(out) == 1 else out


def compare_gradients(out, tensors, expected, references, loose=1.0, weight_dtype=None):
    """Both results are weighed with the same random numbers and differentiated."""
    weight = torch.randn(out.shape).to(weight_dtype or out.dtype).to(out.dtype)
    expected.backward(weight.to(expected.dtype))
    out.backward(weight)
    for tensor, reference in zip(tensors, references, strict=True):
        if tensor is not None:
            assert tensor.grad is not None
            assert tensor.grad.dtype == tensor.dtype
            assert_close(tensor.grad, reference.grad, loose)


def causal_conv1d(x, weight, bias=None, seq_idx=None, initial_states=None, activation=None):
    """out, and the last width - 1 inputs."""
    batch, dim, seqlen = x.shape
    width = weight.shape[1]
    before = x.new_zeros(batch, dim, width - 1) if initial_states is None else initial_states
    line = torch.cat([before, x], dim=2)
    columns = []
    for t in range(seqlen):
        column = x.new_zeros(batch, dim) if bias is None else bias.expand(batch, dim)
        for w in range(width):
            term = weight[:, w] * line[:, :, t + w]
            source = t + w - (width - 1)
            if seq_idx is not None:
                index = seq_idx[:, max(source, 0)]  # initial states are of the sequence of the first step
                if source < 0 and initial_states is None:
                    index = torch.full_like(index, -1)
                term = torch.where((index == seq_idx[:, t])[:, None], term, 0.0)
            column = column + term
        if activation is not None:
            column = column * torch.sigmoid(column)
        if seq_idx is not None:
            column = torch.where(seq_idx[:, t, None] < 0, 0.0, column)
        columns.append(column)
    return torch.stack(columns, dim=2), line[:, :, seqlen:]


def softplus(x):
    return torch.log1p(torch.exp(-x.abs())) + x.clamp(min=0)


def silu(x):
    return x * torch.sigmoid(x)


def selective_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """out and the last state; channel d belongs to group d // (dim / groups)."""
    batch, dim, seqlen = u.shape
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = softplus(delta)

    def coefficient(t, step):
        if t.dim() == 2:
            return t[None]
        t = t[:, None] if t.dim() == 3 else t
        groups = t.shape[1]
        value = torch.complex(t[..., 2 * step], t[..., 2 * step + 1]) if A.is_complex() else t[..., step]
        return value[:, [d // (dim // groups) for d in range(dim)]]

    state = torch.zeros(batch, dim, A.shape[1], dtype=A.dtype)
    columns = []
    for step in range(seqlen):
        dt = delta[:, :, step, None]
        state = torch.exp(dt * A) * state + dt * coefficient(B, step) * u[:, :, step, None]
        y = (state * coefficient(C, step)).sum(-1)
        columns.append(2 * y.real if A.is_complex() else y)
    out = torch.stack(columns, dim=2)
    if D is not None:
        out = out + D[:, None] * u
    if z is not None:
        out = out * silu(z)
    return out, state


def ssd(x, dt, A, B, C, D=None, z=None, dt_bias=None, initial_states=None, seq_idx=None, dt_softplus=False,
        dt_limit=(0.0, math.inf)):  # fmt: skip
    """out, and the state after each step: (batch, seqlen, nheads, headdim, dstate)."""
    batch, seqlen, nheads, headdim = x.shape
    group = [h // (nheads // B.shape[2]) for h in range(nheads)]
    B, C = B[:, :, group], C[:, :, group]
    if dt_bias is not None:
        dt = dt + dt_bias
    if dt_softplus:
        dt = softplus(dt)
    dt = dt.clamp(*dt_limit)
    state = x.new_zeros(batch, nheads, headdim, B.shape[3]) if initial_states is None else initial_states
    number = torch.zeros(batch, dtype=torch.long)
    rows, states = [], []
    for t in range(seqlen):
        if (
            seq_idx is not None
        ):  # another sequence begins with nothing; the initial states are those of number 0
            state = torch.where((seq_idx[:, t] == number)[:, None, None, None], state, 0.0)
            number = seq_idx[:, t]
        step = dt[:, t]
        state = torch.exp(step * A)[:, :, None, None] * state
        state = state + step[:, :, None, None] * x[:, t, :, :, None] * B[:, t, :, None, :]
        y = (state * C[:, t, :, None, :]).sum(-1)
        if D is not None:
            y = y + (D if D.dim() == 2 else D[:, None]) * x[:, t]
        rows.append(y)
        states.append(state)
    out = torch.stack(rows, dim=1)
    return (out if z is None else out * silu(z)), torch.stack(states, dim=1)


def norm(x, weight, bias=None, eps=1e-6, rms=True, group_size=None):
    groups = x.unflatten(-1, (-1, group_size or x.shape[-1]))
    if not rms:
        groups = groups - groups.mean(-1, keepdim=True)
    groups = groups / torch.sqrt((groups**2).mean(-1, keepdim=True) + eps)
    out = groups.flatten(-2) * weight
    return out if bias is None else out + bias


def gated_norm(x, weight, bias=None, z=None, eps=1e-6, group_size=None, norm_before_gate=True, rms=True):
    if z is not None and not norm_before_gate:
        x = x * silu(z)
    out = norm(x, weight, bias, eps, rms, group_size)
    return out * silu(z) if z is not None and norm_before_gate else out


# The modules, from their parameters alone. `p` gives a parameter by name, in float64.


def parameters(module):
    """A module's parameters in float64, by name."""
    return {name: value.detach().double() for name, value in module.named_parameters()}


def inside(p, prefix):
    """Those whose names begin with this prefix, without it."""
    return {name[len(prefix) :]: value for name, value in p.items() if name.startswith(prefix)}


def linear(x, p, name):
    out = x @ p[f"{name}.weight"].t()
    return out + p[f"{name}.bias"] if f"{name}.bias" in p else out


def mamba_direction(xz, p, suffix=""):
    """One direction of Mamba over xz, (batch, seqlen, 2 * d_inner); `suffix` names the parameters' copy."""
    x, z = xz.chunk(2, dim=-1)
    weight, bias = p[f"conv1d{suffix}.weight"][:, 0], p.get(f"conv1d{suffix}.bias")
    x = causal_conv1d(x.transpose(1, 2), weight, bias, activation="silu")[0]
    A = -torch.exp(p[f"A{suffix}_log"])
    dt_weight = p[f"dt_proj{suffix}.weight"]
    parts = linear(x.transpose(1, 2), p, f"x_proj{suffix}")
    dt, B, C = parts.split([dt_weight.shape[1], A.shape[1], A.shape[1]], dim=-1)
    delta = (dt @ dt_weight.t()).transpose(1, 2)
    out, _ = selective_scan(
        x, delta, A, B.transpose(1, 2), C.transpose(1, 2), p[f"D{suffix}"],
        z.transpose(1, 2), p[f"dt_proj{suffix}.bias"], True,
    )  # fmt: skip
    return out.transpose(1, 2)


def mamba(x, p):
    return linear(mamba_direction(linear(x, p, "in_proj"), p), p, "out_proj")


def bimamba_v2(x, p, divide=False):
    xz = linear(x, p, "in_proj")
    out = mamba_direction(xz, p) + mamba_direction(xz.flip(1), p, "_b").flip(1)
    return linear(out / 2 if divide else out, p, "out_proj")


def bimamba_v3(x, p, nslices):
    """bimamba_v2, and a direction through the first step of every slice, then the second, and so on."""
    xz = linear(x, p, "in_proj")
    length = x.shape[1] // nslices
    order = [piece * length + step for step in range(length) for piece in range(nslices)]
    crossed = mamba_direction(xz[:, order], p, "_s")
    back = [order.index(place) for place in range(x.shape[1])]
    out = mamba_direction(xz, p) + mamba_direction(xz.flip(1), p, "_b").flip(1) + crossed[:, back]
    return linear(out, p, "out_proj")


def bimamba_v1(x, p):
    """The convolution looks forward only; what is scanned backward is its result."""
    x, z = linear(x, p, "in_proj").chunk(2, dim=-1)
    x = causal_conv1d(x.transpose(1, 2), p["conv1d.weight"][:, 0], p.get("conv1d.bias"), activation="silu")[0]
    n, rank = p["A_log"].shape[1], p["dt_proj.weight"].shape[1]
    dt, B, C = linear(x.transpose(1, 2), p, "x_proj").split([rank, n, n], dim=-1)
    delta = (dt @ p["dt_proj.weight"].t()).transpose(1, 2)
    inputs = [x, delta, B.transpose(1, 2), C.transpose(1, 2), z.transpose(1, 2)]

    def scan(A_log, u, delta, B, C, z):
        return selective_scan(u, delta, -torch.exp(A_log), B, C, p["D"], z, p["dt_proj.bias"], True)[0]

    out = scan(p["A_log"], *inputs) + scan(p["A_b_log"], *[t.flip(-1) for t in inputs]).flip(-1)
    return linear(out.transpose(1, 2), p, "out_proj")


def mamba2(
    u,
    p,
    headdim,
    ngroups=1,
    rmsnorm=True,
    norm_before_gate=False,
    seq_idx=None,
    dt_limit=(0.0, math.inf),
    initial_states=None,
):
    """Mamba2 and Mamba2Simple."""
    heads = p["dt_bias"].shape[0]
    dim = heads * headdim
    zxbcdt = linear(u, p, "in_proj")
    dstate = (p["conv1d.weight"].shape[0] - dim) // ngroups // 2
    extra = (zxbcdt.shape[-1] - 2 * dim - 2 * ngroups * dstate - heads) // 2
    z0, x0, z, xBC, dt = zxbcdt.split([extra, extra, dim, dim + 2 * ngroups * dstate, heads], dim=-1)
    xBC = causal_conv1d(
        xBC.transpose(1, 2), p["conv1d.weight"][:, 0], p.get("conv1d.bias"), seq_idx, activation="silu"
    )[0].transpose(1, 2)
    x, B, C = xBC.split([dim, ngroups * dstate, ngroups * dstate], dim=-1)
    D = p["D"] if p["D"].numel() == heads else p["D"].unflatten(0, (heads, headdim))
    heads_of_z = z.unflatten(-1, (heads, headdim))
    out, _ = ssd(
        x.unflatten(-1, (heads, headdim)), dt, -torch.exp(p["A_log"]),
        B.unflatten(-1, (ngroups, dstate)), C.unflatten(-1, (ngroups, dstate)), D,
        None if rmsnorm else heads_of_z, p["dt_bias"], initial_states, seq_idx, True, dt_limit,
    )  # fmt: skip
    out = out.flatten(2)
    if rmsnorm:
        out = gated_norm(out, p["norm.weight"], None, z, 1e-5, dim // ngroups, norm_before_gate)
    if extra:
        out = torch.cat([silu(z0) * x0, out], dim=-1)
    return linear(out, p, "out_proj")


def attention(
    x,
    p,
    num_heads,
    num_heads_kv=None,
    causal=True,
    rotary_dim=0,
    interleaved=False,
    scale=None,
    mlp_dim=0,
):
    """MHA, with its gated MLP beside it."""
    kv_heads = num_heads_kv or num_heads
    qkv = linear(x, p, "in_proj")
    up, gate = qkv[..., qkv.shape[-1] - mlp_dim :].chunk(2, dim=-1)
    qkv = qkv[..., : qkv.shape[-1] - mlp_dim]
    if "conv1d.weight" in p:
        qkv = causal_conv1d(qkv.transpose(1, 2), p["conv1d.weight"][:, 0], p["conv1d.bias"])[0].transpose(
            1, 2
        )
    head_dim = qkv.shape[-1] // (num_heads + 2 * kv_heads)
    q, k, v = qkv.unflatten(-1, (-1, head_dim)).split([num_heads, kv_heads, kv_heads], dim=2)
    seqlen = x.shape[1]
    if rotary_dim:
        q, k = (rotate(t, rotary_dim, interleaved) for t in (q, k))
    k, v = (t[:, :, [h // (num_heads // kv_heads) for h in range(num_heads)]] for t in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * (scale or 1 / math.sqrt(head_dim))
    if causal:
        scores = scores.masked_fill(~torch.ones(seqlen, seqlen, dtype=torch.bool).tril(), -math.inf)
    out = torch.einsum("bhqk,bkhd->bqhd", torch.softmax(scores, dim=-1), v)
    return linear(torch.cat([out.flatten(2), up * silu(gate)], dim=-1), p, "out_proj")


def rotate(x, dim, interleaved, base=10000.0):
    """Each pair of features is a complex number, turned by its frequency times the position."""
    seqlen = x.shape[1]
    turned = x[..., :dim]
    pairs = (
        turned.unflatten(-1, (dim // 2, 2))
        if interleaved
        else turned.unflatten(-1, (2, dim // 2)).transpose(-1, -2)
    )
    frequency = base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angle = torch.arange(seqlen, dtype=torch.float64)[:, None] * frequency
    spun = torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angle), angle)[:, None]
    spun = torch.view_as_real(spun)
    flat = spun.flatten(-2) if interleaved else spun.transpose(-1, -2).flatten(-2)
    return torch.cat([flat, x[..., dim:]], dim=-1)


def vary(model):
    """Changes a MambaLMHeadModel in place so that faults show: norms and D are not 1, logits differ."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name or name.endswith(".D"):
                p.add_(0.2 * torch.randn_like(p))
        model.backbone.embedding.weight.mul_(20)  # otherwise all logits would be nearly alike
    return model.eval()


def lm_logits(ids, model, mixer):
    """MambaLMHeadModel with RMSNorm; `mixer(x, parameters, layer)` computes one layer's mixer."""
    p = parameters(model)
    hidden, residual = p["backbone.embedding.weight"][ids], 0.0
    for i in range(len(model.backbone.layers)):
        layer = inside(p, f"backbone.layers.{i}.")
        residual = residual + hidden
        hidden = mixer(norm(residual, layer["norm.weight"], eps=1e-5), inside(layer, "mixer."), i)
        if "norm2.weight" in layer:
            residual = residual + hidden
            y, gate = linear(norm(residual, layer["norm2.weight"], eps=1e-5), layer, "mlp.fc1").chunk(
                2, dim=-1
            )
            hidden = linear(y * silu(gate), layer, "mlp.fc2")
    hidden = norm(residual + hidden, p["backbone.norm_f.weight"], eps=1e-5)
    return hidden @ p["backbone.embedding.weight"].t()
