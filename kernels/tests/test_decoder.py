"""A language model's step in one call, beside its equations in double precision."""

from __future__ import annotations

import dataclasses

import decoder_inputs
import pytest
import reference
import selective_scan_cpu as kernels
import torch
from hypothesis import given
from hypothesis import strategies as st


def product(weights, x):
    return weights.values @ x + (0 if weights.bias is None else weights.bias)


def norm(layer, x):
    x = x if layer.rms else x - x.mean()
    x = x * (x.square().mean() + layer.eps).rsqrt() * layer.weight
    return x if layer.bias is None else x + layer.bias


def mamba2(layer, x):
    """The output, and the states after it, of a mixer in float64."""
    _, heads, head_dim, dstate = layer.state.shape
    inner, channels = heads * head_dim, len(layer.conv_weight)
    mlp = layer.out_proj.columns - inner
    gate, values, z, xBC, dt = product(layer.in_proj, x).split([mlp, mlp, inner, channels, heads])
    conv_state = torch.cat([layer.conv_state[0, :, 1:], xBC[:, None]], 1)
    u = (conv_state * layer.conv_weight[:, 0]).sum(1) + (0 if layer.conv_bias is None else layer.conv_bias)
    v, B, C = reference.silu(u).split([inner, *[(channels - inner) // 2] * 2])
    v = v.view(heads, head_dim)
    B, C = (t.view(-1, dstate).repeat_interleave(heads * dstate // len(t), 0)[:, None] for t in (B, C))
    dt = reference.softplus(dt + layer.dt_bias).clamp(*layer.dt_limit)[:, None, None]
    h = torch.exp(-dt * layer.A_log.exp()[:, None, None]) * layer.state[0] + dt * B * v[..., None]
    y = ((h * C).sum(-1) + layer.D.view(heads, -1) * v).flatten()
    if layer.norm is None or layer.gate == "before":
        y = y * reference.silu(z)
    if layer.norm is not None:
        one = dataclasses.replace(layer.norm, weight=torch.ones(()), bias=None)
        y = torch.cat([norm(one, part) for part in y.split(layer.norm_group)]) * layer.norm.weight
        y = y if layer.norm.bias is None else y + layer.norm.bias
        y = y * reference.silu(z) if layer.gate == "after" else y
    return product(layer.out_proj, torch.cat([reference.silu(gate) * values, y])), conv_state[None], h[None]


def close(found, wanted):
    return (found.double() - wanted).abs().max().item() <= 2e-5 * max(1.0, wanted.abs().max().item())


@given(
    features=st.integers(1, 70),
    heads=st.sampled_from([1, 3, 4, 6]),
    groups=st.sampled_from([1, 2, 3]),
    head_dim=st.integers(1, 20),
    dstate=st.integers(1, 40) | st.sampled_from([16, 32, 64]),
    mlp=st.integers(0, 30),
    width=st.integers(2, 5),
    options=st.fixed_dictionaries(
        {
            "norm": st.booleans(),
            "gate": st.sampled_from(["before", "after"]),
            "biases": st.booleans(),
            "by_feature": st.booleans(),
            "dt_limit": st.sampled_from([(0.0, float("inf")), (0.1, 0.6)]),
            "adjacent": st.sampled_from([1, 2]),
        }
    ),
    seed=st.integers(0, 2**16),
)
def test_mamba2(features, heads, groups, head_dim, dstate, mlp, width, options, seed):
    model = decoder_inputs.Model(features, seed=seed)
    groups = groups if heads % groups == 0 else 1
    mixer = model.mamba2(heads, head_dim, dstate, groups, mlp, width, norm_groups=groups, **options)
    first, last = model.norm(features, rms=False, bias=True), model.norm(features)
    table, head = model.weights(7, features, False), model.weights(20, features)
    exact = decoder_inputs.in_float64(mixer)
    decoder = kernels.MambaDecoder(table, [kernels.Block(first, mixer)], last, head)
    for token in (6, 0):
        wide = table.values[token].double()
        out, *states = mamba2(exact, norm(decoder_inputs.in_float64(first), wide))
        exact = dataclasses.replace(exact, conv_state=states[0], state=states[1])
        wanted = product(decoder_inputs.in_float64(head), norm(decoder_inputs.in_float64(last), out + wide))
        assert close(decoder(token), wanted)
        assert all(map(close, mixer.states(), states))


@pytest.mark.parametrize("hidden", [1, 37, 64])
def test_gated_mlp(hidden):
    model = decoder_inputs.Model(20)
    blocks = [kernels.Block(model.norm(20), model.mlp(hidden)) for _ in range(2)]
    last, head, table = model.norm(20), model.weights(30, 20), model.weights(5, 20, False)
    x, residual = table.values[3].double(), 0
    for block in map(decoder_inputs.in_float64, blocks):
        residual = residual + x
        values, gate = product(block.mixer.in_proj, norm(block.norm, residual)).chunk(2)
        x = product(block.mixer.out_proj, values * reference.silu(gate))
    wanted = product(decoder_inputs.in_float64(head), norm(decoder_inputs.in_float64(last), residual + x))
    assert close(kernels.MambaDecoder(table, blocks, last, head)(3), wanted)


@pytest.mark.parametrize("bits", [32, 8, 4])
def test_threads_change_nothing(bits):
    found, before = [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(decoder_inputs.results(bits, features=200))
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, *found))


MISFITS = {
    "another shape of the state": {"state": torch.zeros(1, 6, 5, 9)},
    "axes of the state": {"state": torch.zeros(6, 5, 10)},
    "no state": {"state": None},
    "two sequences": {"conv_state": torch.zeros(2, 70, 4)},
    "another dtype": {"A_log": torch.zeros(6, dtype=torch.bfloat16)},
    "D of another size": {"D": torch.zeros(7)},
    "channels that are no groups": {"conv_weight": torch.zeros(71, 1, 4)},
    "groups of the norm": {"norm_group": 4},
    "a state with gaps": {"state": torch.zeros(1, 6, 5, 20)[..., ::2]},
    "a state that shares memory": {"conv_state": torch.zeros(1, 70, 1).expand(1, 70, 4)},
    "another dt_bias": {"dt_bias": torch.zeros(1)},
    "no weights for this size": {"out_proj": decoder_inputs.Model(20).weights(20, 38)},
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_it_refuses(misfit):
    model = decoder_inputs.Model(20)
    mixer = model.mamba2()
    table = model.weights(5, 20, False)
    kernels.MambaDecoder(table, [kernels.Block(model.norm(20), mixer)], model.norm(20), model.weights(9, 20))
    block = kernels.Block(model.norm(20), dataclasses.replace(mixer, **MISFITS[misfit]))
    with pytest.raises((ValueError, TypeError)):
        kernels.MambaDecoder(table, [block], model.norm(20), model.weights(9, 20))


@pytest.mark.parametrize("bits", [32, 8, 4])
@pytest.mark.parametrize("features", [8, 37, 64])
def test_each_row_of_the_embedding(bits, features):
    """One layer that adds nothing and a head of ones on the diagonal: the logits are the norm of the token's row."""
    model = decoder_inputs.Model(features, bits)
    table, plain = model.weights(35, features, False), decoder_inputs.Model(features)
    nothing = dataclasses.replace(plain.mlp(), out_proj=kernels.Weights(features, 37, torch.zeros(features, 37)))
    head, last = kernels.Weights(features, features, torch.eye(features)), plain.norm(features)
    decoder = kernels.MambaDecoder(table, [kernels.Block(plain.norm(features), nothing)], last, head)
    for token, row in enumerate(decoder_inputs.matrix(table)):
        assert close(decoder(token), norm(decoder_inputs.in_float64(last), row.double()))
    for token in (-1, 35):
        with pytest.raises(IndexError, match=f"token {token} is outside of the embedding, which has 35 rows"):
            decoder(token)


def test_an_embedding_that_does_not_fit():
    model = decoder_inputs.Model(20)
    blocks, last, head = [kernels.Block(model.norm(20), model.mlp())], model.norm(20), model.weights(9, 20)
    for table in (model.weights(5, 21, False), model.weights(5, 20), dataclasses.replace(head, rows=8, bias=None)):
        with pytest.raises((ValueError, TypeError)):
            kernels.MambaDecoder(table, blocks, last, head)
