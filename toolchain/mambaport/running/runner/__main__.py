"""Runs one task, given as a file of JSON: ``python runner request.json``."""

import json
import sys
from pathlib import Path

from answers import Refusal, send
from setting import absent, outdated, require

NEEDS = {
    "infer": ("torch", "causal_conv1d", "mamba_ssm", "PIL"),
    "evaluate": ("torch", "causal_conv1d", "mamba_ssm", "PIL"),
    "bench": ("torch", "causal_conv1d", "mamba_ssm"),
    "export": ("torch", "causal_conv1d", "mamba_ssm"),
}
WITHOUT_TORCH = {
    "infer": ("numpy", "PIL", "onnxruntime"),
    "evaluate": ("numpy", "PIL", "onnxruntime"),
    "bench": ("numpy", "onnxruntime"),
}


def main():
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    task = request["task"]
    try:
        in_onnx = request.get("runtime") == "onnx"
        require(*(WITHOUT_TORCH if in_onnx else NEEDS)[task])
        send(stage="importing onnxruntime" if in_onnx else "importing torch")
        send(result=run(task, request))
    except Refusal as refusal:
        send(error=refusal.fields)
        return 1
    return 0


def run(task, request):
    if request.get("runtime") == "onnx":
        if task == "bench":
            import onnx_bench

            return onnx_bench.bench(request)
        import vision_tasks

        return getattr(vision_tasks, task)(request)
    import torch

    try:
        if task == "bench":
            import bench

            return bench.bench(request)
        if task == "export":
            import export

            return export.export(request)
        import vision_tasks

        return getattr(vision_tasks, task)(request)
    except ModuleNotFoundError as fault:  # a dependency of torch or mamba_ssm
        raise outdated(fault) or absent(str(fault.name)) from None
    except (AttributeError, ImportError) as fault:
        refusal = outdated(fault)
        if refusal is None:
            raise
        raise refusal from None
    except (MemoryError, torch.cuda.OutOfMemoryError) as fault:
        raise out_of_memory(fault) from None
    except RuntimeError as fault:
        if "can't allocate memory" not in str(fault):  # torch's error for memory of the CPU
            raise
        raise out_of_memory(fault) from None


def out_of_memory(fault):
    return Refusal(
        "host",
        "There is not enough memory for this model",
        found=str(fault).splitlines()[0] if str(fault) else type(fault).__name__,
        hint="a smaller model, --batch 1, or more swap",
    )


if __name__ == "__main__":
    sys.exit(main())
