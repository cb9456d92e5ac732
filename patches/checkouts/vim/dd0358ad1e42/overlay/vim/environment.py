"""What main.py asks about the machine: which device there is, how to read a checkpoint, and whether mamba_ssm fits."""

import argparse
import inspect
import os
import platform
from contextlib import nullcontext
from functools import partial

import torch


def default_device():
    """``cuda`` where torch sees a GPU, ``cpu`` otherwise."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def prepare(args):
    """Checks ``args`` against the machine, fits the data loading to it, and says what runs where.

    Raises:
        SystemExit: the device is not there, or mamba_ssm is not one that Vision Mamba can use.
    """
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device {args.device}: torch {torch.__version__} sees no GPU here; use --device cpu")
    if device.type == "cpu":
        # Memory is pinned for a GPU; and on a CPU the workers compete with the model for its cores and memory.
        args.pin_mem = False
        args.num_workers = min(args.num_workers, max(1, (os.cpu_count() or 1) // 2))
    if not getattr(args, "distributed", False) or args.local_rank == 0:
        print(_notice(device))
    return device


def eval_batch_size(args):
    """Images at once in evaluation: many on a GPU, ``--batch-size`` on a CPU."""
    return args.batch_size if torch.device(args.device).type == "cpu" else int(1.5 * args.batch_size * 20)


def autocast(device):
    """The context for mixed precision on ``device``: float16 on a GPU, bfloat16 on a CPU."""
    return partial(torch.autocast, torch.device(device).type)


def load_checkpoint(file):
    """A checkpoint, on the CPU. Only tensors and plain data are read: a file that would run code is refused."""
    allowed = getattr(torch.serialization, "safe_globals", None)
    with allowed([argparse.Namespace]) if allowed else nullcontext():
        return torch.load(file, map_location="cpu", weights_only=True)


def _notice(device):
    import mamba_ssm
    import timm
    from mamba_ssm.modules.mamba_simple import Mamba

    if "bimamba_type" not in inspect.signature(Mamba.__init__).parameters:
        raise SystemExit(
            f"mamba_ssm {mamba_ssm.__version__} in {os.path.dirname(mamba_ssm.__file__)} has no bimamba_type: "
            "it is not one that Vision Mamba can use (`mambaport install --profile P` brings one)"
        )
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    return (
        f"Environment: {platform.machine()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"timm {timm.__version__}, mamba_ssm {mamba_ssm.__version__}; device {device} ({where})"
    )
