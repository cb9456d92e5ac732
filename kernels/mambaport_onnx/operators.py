"""The operators of mambaport's ONNX domain, as data: needs neither torch, onnx, numpy nor the compiled library.

The library for ONNX Runtime describes its operators in the same words (`describe`), and a test compares both.

All tensors are float32 except those of dtype ``int32`` or ``int8``. A shape is a text of axes. An axis is:

- a name such as ``dim``: the same length wherever the name stands in an operator, unless an axis has another form;
- a sum of names with factors such as ``rank+2*dstate`` or ``width-1``;
- ``dim@x_offset``: ``dim`` adjacent channels, the first of which is channel number `x_offset` of the axis, where that
  attribute is 0 or more; the axis may then be longer. With the attribute's default of -1, the whole axis, of length
  ``dim``;
- ``...``: any number of axes, the same wherever ``...`` stands;
- a number: that length.

The shape ``=x`` of an output is that of the input x.

A vertical bar separates the shapes of which one is expected: the number of axes decides which. An operator with the
attribute `channels_last` has a second shape for some tensors: the layout in which the features of a step are adjacent,
as a linear layer stores its result.
"""

from __future__ import annotations

from dataclasses import dataclass

DOMAIN = "ai.mambaport"
VERSION = 1
"""The version of the domain that a model imports. Within a version, operators are added, and operators gain
attributes and optional inputs at the end, whose absence keeps the meaning; nothing else changes."""


@dataclass(frozen=True)
class Value:
    """An input or an output."""

    name: str
    shape: str
    channels_last: str = ""
    """The shape with the attribute `channels_last`; empty: the same as `shape`."""
    optional: bool = False
    """An input: may be absent. An output: computed where it has a name in the graph."""
    dtype: str = "float32"
    updates: str = ""
    """An output: the input whose memory the output may take. Where a caller binds both to one buffer, the operator
    works in place."""


@dataclass(frozen=True)
class Attribute:
    """An attribute; all have a default."""

    name: str
    default: int | float
    meaning: str

    @property
    def kind(self) -> str:
        """``int`` or ``float``."""
        return type(self.default).__name__


@dataclass(frozen=True)
class Operator:
    """An operator: what it computes, its values in the order of a node, and the kernels that compute it."""

    name: str
    meaning: str
    inputs: tuple[Value, ...]
    attributes: tuple[Attribute, ...]
    outputs: tuple[Value, ...]
    kernels: tuple[str, ...]
    """Exported functions of the kernel libraries, by the names of ``csrc``."""


def _optional(name: str, shape: str, channels_last: str = "", dtype: str = "float32", updates: str = "") -> Value:
    return Value(name, shape, channels_last, optional=True, dtype=dtype, updates=updates)


_CHANNELS_LAST = Attribute("channels_last", 0, "1: the features of a step are adjacent in memory")
_REVERSE = Attribute("reverse", 0, "1: time runs from the last step to the first")
_SOFTPLUS = Attribute("delta_softplus", 0, "1: softplus is applied to delta after its bias")
_SILU = Attribute("silu", 0, "1: silu is applied to the sums")
_SCALE = Attribute("scale", 1.0, "the factor of the result, `onto` included")


def _offset(name: str) -> Attribute:
    return Attribute(f"{name}_offset", -1, f"the first channel of {name} that is read; -1: all are read")


_STEPS, _STEPS_LAST = "batch dim seqlen", "batch seqlen dim"
_Z = _optional("z", "batch dim@z_offset seqlen", "batch seqlen dim@z_offset")
_ONTO = _optional("onto", _STEPS, _STEPS_LAST)
_SCANNED = (
    Value("out", _STEPS, _STEPS_LAST, updates="onto"),
    _optional("last_state", "batch dim dstate"),
)
_PROJECTION = "batch dstate seqlen|batch groups dstate seqlen|dim dstate"
_PROJECTION_LAST = "batch seqlen dstate|batch seqlen groups dstate|dim dstate"

OPERATORS: tuple[Operator, ...] = (
    Operator(
        "CausalConv",
        "out[t] = silu(bias + weight[0] x[t - width + 1] + ... + weight[width - 1] x[t]) per channel; width 2 to 4. "
        "initial_states are the inputs before x, zeros where absent; final_states the last width - 1 inputs. A tap "
        "reads no input of another index of seq_idx; a negative index is padding, which gives zeros. reverse goes with "
        "neither seq_idx nor states.",
        (
            Value("x", "batch dim@x_offset seqlen", "batch seqlen dim@x_offset"),
            Value("weight", "dim width"),
            _optional("bias", "dim"),
            _optional("initial_states", "batch dim width-1"),
            _optional("seq_idx", "batch seqlen", dtype="int32"),
        ),
        (
            _SILU,
            _REVERSE,
            _CHANNELS_LAST,
            _offset("x"),
        ),
        (Value("out", _STEPS, _STEPS_LAST), _optional("final_states", "batch dim width-1")),
        ("causal_conv1d_forward",),
    ),
    Operator(
        "CausalConvUpdate",
        "The same convolution of the state followed by x, for decoding; next_state is the last state_len inputs; "
        "state_len >= width - 1.",
        (
            Value("x", "batch dim seqlen|batch dim"),
            Value("state", "batch dim state_len"),
            Value("weight", "dim width"),
            _optional("bias", "dim"),
        ),
        (_SILU,),
        (Value("out", "=x"), Value("next_state", "=state", updates="state")),
        ("causal_conv1d_update",),
    ),
    Operator(
        "SelectiveScan",
        "h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]; out[t] = ((C[t] . h[t] + D u[t]) silu(z[t]) + onto[t]) "
        "scale, for each of dim channels. dim is a multiple of groups. first_state is zero where absent.",
        (
            Value("u", "batch dim@u_offset seqlen", "batch seqlen dim@u_offset"),
            Value("delta", _STEPS, _STEPS_LAST),
            Value("A", "dim dstate"),
            Value("B", _PROJECTION, _PROJECTION_LAST),
            Value("C", _PROJECTION, _PROJECTION_LAST),
            _optional("D", "dim"),
            _Z,
            _optional("delta_bias", "dim"),
            _ONTO,
            _optional("first_state", "batch dim dstate"),
        ),
        (_SOFTPLUS, _REVERSE, _CHANNELS_LAST, _SCALE, _offset("u"), _offset("z")),
        _SCANNED,
        ("selective_scan_forward",),
    ),
    Operator(
        "ProjectedScan",
        "SelectiveScan of the tensor `projected`, which holds rank rows, of which delta = delta_weight (these rows), "
        "then B, then C. delta is computed where it is used, and never stored.",
        (
            Value("u", "batch dim@u_offset seqlen", "batch seqlen dim@u_offset"),
            Value("projected", "batch rank+2*dstate seqlen", "batch seqlen rank+2*dstate"),
            Value("delta_weight", "dim rank"),
            Value("A", "dim dstate"),
            _optional("D", "dim"),
            _Z,
            _optional("delta_bias", "dim"),
            _ONTO,
            _optional("first_state", "batch dim dstate"),
        ),
        (_SOFTPLUS, _REVERSE, _CHANNELS_LAST, _SCALE, _offset("u"), _offset("z")),
        _SCANNED,
        ("selective_scan_forward",),
    ),
    Operator(
        "ChunkScan",
        "Mamba-2's scan over whole sequences: one rate A per head, delta = dt after bias, softplus and limits. heads "
        "is a multiple of groups. initial_states belong to the sequence number 0; the state restarts where seq_idx "
        "changes.",
        (
            Value("x", "batch seqlen heads head_dim"),
            Value("dt", "batch seqlen heads"),
            Value("A", "heads"),
            Value("B", "batch seqlen groups dstate"),
            Value("C", "batch seqlen groups dstate"),
            _optional("D", "heads|heads head_dim"),
            _optional("z", "batch seqlen heads head_dim"),
            _optional("dt_bias", "heads"),
            _optional("initial_states", "batch heads head_dim dstate"),
            _optional("seq_idx", "batch seqlen", dtype="int32"),
        ),
        (
            Attribute("dt_softplus", 0, "1: softplus is applied to dt after its bias"),
            Attribute("dt_min", 0.0, "the least delta"),
            Attribute("dt_max", float("inf"), "the largest delta"),
        ),
        (Value("out", "batch seqlen heads head_dim"), _optional("final_states", "batch heads head_dim dstate")),
        ("selective_scan_forward",),
    ),
    Operator(
        "StateUpdate",
        "One step of ChunkScan; or of SelectiveScan, where no tensor has the axis head_dim, and a head is a channel: "
        "then groups is 1. A parameter without the axis head_dim is the same for all channels of a head, an A without "
        "dstate for all states. heads is a multiple of groups.",
        (
            Value("state", "batch heads dstate|batch heads head_dim dstate"),
            Value("x", "batch heads|batch heads head_dim"),
            Value("dt", "batch heads|batch heads head_dim"),
            Value("A", "heads|heads dstate|heads head_dim dstate"),
            Value("B", "batch dstate|batch groups dstate"),
            Value("C", "batch dstate|batch groups dstate"),
            _optional("D", "heads|heads head_dim"),
            _optional("z", "batch heads|batch heads head_dim"),
            _optional("dt_bias", "heads|heads head_dim"),
        ),
        (Attribute("dt_softplus", 0, "1: softplus is applied to dt after its bias"),),
        (Value("out", "=x"), Value("next_state", "=state", updates="state")),
        ("selective_state_update",),
    ),
    Operator(
        "MambaStep",
        "A whole Mamba-1 mixer on one token of each row: input projection, convolution with silu, projections of "
        "delta, B and C, state update with the gate, output projection. A = -exp(A_log). Weights are read once for "
        "each row of the batch.",
        (
            Value("x", "batch features|batch 1 features"),
            Value("conv_state", "batch dim width"),
            Value("ssm_state", "batch dim dstate"),
            Value("in_weight", "2*dim features"),
            _optional("in_bias", "2*dim"),
            Value("conv_weight", "dim width|dim 1 width"),
            _optional("conv_bias", "dim"),
            Value("x_weight", "rank+2*dstate dim"),
            Value("dt_weight", "dim rank"),
            _optional("dt_bias", "dim"),
            Value("A_log", "dim dstate"),
            _optional("D", "dim"),
            Value("out_weight", "features dim"),
            _optional("out_bias", "features"),
        ),
        (),
        (
            Value("out", "=x"),
            Value("next_conv_state", "=conv_state", updates="conv_state"),
            Value("next_ssm_state", "=ssm_state", updates="ssm_state"),
        ),
        ("mamba_mixer_step",),
    ),
    Operator(
        "Norm",
        "LayerNorm or RMSNorm of total = x + residual over the last axis, in groups of adjacent features, with "
        "silu(z) as a factor of the result (gate 1) or of total (gate 2).",
        (
            Value("x", "... dim"),
            Value("weight", "dim"),
            _optional("bias", "dim"),
            _optional("residual", "... dim"),
            _optional("z", "... dim"),
        ),
        (
            Attribute("eps", 1e-6, "added to the variance"),
            Attribute("rms", 0, "1: RMSNorm, which subtracts no mean"),
            Attribute("group", 0, "adjacent features normalized together, a divisor of dim; 0: all"),
            Attribute("gate", 0, "0: no gate, z is absent; 1: norm(total) silu(z); 2: norm(total silu(z))"),
        ),
        (Value("out", "=x"), _optional("total", "=x")),
        ("layer_norm",),
    ),
    Operator(
        "Linear",
        "x weight^T + bias. One row or two, as in decoding, read the weights once each, at the speed of memory; more "
        "rows are one product.",
        (Value("x", "... columns"), Value("weight", "rows columns"), _optional("bias", "rows")),
        (),
        (Value("out", "... rows"),),
        ("linear_step", "linear_rows"),
    ),
    Operator(
        "QuantizedLinear",
        "(scales weight) x + bias, where x is rounded to 8 bits with a scale for each 32 columns. weight holds rows of "
        "columns, -127 to 127, both padded with zeros to multiples: rows of 16, a tile, and columns of 32. A tile is "
        "parts of 4 adjacent columns, for each of 16 rows.",
        (
            Value("x", "... columns"),
            Value("weight", "tiles parts 16 4", dtype="int8"),
            Value("scales", "rows"),
            _optional("bias", "rows"),
        ),
        (),
        (Value("out", "... rows"),),
        ("quantized_linear",),
    ),
)


def operator(name: str) -> Operator:
    """The operator of that name.

    Raises:
        KeyError: no operator has the name.
    """
    return next((found for found in OPERATORS if found.name == name), None) or _unknown(name)


def _unknown(name: str) -> Operator:
    raise KeyError(f"{DOMAIN} has no operator {name!r}; its operators are {', '.join(op.name for op in OPERATORS)}")


def describe() -> str:
    """All operators as text, a line for each operator, input, attribute and output: the text of the library."""
    lines = [f"domain {DOMAIN} {VERSION}"]
    for op in OPERATORS:
        lines.append(f"operator {op.name}")
        lines += [f"input {_value(value)}" for value in op.inputs]
        lines += [f"attribute {a.name} {a.kind} {float(a.default):g}" for a in op.attributes]
        lines += [f"output {_value(value)}" for value in op.outputs]
    return "".join(f"{line}\n" for line in lines)


def _value(value: Value) -> str:
    shapes = f"[{value.shape}] [{value.channels_last or value.shape}]"
    optional = " optional" if value.optional else ""
    return f"{value.name} {value.dtype} {shapes}{optional}" + (f" updates {value.updates}" if value.updates else "")
