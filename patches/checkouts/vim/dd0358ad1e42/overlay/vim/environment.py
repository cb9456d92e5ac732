"""Functions of main.py that depend on the machine: the device, reading a checkpoint, the check of mamba_ssm."""

import argparse
import inspect
import os
import platform
from functools import partial

import torch
from torch.torch_version import TorchVersion


def default_device():
    """``cuda`` where torch sees a GPU, ``cpu`` otherwise."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def prepare(args):
    """Check ``args`` against the machine, adapt the data loading to the device, and print the versions and the device.

    Returns the torch.device of ``args.device``.

    Raises:
        SystemExit: the device is missing, or Vision Mamba cannot use the installed mamba_ssm.
    """
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"--device {args.device}: torch {torch.__version__} sees no GPU here; use --device cpu")
    if device.type == "cpu":
        # Pinned memory helps a GPU only; loader workers compete with a model on the CPU for cores and memory.
        args.pin_mem = False
        args.num_workers = min(args.num_workers, max(1, (os.cpu_count() or 1) // 2))
    if not getattr(args, "distributed", False) or args.local_rank == 0:
        print(_notice(device))
    return device


def eval_batch_size(args):
    """The number of images in a batch of evaluation: 30 times ``--batch-size`` on a GPU, ``--batch-size`` on a CPU."""
    return args.batch_size if torch.device(args.device).type == "cpu" else int(1.5 * args.batch_size * 20)


def autocast(device):
    """The context for mixed precision on ``device``: float16 on a GPU, bfloat16 on a CPU."""
    return partial(torch.autocast, torch.device(device).type)


def load_checkpoint(file):
    """The contents of a checkpoint file, on the CPU. A file that would run code when read is refused.

    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1, a variable of torch, says that the file is trusted and may run code.

    Raises:
        SystemExit: torch is older than 2.6; there, a crafted file runs code also with weights_only=True.
    """
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "").lower() in ("1", "y", "yes", "true"):
        return torch.load(file, map_location="cpu", weights_only=False)
    if TorchVersion(torch.__version__) < "2.6.0":
        raise SystemExit(
            f"torch {torch.__version__} cannot load {file} safely (CVE-2025-32434): use torch 2.6 or newer; or, for a "
            "file that you trust, set TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1"
        )
    with torch.serialization.safe_globals([argparse.Namespace]):
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
