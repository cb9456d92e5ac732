"""The environment of a task: installed packages, threads, the device, and whether kernels are used."""

import importlib.util
import os
import platform
import sys
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from answers import Refusal

FALLBACK_VARIABLES = ("CAUSAL_CONV1D_FORCE_FALLBACK", "SELECTIVE_SCAN_FORCE_FALLBACK")
KERNELS = ("causal_conv1d_cpu", "selective_scan_cpu")
HINTS = {
    "torch": "pip install the torch that fits this device, into the environment that --python names",
    "mamba_ssm": "mambaport install --profile cpu --python PATH (on a Raspberry Pi: --profile rpi)",
    "causal_conv1d": "mambaport install --profile cpu --python PATH (on a Raspberry Pi: --profile rpi)",
    "transformers": "pip install 'transformers>=5.15', into the environment that --python names",
    "PIL": "pip install pillow, into the environment that --python names",
    "onnxruntime": "mambaport install -p cpu --runtime onnx --python PATH (on a Raspberry Pi: -p rpi)",
}


def require(*modules):
    """Checks that modules are installed.

    Raises:
        Refusal: a module is missing; the refusal says how to install it.
    """
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise absent(name)
    # Checked as a file: find_spec of a submodule would import the whole package.
    if "mamba_ssm" in modules and not (_folder("mamba_ssm") / "ops" / "bimamba.py").exists():
        raise Refusal(
            "host",
            "The mamba_ssm of this environment is not one that mambaport built",
            found=f"mamba_ssm {metadata.version('mamba_ssm')} without the vision patch set",
            hint=HINTS["mamba_ssm"],
        )


def _folder(package):
    return Path(next(iter(importlib.util.find_spec(package).submodule_search_locations)))


def absent(name):
    """The refusal for a module that is not installed."""
    return Refusal(
        "host",
        f"There is no {'Pillow' if name == 'PIL' else name} in this environment",
        found=f"none in {sys.prefix}",
        hint=HINTS.get(name, f"pip install {name}, into the environment that --python names"),
    )


def outdated(fault):
    """The refusal where the fault is that a module of the wheels lacks a name; None for any other fault.

    fault: AttributeError or ImportError
    """
    name = getattr(fault.obj, "__name__", None) if isinstance(fault, AttributeError) else fault.name
    package = str(name).partition(".")[0]
    absent_package = isinstance(fault, ModuleNotFoundError) and name == package
    if package not in ("mamba_ssm", "causal_conv1d") or absent_package:
        return None
    return Refusal(
        "host",
        f"The {package} of this environment is older than this mambaport needs",
        found=f"{package} {metadata.version(package)}: {fault}",
        expected="wheels of this mambaport",
        hint=f"install again: {HINTS[package]}",
    )


def prepare(threads, device):
    """Sets torch's threads and returns the device: ``device``, or by default the GPU where torch has one.

    Raises:
        Refusal: there is no such device.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    gpu_available = torch.cuda.is_available()
    if device == "cuda" and not gpu_available:
        raise Refusal(
            "host",
            "torch finds no GPU",
            found=f"torch {torch.__version__}, CUDA {torch.version.cuda or 'not built in'}",
            hint="--device cpu, or install a torch that is built for this GPU",
        )
    return device or ("cuda" if gpu_available else "cpu")


def facts(device):
    """The versions, threads and processor that a time depends on."""
    import torch
    from device import processor

    return {
        "python": platform.python_version(),
        "arch": platform.machine(),
        "processor": processor(),
        "torch": torch.__version__,
        "mamba_ssm": metadata.version("mamba_ssm"),
        "causal_conv1d": metadata.version("causal_conv1d"),
        "threads": torch.get_num_threads(),
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "kernels": device != "cpu" or (not forced() and all(map(importlib.util.find_spec, KERNELS))),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def forced():
    """Whether a FORCE_FALLBACK variable is set."""
    words = ("TRUE", "1", "YES", "ON")
    return any(os.environ.get(name, "").strip().upper() in words for name in FALLBACK_VARIABLES)


@contextmanager
def fallback():
    """Forces pure PyTorch while the block runs."""
    before = {name: os.environ.get(name) for name in FALLBACK_VARIABLES}
    os.environ.update(dict.fromkeys(FALLBACK_VARIABLES, "TRUE"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
