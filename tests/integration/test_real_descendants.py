"""Repositories with a copy of mamba_ssm: the copy's own Mamba, on the wheels' modules, gives what ours gives.

MAMBAPORT_TEST_VIM, _VIDEOMAMBA, _SEGMAMBA, _NETMAMBA and _MAMBA_UNET name checkouts.
MAMBAPORT_TEST_TORCH runs them, with the wheels of profile cpu. Only the copy's Mamba and what Mamba calls are
imported, from a folder of their own.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from test_real_checkouts import python, run

FORKS = {
    "vim-v1": ("MAMBAPORT_TEST_VIM", "mamba-1p1p1", {"bimamba_type": "v1"}),
    "vim-v2": ("MAMBAPORT_TEST_VIM", "mamba-1p1p1", {"bimamba_type": "v2", "if_divide_out": True}),
    "netmamba": ("MAMBAPORT_TEST_NETMAMBA", "mamba-1p1p1", {"bimamba_type": "v2", "if_devide_out": True}),
    "videomamba": ("MAMBAPORT_TEST_VIDEOMAMBA", "mamba", {"bimamba": True}),
    "segmamba": ("MAMBAPORT_TEST_SEGMAMBA", "mamba", {"bimamba_type": "v3", "nslices": 4}),
    "mamba-unet": ("MAMBAPORT_TEST_MAMBA_UNET", "mamba", {"bimamba_type": "v2"}),
}
# Vim's bimamba_inner_fn loses the gradient of the gate on the way back; ours follows the formula.
FORWARD_ALONE = ("vim-v1",)
FILES = ("ops/selective_scan_interface.py", "modules/mamba_simple.py")
THEIRS = """
import sys, torch
sys.path.insert(0, "fork")
from mamba_ssm.modules.mamba_simple import Mamba
import mamba_ssm
assert mamba_ssm.__path__[0].endswith("fork/mamba_ssm"), mamba_ssm.__path__
torch.manual_seed(0)
layer, x = Mamba(32, **{options}), torch.randn(2, 24, 32, requires_grad=True)
with torch.no_grad():
    for p in layer.parameters():
        p.add_(0.05 * torch.randn_like(p))
y = layer(x)
y.square().sum().backward()
grads = dict((n, p.grad) for n, p in layer.named_parameters())
torch.save([layer.state_dict(), x.detach(), y.detach(), x.grad, grads], "r.pt")
"""
OURS = """
import torch
from mamba_ssm import Mamba
state, x, wanted, dx, grads = torch.load("r.pt")
layer = Mamba(32, **{options})
layer.load_state_dict(state, strict=True)
x.requires_grad_()
y = layer(x)
y.square().sum().backward()
scale = lambda t: dict(rtol=2e-4, atol=2e-5 * float(t.abs().max()))
torch.testing.assert_close(y, wanted, **scale(wanted))
if {forward}:
    raise SystemExit
torch.testing.assert_close(x.grad, dx, **scale(dx))
for name, parameter in layer.named_parameters():
    torch.testing.assert_close(parameter.grad, grads[name], **scale(grads[name]))
"""


@pytest.mark.parametrize("name", FORKS)
def test_a_forks_own_mamba_and_ours_give_the_same_forward_and_backward(name: str, tmp_path: Path) -> None:
    variable, folder, options = FORKS[name]
    named = os.environ.get(variable)
    if not named:
        pytest.skip(f"{variable} names no checkout")
    interpreter = python("einops")
    package = tmp_path / "fork" / "mamba_ssm"
    for part in ("", "ops", "modules"):
        (package / part).mkdir(parents=True, exist_ok=True)
        (package / part / "__init__.py").touch()
    for file in FILES:
        shutil.copyfile(Path(named, folder, "mamba_ssm", file), package / file)
    run(tmp_path, interpreter, "-W", "ignore", "-c", THEIRS.format(options=options))
    run(
        tmp_path,
        interpreter,
        "-W",
        "ignore",
        "-c",
        OURS.format(options=options, forward=name in FORWARD_ALONE),
    )
