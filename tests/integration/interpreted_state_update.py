"""selective_state_update's triton kernel in triton's interpreter: chosen states, padding, no D and no bias.

Run by test_interpreted.py with the patched trees on PYTHONPATH and TRITON_INTERPRET=1. Prints one JSON
object: the largest error of each case against float64.
"""

from __future__ import annotations

import contextlib
import itertools
import json

import torch

# What the kernel's launcher asks of a GPU.
torch.cuda.is_available = lambda: True
torch.cuda.device = lambda index: contextlib.nullcontext()

from mamba_ssm.ops import dispatch, fallback  # noqa: E402
from mamba_ssm.ops.triton.selective_state_update import selective_state_update  # noqa: E402

dispatch.use_triton = lambda x: True
torch.manual_seed(0)
errors = {}
for groups, index, rest in itertools.product((1, 2), (torch.int64, torch.int32), (True, False)):
    state, A = torch.randn(6, 4, 6, 5), -torch.rand(4, 6, 5)
    x, dt, z = torch.randn(3, 3, 4, 6)
    B, C = torch.randn(2, 3, groups, 5)
    D, bias = torch.randn(2, 4, 6)
    if not rest:
        D = z = bias = None
    arguments = [None if t is None else t.double() for t in (state, x, dt, A, B, C, D, z, bias)]
    indices = torch.tensor([5, -1, 2], dtype=index)
    out = selective_state_update(state, x, dt, A, B, C, D, z, bias, True, indices)
    want = fallback.selective_state_update(*arguments, True, indices)  # updates the first argument
    pairs = ((out, want), (state, arguments[0]))
    errors[f"{groups} {index} {rest}"] = max(float((a - b).abs().max()) for a, b in pairs)
    assert not out[1].any(), "the result of padding is 0"
print(json.dumps(errors))
