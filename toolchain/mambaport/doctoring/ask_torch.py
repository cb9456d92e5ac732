"""Run by the target interpreter: what torch reports about the GPU, and whether the extensions load.

Prints one JSON object. An import that fails is recorded with the loader's message.
"""

import sys
from pathlib import Path

# This file's folder has modules of mambaport (cuda.py). They must not hide the environment's modules.
sys.path[:] = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]

import importlib  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402

EXTENSIONS = ("causal_conv1d_cuda", "selective_scan_cuda")


def load(name):
    """Imports a module that is installed: None where it loads, else the exception as text."""
    try:
        importlib.import_module(name)
    except Exception as fault:
        return f"{type(fault).__name__}: {fault}"
    return None


def has_cuda(name):
    """False for the module of a CPU wheel, which holds no CUDA code; True for a module that does not load."""
    return getattr(sys.modules.get(name), "HAS_CUDA", True)


def torch_facts():
    fault = load("torch")
    if fault is not None:
        return {"fault": fault}
    import torch

    facts = {
        "version": torch.__version__,
        "cuda": torch.version.cuda,
        "distributed": torch.distributed.is_available(),
        "available": torch.cuda.is_available(),
        "architectures": torch.cuda.get_arch_list() if torch.version.cuda else [],
    }
    if facts["available"]:
        major, minor = torch.cuda.get_device_capability()
        facts.update(gpu=torch.cuda.get_device_name(), sm=f"{major}{minor}")
        try:
            (torch.ones(8, device="cuda") * 2).sum().item()
        except Exception as fault:
            facts["kernel_fault"] = f"{type(fault).__name__}: {fault}"
    return facts


def main():
    installed = [name for name in EXTENSIONS if importlib.util.find_spec(name) is not None]
    torch = torch_facts()
    extensions = {name: load(name) for name in installed}
    facts = {
        "torch": torch,
        "triton": importlib.util.find_spec("triton") is not None,
        "extensions": {name: fault for name, fault in extensions.items() if has_cuda(name)},
    }
    print("\n" + json.dumps(facts))


main()
