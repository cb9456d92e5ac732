"""Vision Mamba for inference, on the installed mamba_ssm: scans an image's patches in both directions.

Parameters have the names of the released checkpoints, and the results are those of the original in
evaluation. Three things are faster: -exp(A_log), which depends on no image, is computed once; the two
directions are added in place; and the last block computes the class token's row alone.
"""

import torch
import torch.nn.functional as F
from mamba_ssm import Mamba
from mamba_ssm.modules import submodules
from mamba_ssm.ops import exporting
from mamba_ssm.ops.bimamba import mamba_inner_fn_no_out_proj
from mamba_ssm.ops.triton.layer_norm import RMSNorm, rms_norm_fn
from torch import nn

ALL = slice(None)


class VisionMamba(nn.Module):
    """A Vision Mamba with bidirectional mixers of type v2, for inference: no dropout, no training.

    image: (batch, 3, size, size), normalized; returns the logits, (batch, classes)
    """

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.patch_embed = PatchEmbed(shape)
        rows = shape.grid**2
        if shape.position is not None:
            self.cls_token = nn.Parameter(torch.empty(1, 1, shape.width))
            rows += 1
        self.pos_embed = nn.Parameter(torch.empty(1, rows, shape.width))
        if shape.rope:
            self.rope = Rope(shape)
        self.layers = nn.ModuleList(Block(shape, index) for index in range(shape.depth))
        self.norm_f = RMSNorm(shape.width, eps=1e-5)
        self.head = nn.Linear(shape.width, shape.classes)

    def forward(self, image):
        position = self.shape.position
        wanted = ALL if position is None else slice(position, position + 1)
        hidden, residual = self.embed(image), None
        for layer in self.layers:
            if self.shape.rope:
                hidden = self.rope(hidden)
                residual = None if residual is None else self.rope(residual)
            last = layer is self.layers[-1]
            hidden, residual = layer(hidden, residual, wanted if last else ALL)
        norm = self.norm_f
        residual = residual[:, wanted].contiguous()
        hidden = rms_norm_fn(hidden, norm.weight, norm.bias, residual=residual, eps=norm.eps)
        return self.head(hidden.mean(dim=1))

    def embed(self, image):
        """The patches with the class token among them, and their places added: (batch, rows, width)."""
        patches, position = self.patch_embed(image), self.shape.position
        if position is not None:
            token = self.cls_token.expand(patches.shape[0], -1, -1)
            patches = torch.cat([patches[:, :position], token, patches[:, position:]], dim=1)
        return patches + self.pos_embed


class PatchEmbed(nn.Module):
    """image (batch, 3, size, size) to (batch, patches, width)."""

    def __init__(self, shape):
        super().__init__()
        self.proj = nn.Conv2d(3, shape.width, shape.patch, shape.stride)

    def forward(self, image):
        return self.proj(image).flatten(2).transpose(1, 2)


class Rope(nn.Module):
    """Rotates each pair of features by an angle that grows with the patch's row (first half) or column.

    The released checkpoints hold the tables, so they are buffers of the same names.
    """

    def __init__(self, shape):
        super().__init__()
        half = shape.width // 2
        frequencies = 10000.0 ** -(torch.arange(0, half, 2) / half)
        # A grid of another size is scaled to the 14 patches of the first training.
        places = torch.arange(shape.grid) * (14 / shape.grid)
        angles = torch.outer(places, frequencies).repeat_interleave(2, dim=1)
        square = (shape.grid, shape.grid, half)
        angles = torch.cat([angles[:, None].expand(square), angles[None].expand(square)], dim=-1)
        self.register_buffer("freqs_cos", angles.flatten(0, 1).cos())
        self.register_buffer("freqs_sin", angles.flatten(0, 1).sin())

    def forward(self, rows):
        # The first row is the class token's, if there is one, and is not rotated.
        patches = rows[:, rows.shape[1] - len(self.freqs_cos) :]
        pairs = patches.unflatten(-1, (-1, 2))
        quarter_turn = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
        rotated = patches * self.freqs_cos + quarter_turn * self.freqs_sin
        return torch.cat([rows[:, : -len(self.freqs_cos)], rotated], dim=1)


class Block(nn.Module):
    """Adds hidden to residual, normalizes, mixes; both (batch, rows, width)."""

    def __init__(self, shape, index):
        super().__init__()
        self.mixer = BidirectionalMamba(shape, index)
        self.norm = RMSNorm(shape.width, eps=1e-5)

    def forward(self, hidden, residual, wanted):
        hidden, residual = rms_norm_fn(
            hidden,
            self.norm.weight,
            self.norm.bias,
            residual=residual,
            eps=self.norm.eps,
            prenorm=True,
            residual_in_fp32=True,
        )
        return self.mixer(hidden, wanted), residual


class BidirectionalMamba(Mamba):
    """mamba_ssm's Mamba with the parameters of both directions, and a forward for inference."""

    def __init__(self, shape, index):
        super().__init__(shape.width, bimamba_type="v2", if_divide_out=shape.divide, layer_idx=index)

    def prepare(self):
        """Computes the values that depend on the weights alone."""
        self.A, self.A_b = (-torch.exp(log.float()) for log in (self.A_log, self.A_b_log))

    def forward(self, hidden, wanted=ALL):
        """hidden: (batch, rows, width); wanted: the rows to return, as a slice."""
        out = submodules.one_call_forward(self, hidden)
        if out is not None:
            return out[:, wanted]
        scale = 0.5 if self.if_divide_out else 1.0
        if type(self.in_proj) is not nn.Linear:  # weights of fewer bits
            x, z = self.in_proj(hidden).transpose(1, 2).chunk(2, dim=1)
            out = submodules.scan_direction(self, x, z)
            out = submodules.scan_direction(self, x, z, "_b", reverse=True, onto=out, scale=scale)
            return self.out_proj(out[:, :, wanted].transpose(1, 2))
        if exporting.form():
            rows = F.linear(hidden, self.in_proj.weight)
            out = exporting.both_directions(rows, self._weights(), self._weights("_b"), scale)
            return F.linear(out[:, wanted], self.out_proj.weight, self.out_proj.bias)
        batch, rows, width = hidden.shape
        xz = self.in_proj.weight @ hidden.reshape(batch * rows, width).t()
        xz = xz.unflatten(1, (batch, rows)).transpose(0, 1)
        out = self._scan(xz)
        out = self._scan(xz, "_b", reverse=True, onto=out, scale=scale)
        return F.linear(out[:, :, wanted].transpose(1, 2), self.out_proj.weight, self.out_proj.bias)

    def _scan(self, xz, suffix="", **options):
        *weights, D, delta_bias = self._weights(suffix)
        return mamba_inner_fn_no_out_proj(xz, *weights, D=D, delta_bias=delta_bias, **options)

    def _weights(self, suffix=""):
        """A direction's arguments of mamba_inner_fn_no_out_proj: conv1d_weight to A, D and delta_bias."""
        names = ("conv1d", "x_proj", "dt_proj", "A", "D")
        conv, x_proj, dt_proj, A, D = (getattr(self, f"{name}{suffix}") for name in names)
        return conv.weight, conv.bias, x_proj.weight, dt_proj.weight, A, D, dt_proj.bias


def build(shape, state=None, seed=0, device="cpu"):
    """A model ready for inference, with the weights of ``state``, which must fit exactly, or random ones."""
    torch.manual_seed(seed)
    model = VisionMamba(shape)
    if state is not None:
        model.load_state_dict(state, strict=True)
    else:
        tables = [model.pos_embed, model.head.weight]
        if shape.position is not None:
            tables.append(model.cls_token)
        for table in tables:
            nn.init.trunc_normal_(table, std=0.02)
        nn.init.zeros_(model.head.bias)
    model = model.to(device).eval().requires_grad_(False)
    for layer in model.layers:
        layer.mixer.prepare()
    return model
