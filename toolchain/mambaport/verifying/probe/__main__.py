"""The probe: a self-contained folder, run by the target interpreter. Prints one JSON object.

Each component is computed by the installed packages and, independently, in ``references.py``. Each is run
by default, where compiled kernels do what they can; with both FORCE_FALLBACK variables set, in pure PyTorch;
and, where there is a GPU and the packages have CUDA extensions, on that. The error is the largest difference
relative to the largest value of the reference.

It needs torch, causal_conv1d and mamba_ssm, and no part of mambaport.
"""

import contextlib
import importlib.util
import json
import os
import platform
import sys
import time
import traceback

FALLBACK_VARIABLES = ("CAUSAL_CONV1D_FORCE_FALLBACK", "SELECTIVE_SCAN_FORCE_FALLBACK")
KERNELS = ("causal_conv1d_cpu", "selective_scan_cpu")
CUDA_EXTENSIONS = ("causal_conv1d_cuda", "selective_scan_cuda")
OPTIONAL = ("triton", "transformers", "huggingface_hub")


def main():
    import torch

    forced = any(os.environ.get(name) for name in FALLBACK_VARIABLES)
    rows = [import_row("causal_conv1d"), import_row("mamba_ssm")]
    if not forced:
        rows += [import_row(name) for name in (*KERNELS, *CUDA_EXTENSIONS) if there(name)]
    if all(row["ok"] for row in rows):
        rows += component_rows(forced)
        if not forced and torch.cuda.is_available() and any(has_cuda(name) for name in CUDA_EXTENSIONS):
            rows += gpu_rows()
    report = {
        "python": platform.python_version(),
        "arch": platform.machine(),
        "system": platform.platform(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda_extensions": any(has_cuda(name) for name in CUDA_EXTENSIONS),
        "optional": {name: there(name) for name in OPTIONAL},
        "components": rows,
    }
    print("\n" + json.dumps(report))
    return 0 if all(row["ok"] for row in rows) else 1


def component_rows(forced):
    from components import ALL

    rows = []
    for item in ALL:
        if item.gpu_only:
            continue
        if not forced:
            rows.append(component_row(item.name, item.function, item.bound, "default"))
        with fallback():
            rows.append(component_row(item.name, item.function, item.bound, "fallback"))
    return rows


def gpu_rows():
    """Every component again, computed on the GPU."""
    from components import ALL, computing_on

    with computing_on("cuda"):
        return [component_row(item.name, item.function, item.gpu_bound, "gpu") for item in ALL]


def component_row(name, function, bound, path):
    """One component on one path."""
    started = time.monotonic()
    row = {"name": name, "path": path, "bound": bound}
    try:
        inputs, results, references = function()
        error = compare(results, references)
        row.update(
            input=shape_text(inputs[0]), output=shape_text(results[0]), error=error, ok=bool(error <= bound)
        )
    except Exception as fault:
        row.update(failure_of(fault))
    row["seconds"] = round(time.monotonic() - started, 3)
    return row


def import_row(module):
    started = time.monotonic()
    row = {"name": f"import {module}", "path": "default"}
    try:
        found = __import__(module)
        version = str(getattr(found, "__version__", "compiled"))
        row.update(ok=True, output=version, where=os.path.dirname(found.__file__))
    except Exception as fault:
        row.update(failure_of(fault))
    row["seconds"] = round(time.monotonic() - started, 3)
    return row


def failure_of(fault):
    text = f"{type(fault).__name__}: {fault}"
    return {"ok": False, "failure": text, "traceback": traceback.format_exc(limit=-4)}


def compare(results, references):
    """The largest relative error; infinite when a result is not finite."""
    worst = 0.0
    assert len(results) == len(references), f"{len(results)} results, not {len(references)}"
    for result, reference in zip(results, references):
        assert result.shape == reference.shape, f"shape {tuple(result.shape)}, not {tuple(reference.shape)}"
        got, wanted = result.detach().cpu().double(), reference.detach().double()
        if not bool(got.isfinite().all()):
            return float("inf")
        worst = max(worst, float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30)))
    return worst


def shape_text(value):
    return "x".join(map(str, value.shape))


@contextlib.contextmanager
def fallback():
    """Pure PyTorch, whatever else could do the work."""
    before = {name: os.environ.get(name) for name in FALLBACK_VARIABLES}
    os.environ.update(dict.fromkeys(FALLBACK_VARIABLES, "TRUE"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def there(module):
    return importlib.util.find_spec(module) is not None


def has_cuda(extension):
    """Whether the extension holds CUDA code; the module of its name in a CPU wheel does not."""
    if not there(extension):
        return False
    try:
        return getattr(__import__(extension), "HAS_CUDA", True)
    except Exception:  # installed for another torch; its row says so
        return True


if __name__ == "__main__":
    sys.exit(main())
