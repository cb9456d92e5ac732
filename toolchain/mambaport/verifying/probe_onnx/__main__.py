"""The probe of an environment without torch: the operators of the fused form, run by ONNX Runtime.

Each operator is computed from a file of one node, and step by step in float64 by numpy. The error is the
largest difference, relative to the largest value of the reference. Prints one JSON object, as the probe with
torch does.

It needs numpy, onnxruntime and mambaport_onnx, and no part of mambaport.
"""

import json
import os
import platform
import time
import traceback

BOUND = 1e-5


def main():
    rows = [import_row(name) for name in ("numpy", "PIL", "onnxruntime", "mambaport_onnx")]
    release = None
    if all(row["ok"] for row in rows):
        import onnxruntime
        from operators import cases

        release = onnxruntime.__version__
        rows += [operator_row(*case) for case in cases()]
    report = {
        "python": platform.python_version(),
        "arch": platform.machine(),
        "system": platform.platform(),
        "torch": None,
        "onnxruntime": release,
        "threads": os.cpu_count(),
        "cuda": False,
        "optional": {},
        "components": rows,
    }
    print("\n" + json.dumps(report))
    return 0 if all(row["ok"] for row in rows) else 1


def import_row(module):
    started = time.monotonic()
    row = {"name": f"import {module}", "path": "default"}
    try:
        found = __import__(module)
        version = str(getattr(found, "__version__", getattr(found, "VERSION", "")))
        row.update(ok=True, output=version, where=os.path.dirname(found.__file__))
    except Exception as fault:
        row.update(failure_of(fault))
    row["seconds"] = round(time.monotonic() - started, 3)
    return row


def operator_row(name, inputs, attributes, wanted):
    started = time.monotonic()
    row = {"name": name, "path": "default", "bound": BOUND, "kernels": ["mambaport_onnx"]}
    try:
        results = run(name, inputs, attributes, list(wanted))
        error = max(map(difference, results, wanted.values()))
        first = next(iter(inputs.values()))
        row.update(input=shape(first), output=shape(results[0]), error=error, ok=bool(error <= BOUND))
    except Exception as fault:
        row.update(failure_of(fault))
    row["seconds"] = round(time.monotonic() - started, 3)
    return row


def run(name, inputs, attributes, outputs):
    """The outputs of one node, computed by ONNX Runtime."""
    import mambaport_onnx
    import onnxruntime
    from files import one_node

    order = [value.name for value in mambaport_onnx.operator(name).inputs]
    order = order[: max(order.index(item) for item in inputs) + 1]
    given = {key: value for key, value in inputs.items() if value is not None}
    file = one_node(
        name, mambaport_onnx.DOMAIN, [key if key in given else "" for key in order], outputs, attributes
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    mambaport_onnx.register(options)
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return session.run(outputs, given)


def difference(result, reference):
    """The largest difference, relative to the largest value; infinite where a result is not finite."""
    import numpy as np

    assert result.shape == reference.shape, f"shape {result.shape}, not {reference.shape}"
    if not np.isfinite(result).all():
        return float("inf")
    return float(np.abs(result - reference).max() / np.abs(reference).max())


def failure_of(fault):
    text = f"{type(fault).__name__}: {fault}"
    return {"ok": False, "failure": text, "traceback": traceback.format_exc(limit=-4)}


def shape(value):
    return "x".join(map(str, value.shape))


if __name__ == "__main__":
    raise SystemExit(main())
