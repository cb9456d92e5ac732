"""The probe: a self-contained folder, run by the target interpreter. Prints one JSON object.

Each component is computed by the installed packages and, independently, in ``references.py``. Each is run
by default, where compiled kernels do what they can; with both FORCE_FALLBACK variables set, in pure PyTorch;
and, where there is a GPU and the packages have CUDA extensions, on that. The error is the largest difference
relative to the largest value of the reference.

Arguments: the compiled modules that the packages should have. Each must be importable. A component that such
a module should compute fails by default where no kernel of the module ran, and in pure PyTorch where one did.

It needs torch, causal_conv1d and mamba_ssm, and no part of mambaport.
"""

import contextlib
import importlib
import importlib.util
import inspect
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


def main(expected):
    import torch

    rows = [import_row("causal_conv1d"), import_row("mamba_ssm")]
    compiled = (*KERNELS, *CUDA_EXTENSIONS)
    rows += [import_row(name) for name in compiled if name in expected or (there(name) and not forced(name))]
    for row in rows:
        if row["ok"] and row["name"].endswith("_cuda") and row["name"].split()[1] in expected:
            require_cuda(row)
    if all(row["ok"] for row in rows):
        calls = counted_kernels()
        rows += component_rows(calls, expected)
        wanted = not any(map(forced, KERNELS)) and any(has_cuda(name) for name in CUDA_EXTENSIONS)
        if wanted and torch.cuda.is_available():
            rows += gpu_rows(calls)
    report = {
        "python": platform.python_version(),
        "arch": platform.machine(),
        "system": platform.platform(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.is_available(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda_extensions": any(has_cuda(name) for name in CUDA_EXTENSIONS),
        "instruction_sets": instruction_sets(),
        "optional": {name: there(name) for name in OPTIONAL},
        "components": rows,
    }
    print("\n" + json.dumps(report))
    return 0 if all(row["ok"] for row in rows) else 1


def forced(module):
    """Whether the environment asks for pure PyTorch in a compiled module's place, as the packages do."""
    variable = FALLBACK_VARIABLES[0 if module.startswith("causal_conv1d") else 1]
    return os.environ.get(variable, "").strip().upper() in ("TRUE", "1", "YES", "ON")


def counted_kernels():
    """How often each module's kernels have been called, by module; counted from now on."""
    calls = {}
    for name in KERNELS:
        try:
            kernels = importlib.import_module(f"{name}._lib")
        except ImportError:
            continue
        calls[name] = 0
        for kernel, function in list(vars(kernels).items()):
            if inspect.isfunction(function):
                setattr(kernels, kernel, counting(function, calls, name))
    return calls


def counting(kernel, calls, name):
    def counted(**fields):
        calls[name] += 1
        return kernel(**fields)

    return counted


def instruction_sets():
    """The instruction set of each module of kernels that the packages imported."""
    loaded = {name: getattr(sys.modules.get(name), "instruction_set", None) for name in KERNELS}
    return {name: chosen() for name, chosen in loaded.items() if chosen}  # None: an older wheel's module


def component_rows(calls, expected):
    from components import ALL

    rows = []
    for item in ALL:
        if item.gpu_only:
            continue
        must = [name for name in item.kernels if name in expected and not forced(name)]
        rows.append(component_row(item, item.bound, "default", calls, must))
        with fallback():
            rows.append(component_row(item, item.bound, "fallback", calls))
    return rows


def gpu_rows(calls):
    """Every component again, computed on the GPU."""
    from components import ALL, computing_on

    with computing_on("cuda"):
        return [component_row(item, item.gpu_bound, "gpu", calls) for item in ALL]


def component_row(item, bound, path, calls, must=()):
    """One component on one path; ``must`` are the modules whose kernels have to run."""
    started, before = time.monotonic(), dict(calls)
    row = {"name": item.name, "path": path, "bound": bound}
    try:
        inputs, results, references = item.function()
        ran = [name for name in calls if calls[name] > before[name]]
        row["kernels"] = ran
        idle = [name for name in must if name not in ran]
        if idle:
            raise RuntimeError(f"no kernel of {' and '.join(idle)} ran")
        if ran and path != "default":
            raise RuntimeError(f"kernels of {' and '.join(ran)} ran in place of this path's code")
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


def require_cuda(row):
    """Fails the row of an extension that should hold CUDA code, and is a module for the CPU alone."""
    name = row["name"].split()[1]
    if not has_cuda(name):
        row.update(ok=False, failure=f"{name} holds no CUDA code, and a wheel for CUDA should bring it")


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
    sys.exit(main(sys.argv[1:]))
