"""A language model with its states as inputs and outputs: one graph reads a prompt, and decodes."""

import torch
from mamba_ssm.ops import exporting
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
from torch import nn


class Stateful(nn.Module):
    """A MambaLMHeadModel for torch.onnx.export alone, in which the mixers of the model are replaced.

    tokens: (batch, length), int64; states: for each block the last width - 1 inputs of its convolution,
    (batch, channels, width - 1), and the state of its scan; zeros before the first token
    plain: the projections are matrix products of ONNX, whose weights ONNX Runtime's quantizer makes int8
    A model of `mamba_ssm.utils.quantize` stays as it is, and its layers have an operator in the fused form.

    Returns the logits of the last token, (batch, vocabulary), and the states after that token.
    """

    def __init__(self, model, plain=False):
        super().__init__()
        self.model = model
        for block in model.backbone.layers:
            kind = Mixer2 if hasattr(block.mixer, "headdim") else Mixer1
            block.mixer = kind(block.mixer, plain)
        model.lm_head = Projection(model.lm_head, plain)

    def forward(self, tokens, *states):
        blocks = self.model.backbone.layers
        for block, conv_state, scan_state in zip(blocks, states[::2], states[1::2], strict=True):
            block.mixer.states = (conv_state, scan_state)
        logits = self.model(tokens, num_last_tokens=1).logits[:, 0]
        return logits, *(state for block in blocks for state in block.mixer.states)

    def first_states(self, batch):
        """The states before the first token, in the order of the arguments."""
        return [
            torch.zeros(batch, *shape) for block in self.model.backbone.layers for shape in block.mixer.shapes
        ]


class Projection(nn.Module):
    """A linear layer as the operator `Linear`. A quantized layer, and one that is `plain`, stays as it is."""

    def __init__(self, layer, plain):
        super().__init__()
        self.layer, self.plain = layer, plain

    def forward(self, x):
        if self.plain or not isinstance(self.layer, nn.Linear):
            return self.layer(x)
        return exporting.linear(x, self.layer.weight, self.layer.bias)


class Mixer1(nn.Module):
    """Mamba-1 from its states to its next states."""

    def __init__(self, mixer, plain):
        super().__init__()
        self.mixer, self.states = mixer, None
        self.in_proj, self.out_proj = (Projection(each, plain) for each in (mixer.in_proj, mixer.out_proj))
        self.x_proj = Projection(mixer.x_proj, plain)
        self.shapes = ((mixer.d_inner, mixer.d_conv - 1), (mixer.d_inner, mixer.d_state))

    def forward(self, hidden, inference_params=None):
        m = self.mixer
        out, *self.states = exporting.inner(
            self.in_proj(hidden),
            m.conv1d.weight.squeeze(1),
            m.conv1d.bias,
            m.x_proj.weight,
            m.dt_proj.weight,
            -torch.exp(m.A_log.float()),
            m.D.float(),
            m.dt_proj.bias.float(),
            conv_state=self.states[0],
            ssm_state=self.states[1],
            project=self.x_proj,
        )
        return self.out_proj(out)


class Mixer2(nn.Module):
    """Mamba-2 from its states to its next states."""

    def __init__(self, mixer, plain):
        super().__init__()
        self.mixer, self.states = mixer, None
        self.in_proj, self.out_proj = (Projection(each, plain) for each in (mixer.in_proj, mixer.out_proj))
        channels = mixer.d_ssm + 2 * mixer.ngroups * mixer.d_state
        self.shapes = ((channels, mixer.d_conv - 1), (mixer.nheads, mixer.headdim, mixer.d_state))

    def forward(self, hidden, inference_params=None):
        m, (conv_state, scan_state) = self.mixer, self.states
        projected = self.in_proj(hidden)
        z, dt = projected[..., : m.d_ssm], projected[..., -m.nheads :]
        xBC, conv_state = exporting.convolve(
            projected, m.d_ssm, m.conv1d.weight.squeeze(1), m.conv1d.bias, conv_state
        )
        x, B, C = xBC.split([m.d_ssm, m.ngroups * m.d_state, m.ngroups * m.d_state], dim=-1)
        y, scan_state = mamba_chunk_scan_combined(
            x.unflatten(-1, (m.nheads, m.headdim)),
            dt,
            -torch.exp(m.A_log.float()),
            B.unflatten(-1, (m.ngroups, m.d_state)),
            C.unflatten(-1, (m.ngroups, m.d_state)),
            chunk_size=m.chunk_size,
            D=m.D,
            dt_bias=m.dt_bias,
            initial_states=scan_state,
            dt_softplus=True,
            return_final_states=True,
        )
        self.states = (conv_state, scan_state)
        return self.out_proj(m.norm(y.flatten(2), z))


def decoded(model, first_tokens, next_tokens):
    """The logits after a prompt, and after more tokens one by one, by the model as it is without ONNX.

    first_tokens: (batch, length); next_tokens: (batch, steps)
    """
    from mamba_ssm.utils.generation import InferenceParams

    batch, length = first_tokens.shape
    params = InferenceParams(max_seqlen=length + next_tokens.shape[1], max_batch_size=batch)
    logits = [model(first_tokens, inference_params=params, num_last_tokens=1).logits[:, 0]]
    params.seqlen_offset = length
    for token in next_tokens.t():
        logits.append(model(token[:, None], inference_params=params, num_last_tokens=1).logits[:, 0])
        params.seqlen_offset += 1
    return logits
