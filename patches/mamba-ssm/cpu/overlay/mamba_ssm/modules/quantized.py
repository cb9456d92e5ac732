"""Linear layers and embeddings whose weights have 8 or 4 bits, for inference."""

import torch
from torch import nn

from mamba_ssm.ops import dispatch, exporting
from mamba_ssm.ops.fallback import quantized


class _NoGradient(torch.autograd.Function):
    """The product of a quantised layer where a gradient would be wanted: the backward pass refuses it."""

    @staticmethod
    def forward(ctx, x, layer):
        return layer._compute(x)

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError(
            "a layer with weights of 8 or 4 bits has no gradient: train the model in float32 and quantize it afterwards"
        )


class _Quantized(nn.Module):
    """Packed weights and scales as buffers, which keep their dtypes in `to`, `half` and the like."""

    def __init__(self, rows, columns, bits, device=None):
        super().__init__()
        packed, scales = quantized.shapes(rows, columns, bits)
        self.bits, self.rows, self.columns = bits, rows, columns
        self.register_buffer("packed", torch.zeros(packed, dtype=quantized.DTYPES[bits], device=device))
        self.register_buffer("scales", torch.zeros(scales, dtype=quantized.SCALES[bits], device=device))

    @property
    def weight(self):
        """The weights in float32, (rows, columns), computed at each access."""
        return quantized.unpack(self.packed, self.scales)[: self.rows, : self.columns]

    def _apply(self, fn, recurse=True):
        def keep(tensor):
            changed = fn(tensor)
            return changed if changed.dtype == tensor.dtype else tensor.to(changed.device)

        return super()._apply(keep, recurse)

    def extra_repr(self):
        return f"{self.columns}, {self.rows}, bits={self.bits}"


class QuantizedLinear(_Quantized):
    """weight x + bias, for weights of 8 bits with a scale for each row, or of 4 bits with one for each 32 columns.

    Inputs are rounded to 8 bits with a scale for each 32 columns. The result has the dtype of x. `from_layer` makes one
    of a torch.nn.Linear.
    """

    def __init__(self, in_features, out_features, bits, bias=True, device=None):
        super().__init__(out_features, in_features, bits, device)
        self.register_buffer("bias", torch.zeros(out_features, device=device) if bias else None)

    @classmethod
    def from_layer(cls, layer, bits):
        """A QuantizedLinear of a torch.nn.Linear's weights."""
        made = cls(layer.in_features, layer.out_features, bits, bias=False, device="meta")
        made.packed, made.scales = quantized.pack(layer.weight.detach(), bits)
        made.bias = None if layer.bias is None else layer.bias.detach().float()
        return made

    @property
    def in_features(self):
        return self.columns

    @property
    def out_features(self):
        return self.rows

    def forward(self, x):
        """x: (..., in_features). Returns (..., out_features)."""
        if x.shape[-1] != self.columns:
            raise ValueError(f"x has {x.shape[-1]} features, expected {self.columns}")
        if torch.is_grad_enabled() and x.requires_grad:
            return _NoGradient.apply(x, self)
        return self._compute(x)

    def _compute(self, x):
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return dispatch.quantized_linear(x, self.packed, self.scales, self.bias, self.rows)


class QuantizedEmbedding(_Quantized):
    """Rows of a table of 8 or 4 bits, in `dtype`. A tied output layer shares the table."""

    def __init__(self, num_embeddings, embedding_dim, bits, dtype=torch.float32, device=None):
        super().__init__(num_embeddings, embedding_dim, bits, device)
        self.dtype = dtype

    @classmethod
    def from_layer(cls, layer, bits):
        """A QuantizedEmbedding of a torch.nn.Embedding's table."""
        made = cls(layer.num_embeddings, layer.embedding_dim, bits, layer.weight.dtype, device="meta")
        made.packed, made.scales = quantized.pack(layer.weight.detach(), bits)
        return made

    def _apply(self, fn, recurse=True):
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return super()._apply(fn, recurse)

    def forward(self, tokens):
        """tokens: int64 or int32, of any shape. Returns (*tokens.shape, embedding_dim)."""
        if tokens.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"tokens are {tokens.dtype}, expected int64 or int32")
        in_graph = exporting.form() is not None  # a graph cannot compare tokens
        if not in_graph and tokens.numel() and not (0 <= tokens.min() and tokens.max() < self.rows):
            raise IndexError(f"a token is outside of the table, which has {self.rows} rows")
        found = quantized.unpack_rows(self.packed, self.scales, tokens, whole_tiles=in_graph)
        return found[..., : self.columns].to(self.dtype)
