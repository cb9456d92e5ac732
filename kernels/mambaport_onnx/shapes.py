"""Shapes as `operators` writes them: the axes of a text, and the shapes of outputs from those of inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .operators import Operator, Value

Length = int | str | None
"""A length, the name of a length that the model leaves open, or None for one of which nothing is known."""
_TERM = re.compile(r"([+-]?)(?:(\d+)\*)?([a-z]\w*|\d+)")


def infer(
    op: Operator, inputs: Sequence[Sequence[Length] | None], attributes: Mapping[str, int | float]
) -> list[list[Length] | None]:
    """The shapes of the outputs of a node, each None where nothing is known.

    Args:
        inputs: the shape of each input; None for one that is absent or of which nothing is known
        attributes: the attributes that the node has

    Raises:
        ValueError: the shapes of the inputs do not fit each other; says which was found and which expected.
    """
    last = bool(attributes.get("channels_last", 0))
    known: dict[str, Length] = {}
    rest: list[Length] | None = None
    chosen: list[tuple[Value, list[str], Sequence[Length]]] = []
    for value, found in zip(op.inputs, inputs, strict=False):
        if found is None:
            continue
        axes = _alternative(op, value, found, last)
        named = list(found)
        if axes[0] == "...":
            axes = axes[1:]
            before, named = named[: len(found) - len(axes)], named[len(found) - len(axes) :]
            rest = before if rest is None else [_better(a, b) for a, b in zip(rest, before, strict=False)]
        chosen.append((value, axes, named))
        for axis, length in zip(axes, named, strict=True):
            if axis.isidentifier():
                known[axis] = _better(known.get(axis), length)
    for value, axes, found in chosen:
        _compare(op, value, axes, found, known, attributes)
    return [_output(op, value, inputs, known, rest, last) for value in op.outputs]


def _text(value: Value, last: bool) -> str:
    return value.channels_last if last and value.channels_last else value.shape


def _alternative(op: Operator, value: Value, found: Sequence[Length], last: bool) -> list[str]:
    """The axes of the shape that a value with that many axes has."""
    for text in _text(value, last).split("|"):
        axes = text.split()
        if len(axes) == len(found) or (axes[0] == "..." and len(found) >= len(axes) - 1):
            return axes
    shapes = " or ".join(f"({', '.join(text.split())})" for text in _text(value, last).split("|"))
    raise ValueError(f"{op.name}: {value.name} has shape {_named(found)}, expected {shapes}")


def _better(one: Length, other: Length) -> Length:
    """The one that says more: a number, then a name."""
    return one if isinstance(one, int) or other is None or (one is not None and isinstance(other, str)) else other


def _compare(
    op: Operator,
    value: Value,
    axes: Sequence[str],
    found: Sequence[Length],
    known: Mapping[str, Length],
    attributes: Mapping[str, int | float],
) -> None:
    for axis, length in zip(axes, found, strict=True):
        name, _, attribute = axis.partition("@")
        expected, offset = _length(name, known), attributes.get(attribute, -1)
        if not isinstance(length, int) or not isinstance(expected, int):
            continue
        if length != expected if offset < 0 else length < offset + expected:
            lengths = ", ".join(f"{name}={_length(name.partition('@')[0], known)}" for name in axes)
            raise ValueError(f"{op.name}: {value.name} has shape {_named(found)}, expected ({lengths})")


def _length(axis: str, known: Mapping[str, Length]) -> Length:
    """The length of an axis such as ``dim``, ``rank+2*dstate`` or ``1``."""
    if axis in known:
        return known[axis]
    total = 0
    for sign, factor, name in _TERM.findall(axis):
        length = int(name) if name.isdigit() else known.get(name)
        if not isinstance(length, int):
            return None
        total += (-1 if sign == "-" else 1) * int(factor or 1) * length
    return total


def _output(
    op: Operator,
    value: Value,
    inputs: Sequence[Sequence[Length] | None],
    known: Mapping[str, Length],
    rest: list[Length] | None,
    last: bool,
) -> list[Length] | None:
    if value.shape.startswith("="):
        names = [found.name for found in op.inputs]
        like = inputs[names.index(value.shape[1:])]
        return None if like is None else list(like)
    axes = _text(value, last).split()
    if axes[0] != "...":
        return [_length(axis, known) for axis in axes]
    return None if rest is None else [*rest, *(_length(axis, known) for axis in axes[1:])]


def _named(found: Sequence[Length]) -> str:
    return f"({', '.join('?' if length is None else str(length) for length in found)})"
