"""Rotary position embedding in plain PyTorch, used where flash_attn is not installed.

RotaryEmbedding has the constructor, buffers and calls of flash_attn.layers.rotary.RotaryEmbedding that MHA uses.
"""

import torch
from torch import nn


class RotaryEmbedding(nn.Module):
    def __init__(self, dim, base=10000.0, interleaved=False, device=None):
        """
        dim: the number of features of each head that are rotated, counted from the first
        interleaved: True rotates the pairs of features 2i and 2i + 1, False the pairs i and i + dim / 2
        """
        super().__init__()
        self.dim = dim
        self.interleaved = interleaved
        exponents = torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim
        self.register_buffer("inv_freq", 1.0 / base**exponents, persistent=False)

    def forward(self, q, kv, seqlen_offset=0, max_seqlen=None):
        """
        q: (batch, seqlen, nheads, head_dim)
        kv: (batch, seqlen, 2, nheads_kv, head_dim); only the keys are rotated
        seqlen_offset: the position of the first token, a number or a tensor (batch,)
        Returns q and kv, rotated, of the same shapes and dtypes.
        """
        position = torch.arange(q.shape[1], device=q.device, dtype=torch.float32)
        position = position + torch.as_tensor(seqlen_offset, device=q.device).unsqueeze(-1)
        # float32: angles computed in 16 bits would be too inexact for late positions.
        angle = position.unsqueeze(-1) * self.inv_freq.float()  # ([batch,] seqlen, dim / 2)
        cos, sin = angle.cos().unsqueeze(-2), angle.sin().unsqueeze(-2)
        k, v = kv.unbind(dim=2)
        return self._rotate(q, cos, sin), torch.stack([self._rotate(k, cos, sin), v], dim=2)

    def _rotate(self, x, cos, sin):
        turned = x[..., : self.dim].to(torch.promote_types(x.dtype, torch.float32))
        if self.interleaved:
            a, b = turned[..., 0::2], turned[..., 1::2]
            turned = torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)
        else:
            a, b = turned.chunk(2, dim=-1)
            turned = torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
        return torch.cat([turned.to(x.dtype), x[..., self.dim :]], dim=-1)
