"""Measures a model with random weights on this machine: latency, throughput, memory, heat."""

from dataclasses import replace

import flops
import torch
from answers import send
from device import state
from models import LANGUAGE, VISION
from setting import facts, fallback, prepare
from timing import in_turns, peak_of, summary, warmest


def bench(request):
    """Every measure of a model, on its default path and, if requested, with pure PyTorch forced."""
    device = prepare(request["threads"], request["device"])
    send(stage=f"making {request['model']}")
    with torch.inference_mode():
        made = make(request, device)
        before, hottest, results = state(), {}, []
        for name, (functions, unit, count, operations) in made["measures"].items():
            variants = {variant: synchronized(function, device) for variant, function in functions.items()}
            if request["fallback"]:
                variants["fallback"] = forced(variants["default"])
            peaks = {variant: peak_on(run, device) for variant, run in variants.items()}
            times = in_turns(variants, request["seconds"], name, hottest)
            for variant, seconds in times.items():
                results.append(
                    {
                        "measure": name,
                        "variant": variant,
                        "unit": unit,
                        "flops": operations,
                        "peak_bytes": peaks[variant],
                        **summary(seconds, count),
                    }
                )
        after = state()
    for moment in (before, after):
        warmest(moment["temperatures"], hottest)
    return {
        "model": request["model"],
        "parameters": sum(p.numel() for p in made["model"].parameters()),
        "size": made["size"],
        "depth": made["depth"],
        "prompt": None if request["model"] in VISION else request["prompt"],
        "measures": results,
        "before": before,
        "after": after,
        "hottest": hottest,
        "environment": {**facts(device), **made.get("environment", {})},
    }


def make(request, device):
    """The model and its depth, size (of an image) and measures.

    The measures are by name: (functions, unit, units per call, operations). The functions are by variant, and
    the operations None where they are not counted.
    """
    if request.get("config") is not None:
        import hf

        return hf.make(request, device)
    shape = shape_of(request)
    work = vision_work if request["model"] in VISION else language_work
    model, measures = work(shape, request, device)
    measures = {name: ({"default": function}, *rest) for name, (function, *rest) in measures.items()}
    size = shape.size if request["model"] in VISION else None
    return {"model": model, "depth": shape.depth, "size": size, "measures": measures}


def shape_of(request):
    """The model's shape, with the image size and depth of the request where it has them."""
    shape = {**VISION, **LANGUAGE}[request["model"]]
    shape = replace(shape, depth=request["depth"] or shape.depth)
    return replace(shape, size=request["size"]) if request["size"] and request["model"] in VISION else shape


def vision_work(shape, request, device):
    """The model, and its measures: name -> (function, unit, units per call, operations)."""
    import vim

    model = vim.build(shape, device=device)
    image = torch.randn(1, 3, shape.size, shape.size, device=device)
    return model, {"image": (lambda: model(image), "images", 1, flops.vision(shape))}


def language_work(shape, request, device):
    """The same as :func:`vision_work`, for a language model."""
    import language

    model, length = language.build(shape, device), request["prompt"]
    tokens = torch.randint(0, shape.vocabulary, (1, length), device=device)
    return model, {
        "prefill": (language.prefill(model, tokens), "tokens", length, flops.language(shape, length)),
        "decode": (language.decode(model, tokens), "tokens", 1, flops.language(shape, 1)),
    }


def forced(function):
    def run():
        with fallback():
            return function()

    return run


def synchronized(function, device):
    """``function`` and a wait for the GPU, which still works when a call returns."""

    def run():
        out = function()
        if device != "cpu":
            torch.cuda.synchronize()
        return out

    return run


def peak_on(run, device):
    """The peak memory of one call, in bytes, including the model and torch. The call is also the warm-up."""
    if device == "cpu":
        return peak_of(run)
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated()
