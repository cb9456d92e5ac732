"""Vision Mamba from its tensors alone, in float64, step by step; no part of the model under test."""

from __future__ import annotations

import math

import reference
import torch


def logits(image, state, stride=16, pool="middle", rope=False, divide=True):
    """image: (batch, 3, size, size); state: the tensors by their released names."""
    p = {name: value.double() for name, value in state.items()}
    rows, token = embed(image.double(), p, stride, pool)
    depth = 1 + max(int(name.split(".")[1]) for name in p if name.startswith("layers."))
    hidden, residual = rows, torch.zeros_like(rows)
    for index in range(depth):
        if rope:
            hidden, residual = turn(hidden), turn(residual)
        residual = residual + hidden
        layer = reference.inside(p, f"layers.{index}.")
        normed = reference.norm(residual, layer["norm.weight"], eps=1e-5)
        hidden = reference.bimamba_v2(normed, reference.inside(layer, "mixer."), divide=divide)
    normed = reference.norm(residual + hidden, p["norm_f.weight"], eps=1e-5)
    features = normed.mean(dim=1) if token is None else normed[:, token]
    return reference.linear(features, p, "head")


def embed(image, p, stride, pool):
    """Every patch as a row, the class token put among them, and the places added."""
    weight, bias = p["patch_embed.proj.weight"], p["patch_embed.proj.bias"]
    patch, size = weight.shape[-1], image.shape[-1]
    corners = range(0, size - patch + 1, stride)
    pieces = [image[:, :, y : y + patch, x : x + patch].flatten(1) for y in corners for x in corners]
    rows = [piece @ weight.flatten(1).t() + bias for piece in pieces]
    token = {"middle": len(rows) // 2, "head": 0, "mean": None}[pool]
    if token is not None:
        rows.insert(token, p["cls_token"][:, 0].expand(len(image), -1))
    return torch.stack(rows, dim=1) + p["pos_embed"], token


def turn(rows):
    """Each pair of features is a complex number, turned by its patch's place; a row too many stays."""
    out = rows.clone()
    _, count, width = rows.shape
    grid = math.isqrt(count)
    first = count - grid * grid
    quarter = width // 4
    for place in range(grid * grid):
        y, x = divmod(place, grid)
        for pair in range(width // 2):
            where = y if pair < quarter else x
            angle = where * 14 / grid * 10000 ** (-2 * (pair % quarter) / (width // 2))
            a, b = rows[:, first + place, 2 * pair], rows[:, first + place, 2 * pair + 1]
            out[:, first + place, 2 * pair] = a * math.cos(angle) - b * math.sin(angle)
            out[:, first + place, 2 * pair + 1] = b * math.cos(angle) + a * math.sin(angle)
    return out
