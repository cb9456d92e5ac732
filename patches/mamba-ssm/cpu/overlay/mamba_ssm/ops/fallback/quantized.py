"""Weights of 8 and 4 bits: packing, unpacking, and the product in PyTorch.

Rows are in tiles of 16 and columns in blocks of 32, both padded with zeros. 8 bits: (tiles, columns / 4, 16, 4) of
int8, -127 to 127, and a scale in float32 for each row. 4 bits: (tiles, columns / 8, 16, 4) of uint8, of which the low
half is column c and the high half column c + 4, plus 8; and a scale in bfloat16 for each row and block, stored as
(tiles, blocks, 16).
"""

import torch
import torch.nn.functional as F

TILE, BLOCK = 16, 32
DTYPES = {8: torch.int8, 4: torch.uint8}
SCALES = {8: torch.float32, 4: torch.bfloat16}
LEAST = 1e-30  # inputs of a block whose largest is smaller count as zero: 127 / largest would overflow


def shapes(rows, columns, bits):
    """The shapes of the packed weights and of the scales."""
    tiles, blocks = -(-rows // TILE), -(-columns // BLOCK)
    return (tiles, blocks * bits, TILE, 4), (tiles * TILE,) if bits == 8 else (tiles, blocks, TILE)


def pack(weight, bits):
    """weight (rows, columns), finite, to (packed, scales)."""
    rows, columns = weight.shape
    padded = F.pad(weight.float(), (0, -columns % BLOCK, 0, -rows % TILE))
    if bits == 8:
        scales = padded.abs().amax(1) / 127
        scales = torch.where((scales * 127).isinf(), scales.nextafter(torch.zeros_like(scales)), scales)
        values = (padded / _divisor(scales)[:, None]).round_().clamp_(-127, 127).to(torch.int8)
        return values.unflatten(1, (-1, 4)).unflatten(0, (-1, TILE)).transpose(1, 2).contiguous(), scales
    blocks = padded.unflatten(1, (-1, BLOCK))
    scales = _scales_of_blocks(blocks)
    values = ((blocks / _divisor(scales.float())[..., None]).round_().clamp_(-8, 7) + 8).to(torch.uint8)
    halves = values.flatten(1).unflatten(1, (-1, 2, 4)).unflatten(0, (-1, TILE))
    packed = (halves[..., 0, :] | halves[..., 1, :] << 4).transpose(1, 2).contiguous()
    return packed, scales.unflatten(0, (-1, TILE)).transpose(1, 2).contiguous()


def _divisor(scales):
    return torch.where(scales == 0, torch.ones_like(scales), scales)


def _scales_of_blocks(blocks):
    """The scale in bfloat16, of either sign, with the least squared error of several; blocks: (rows, blocks, 32)."""
    return torch.cat([_scales(part) for part in blocks.split(256)])  # parts that fit a cache


def _scales(blocks):
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    unit = blocks / _divisor(largest)  # squares of very large weights would overflow
    best, least = torch.zeros_like(largest), torch.full_like(largest, torch.inf)
    for steps in (-8.0, -8.4, -7.6, -7.2, 7.0, 7.4):  # the largest weight is about so many steps
        scales = (largest / steps).bfloat16().float()
        step = scales / _divisor(largest)
        values = (unit / _divisor(step)).round_().clamp_(-8, 7)
        finite = (values * scales).isfinite().all(-1, keepdim=True)  # weights near the largest number may round up
        error = values.mul_(step).sub_(unit).square_().sum(-1, keepdim=True)
        error = torch.where(finite, error, torch.inf)
        best = torch.where(error < least, scales, best)
        least = torch.minimum(error, least)
    return best.squeeze(-1).bfloat16()


def unpack(packed, scales):
    """The weights in float32 with their padding: (tiles * 16, blocks * 32)."""
    if packed.dtype == torch.int8:
        return packed.transpose(1, 2).flatten(2).flatten(0, 1) * scales[:, None]
    halves = torch.stack((packed & 15, packed >> 4), dim=3)  # (tiles, columns / 8, 16, 2, 4)
    values = halves.transpose(1, 2).flatten(2).flatten(0, 1).float() - 8
    rows = scales.transpose(1, 2).flatten(0, 1).float()
    return (values.unflatten(1, (-1, BLOCK)) * rows[..., None]).flatten(1)


def unpack_rows(packed, scales, rows, whole_tiles=False):
    """Rows of the weights by number, in float32 with their padding: (*rows.shape, blocks * 32).

    whole_tiles: rows are taken out of copies of their tiles. That is slower, but for an index of two axes, ONNX would
    transpose the whole table.
    """
    tiles, places = rows // TILE, rows % TILE
    if whole_tiles:
        index = places.long()[..., None, None, None].expand(*places.shape, packed.shape[1], 1, 4)
        chosen = packed[tiles].gather(-2, index).squeeze(-2)
    else:
        chosen = packed[tiles, :, places]  # (..., columns / 4 or 8, 4)
    if packed.dtype == torch.int8:
        return chosen.flatten(-2) * scales[rows][..., None]
    values = torch.stack((chosen & 15, chosen >> 4), dim=-2).flatten(-3).float() - 8
    return (values.unflatten(-1, (-1, BLOCK)) * scales[tiles, :, places].float()[..., None]).flatten(-2)


def round_inputs(x):
    """x (..., columns) in float32, rounded to multiples of its blocks' scales; NaN in a block that is not finite."""
    columns = x.shape[-1]
    blocks = F.pad(x, (0, -columns % BLOCK)).unflatten(-1, (-1, BLOCK))
    largest = blocks.abs().amax(-1, keepdim=True)
    largest = torch.where(largest >= LEAST, largest, torch.where(largest < LEAST, torch.zeros_like(largest), torch.nan))
    factor = torch.full_like(largest, 127.0) / _divisor(largest)
    scale = torch.where(largest == torch.inf, torch.nan, largest / torch.full_like(largest, 127.0))
    return ((blocks * factor).round() * scale).flatten(-2)[..., :columns]


def quantized_linear(x, packed, scales, bias, rows):
    """weight x + bias with x rounded as `round_inputs` does; x: (..., columns), packed and scales as `pack` gives them."""
    weight = unpack(packed, scales)[:rows, : x.shape[-1]]
    return F.linear(round_inputs(x.float()), weight, None if bias is None else bias.float()).to(x.dtype)
