"""What each component should give, step by step in float64, without a call into the packages under test.

Shapes: b batch, l time, d channels, n state, h heads, p head size, g groups of B and C.
"""

import torch


def exact(value):
    """A tensor of any device and dtype as float64 on the CPU."""
    return value.detach().cpu().double()


def silu(x):
    return x * torch.sigmoid(x)


def softplus(x):
    return torch.log1p(torch.exp(x))


def conv(x, weight, bias):
    """silu(bias + sum_k weight[:, k] x[t - width + 1 + k]); x (b, d, l), weight (d, width)."""
    width = weight.shape[1]
    out = bias[None, :, None].expand_as(x)
    for k in range(width):
        back = width - 1 - k
        shifted = torch.cat([torch.zeros_like(x[..., :back]), x[..., : x.shape[-1] - back]], dim=-1)
        out = out + weight[None, :, k, None] * shifted
    return silu(out)


def scan(u, delta, A, B, C, D, z=None, delta_bias=None):
    """h[t] = exp(dt A) h[t-1] + dt B[t] u[t]; y[t] = <h[t], C[t]> + D u[t], gated by silu(z).

    u, delta, z (b, d, l); A (d, n); B, C (b, n, l), or (b, g, n, l) where channel i reads group i // (d / g).
    Returns y (b, d, l) and the last h (b, d, n).
    """
    if B.dim() == 3:
        B, C = B[:, None], C[:, None]
    each = u.shape[1] // B.shape[1]
    B, C = B.repeat_interleave(each, dim=1), C.repeat_interleave(each, dim=1)
    dt = softplus(delta if delta_bias is None else delta + delta_bias[None, :, None])
    state = torch.zeros(u.shape[0], u.shape[1], A.shape[1], dtype=u.dtype)
    rows = []
    for t in range(u.shape[-1]):
        step = dt[:, :, t, None]
        state = torch.exp(step * A) * state + step * B[..., t] * u[:, :, t, None]
        rows.append((state * C[..., t]).sum(-1) + D * u[:, :, t])
    y = torch.stack(rows, dim=-1)
    return (y if z is None else y * silu(z)), state


def inner(xz, conv_weight, conv_bias, x_proj, dt_proj, A, D, dt_bias):
    """The inner part of a Mamba block without its output projection; xz (b, 2 d, l) -> (b, d, l)."""
    x, z = xz.chunk(2, dim=1)
    x = conv(x, conv_weight[:, 0], conv_bias)
    projected = x.transpose(1, 2) @ x_proj.T
    rank, state = dt_proj.shape[1], A.shape[1]
    delta = (projected[..., :rank] @ dt_proj.T).transpose(1, 2)
    B = projected[..., rank : rank + state].transpose(1, 2)
    C = projected[..., rank + state :].transpose(1, 2)
    return scan(x, delta, A, B, C, D, z, dt_bias)[0]


def parameters(module):
    return {name: exact(value) for name, value in module.named_parameters()}


def mamba(block, hidden):
    """A Mamba block; hidden (b, l, d_model)."""
    p = parameters(block)
    y = _direction(p, (hidden @ p["in_proj.weight"].T).transpose(1, 2), "", "A_log")
    return y.transpose(1, 2) @ p["out_proj.weight"].T


def vision_mamba(block, hidden):
    """A Mamba block of type v2: the sequence read both ways, the two averaged."""
    p = parameters(block)
    xz = (hidden @ p["in_proj.weight"].T).transpose(1, 2)
    there = _direction(p, xz, "", "A_log")
    back = _direction(p, xz.flip(-1), "_b", "A_b_log").flip(-1)
    return ((there + back) / 2).transpose(1, 2) @ p["out_proj.weight"].T


def _direction(p, xz, suffix, a_log):
    return inner(
        xz, p[f"conv1d{suffix}.weight"], p[f"conv1d{suffix}.bias"], p[f"x_proj{suffix}.weight"],
        p[f"dt_proj{suffix}.weight"], -p[a_log].exp(), p[f"D{suffix}"], p[f"dt_proj{suffix}.bias"],
    )  # fmt: skip


def rms_norm(x, weight, eps=1e-5):
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight


def layer_norm(x, weight, bias, eps=1e-5):
    centred = x - x.mean(-1, keepdim=True)
    return centred * (centred.square().mean(-1, keepdim=True) + eps).rsqrt() * weight + bias


def state_update(state, x, dt, A, B, C, D, z, dt_bias):
    """One step of the scan; state (b, d, n), x (b, d), B, C (b, n). Returns y and the new state."""
    dt = softplus(dt + dt_bias)[..., None]
    state = torch.exp(dt * A) * state + dt * B[:, None] * x[..., None]
    return ((state * C[:, None]).sum(-1) + D * x) * silu(z), state


def chunk_scan(x, dt, A, B, C, D, dt_bias):
    """Mamba-2's scan, one step after the other; x (b, l, h, p), dt (b, l, h), A (h,), B, C (b, l, g, n)."""
    each = x.shape[2] // B.shape[2]
    B, C = B.repeat_interleave(each, dim=2), C.repeat_interleave(each, dim=2)
    dt = softplus(dt + dt_bias)
    state = torch.zeros(x.shape[0], x.shape[2], x.shape[3], B.shape[3], dtype=x.dtype)
    rows = []
    for t in range(x.shape[1]):
        step = dt[:, t, :, None, None]
        state = torch.exp(step * A[:, None, None]) * state + step * x[:, t, ..., None] * B[:, t, :, None]
        rows.append((state * C[:, t, :, None]).sum(-1) + D[:, None] * x[:, t])
    return torch.stack(rows, dim=1), state


def mamba2(block, hidden):
    """A Mamba2 block; hidden (b, l, d_model)."""
    p = parameters(block)
    inside, state, heads = block.d_ssm, block.ngroups * block.d_state, block.nheads
    z, xbc, dt = (hidden @ p["in_proj.weight"].T).split([inside, inside + 2 * state, heads], dim=-1)
    xbc = conv(xbc.transpose(1, 2), p["conv1d.weight"][:, 0], p["conv1d.bias"]).transpose(1, 2)
    x, B, C = xbc.split([inside, state, state], dim=-1)
    batch, length = x.shape[:2]
    y, _ = chunk_scan(
        x.reshape(batch, length, heads, -1), dt, -p["A_log"].exp(),
        B.reshape(batch, length, block.ngroups, -1), C.reshape(batch, length, block.ngroups, -1),
        p["D"], p["dt_bias"],
    )  # fmt: skip
    gated = y.reshape(batch, length, inside) * silu(z)
    grouped = gated.reshape(batch, length, block.ngroups, -1)
    normed = grouped * (grouped.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    return (normed.reshape(batch, length, inside) * p["norm.weight"]) @ p["out_proj.weight"].T


def language_model(model, tokens):
    """Logits of a MambaLMHeadModel of Mamba blocks; tokens (b, l)."""
    embedding = exact(model.backbone.embedding.weight)
    residual = embedding[tokens.cpu()]
    for block in model.backbone.layers:
        residual = residual + mamba(block.mixer, rms_norm(residual, exact(block.norm.weight)))
    return rms_norm(residual, exact(model.backbone.norm_f.weight)) @ embedding.T


def rotate(x, angle, apart):
    """Turns pairs of elements of each row of x (b, r, h, n) by the angles (b, h, a).

    The elements of a pair are ``apart`` from each other: 0 and 1, 2 and 3, ..., or 0 and n / 2, ...
    """
    count = angle.shape[-1]
    first = torch.arange(count) * (2 if apart == 1 else 1)
    cos, sin = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    out = x.clone()
    out[..., first] = x[..., first] * cos - x[..., first + apart] * sin
    out[..., first + apart] = x[..., first] * sin + x[..., first + apart] * cos
    return out


def mamba3(q, k, v, A, dt, trap, q_bias, k_bias, angles, D, z, mimo_v=None, mimo_z=None, mimo_out=None):
    """Mamba-3's recurrence from zero states: a trapezoidal rule over this step's and the last step's k and v.

    With s = sigmoid(trap[t]) and k, q turned by the sum of pi tanh(angles) dt so far:
    h[t] = exp(A[t]) (h[t-1] + (1 - s) dt[t] v[t-1] k[t-1]) + s dt[t] v[t] k[t]; y[t] = <h[t], q[t]> + D v[t],
    gated by silu(z). Each of r ranks scales v by mimo_v, z by mimo_z; y is summed over ranks by mimo_out.

    q, k (b, l, r, g, n); v, z (b, l, h, p); A, dt, trap (b, h, l); q_bias, k_bias (h, r, n);
    angles (b, l, h, a); D (h,); mimo_v, mimo_z, mimo_out (h, r, p). Returns y (b, l, h, p).
    """
    batch, length, rank, groups, dstate = q.shape
    heads, size = v.shape[2:]
    q = q.repeat_interleave(heads // groups, dim=3) + q_bias.transpose(0, 1)
    k = k.repeat_interleave(heads // groups, dim=3) + k_bias.transpose(0, 1)
    scale = [
        torch.ones(heads, rank, size, dtype=v.dtype) if m is None else m for m in (mimo_v, mimo_z, mimo_out)
    ]
    wide_v, wide_z, wide_out = [m.transpose(0, 1) for m in scale]
    state = torch.zeros(batch, heads, size, dstate, dtype=v.dtype)
    last, angle = torch.zeros_like(state), torch.zeros(batch, heads, angles.shape[-1], dtype=v.dtype)
    apart = 1 if mimo_v is None else dstate // 2  # as upstream has them: SISO turns neighbours, MIMO halves
    rows = []
    for t in range(length):
        angle = angle + torch.pi * torch.tanh(angles[:, t]) * dt[:, :, t, None]
        values = v[:, t, None] * wide_v
        now = torch.einsum("brhp,brhn->bhpn", values, rotate(k[:, t], angle, apart))
        new = torch.sigmoid(trap[:, :, t]) * dt[:, :, t]
        state = state + (dt[:, :, t] - new)[..., None, None] * last
        state = torch.exp(A[:, :, t])[..., None, None] * state + new[..., None, None] * now
        y = torch.einsum("bhpn,brhn->brhp", state, rotate(q[:, t], angle, apart)) + D[:, None] * values
        rows.append((y * silu(z[:, t, None] * wide_z) * wide_out).sum(1))
        last = now
    return torch.stack(rows, dim=1)
