"""Measures a model with random weights on this machine: latency, throughput, memory, heat."""

import copy
from dataclasses import replace

import flops
import quantizing
import torch
from answers import send
from device import state
from models import LANGUAGE, VISION
from setting import facts, fallback, prepare
from timing import in_turns, peak_of, summary, warmest

GRAPHED = ("image", "decode")
"""Measures of many short kernels: on a GPU, launching them takes longer than running them."""


def bench(request):
    """Every measure of a model, on its default path and, if requested, with pure PyTorch forced."""
    device = quantizing.device_for(request["weights"], prepare(request["threads"], request["device"]))
    send(stage=f"making {request['model']}")
    with torch.inference_mode():
        made = make(request, device)
        before, hottest, results = state(), {}, []
        for name, (functions, unit, count, operations) in made["measures"].items():
            variants = {variant: synchronized(function, device) for variant, function in functions.items()}
            if request["fallback"]:
                variants["fallback"] = forced(variants["default"])
            peaks = {variant: peak_on(run, device) for variant, run in variants.items()}
            if device != "cpu" and name in GRAPHED and (graph := captured(functions["default"])):
                variants["graph"] = synchronized(graph, device)
            times = in_turns(variants, request["seconds"], name, hottest)
            for variant, seconds in times.items():
                results.append(
                    {
                        "measure": name,
                        "variant": variant,
                        "unit": unit,
                        "flops": operations,
                        "peak_bytes": None if made.get("beside_another") else peaks.get(variant),
                        **summary(seconds, count),
                    }
                )
        after = state()
    for moment in (before, after):
        warmest(moment["temperatures"], hottest)
    return {
        "model": request["model"],
        "parameters": made.get("parameters") or sum(p.numel() for p in made["model"].parameters()),
        "weights": request["weights"],
        "largest_change": made.get("largest_change"),
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
    model, make_measures, logits = work(shape, request, device)
    parameters, change, models = sum(p.numel() for p in model.parameters()), None, {"default": model}
    if request["weights"] != "float32":
        if request["compare_float32"]:
            models["float32"], before = copy.deepcopy(model), logits(model)
        quantizing.quantized(model, request["weights"])
        if "float32" in models:
            change = ((logits(model) - before).abs().max() / before.abs().max()).item()
    of_variants = {variant: make_measures(one) for variant, one in models.items()}
    measures = {
        name: ({variant: found[name][0] for variant, found in of_variants.items()}, *rest)
        for name, (_, *rest) in of_variants["default"].items()
    }
    size = shape.size if request["model"] in VISION else None
    return {
        "depth": shape.depth,
        "size": size,
        "measures": measures,
        "parameters": parameters,
        "largest_change": change,
        "beside_another": len(models) > 1,  # two models in memory: the peak is of both
    }


def shape_of(request):
    """The model's shape, with the image size and depth of the request where it has them."""
    shape = {**VISION, **LANGUAGE}[request["model"]]
    shape = replace(shape, depth=request["depth"] or shape.depth)
    return replace(shape, size=request["size"]) if request["size"] and request["model"] in VISION else shape


def vision_work(shape, request, device):
    """The model, a function that makes the measures of a model, and one that computes a model's logits.

    The measures are by name: (function, unit, units per call, operations).
    """
    import vim

    model = vim.build(shape, device=device)
    image = torch.randn(1, 3, shape.size, shape.size, device=device)

    def measures(one):
        return {"image": (lambda: one(image), "images", 1, flops.vision(shape))}

    return model, measures, lambda one: one(image)


def language_work(shape, request, device):
    """The same as :func:`vision_work`, for a language model."""
    import language

    model, length = language.build(shape, device), request["prompt"]
    tokens = torch.randint(0, shape.vocabulary, (1, length), device=device)

    def measures(one):
        return {
            "prefill": (language.prefill(one, tokens), "tokens", length, flops.language(shape, length)),
            "decode": (language.decode(one, tokens), "tokens", 1, flops.language(shape, 1)),
        }

    return model, measures, lambda one: one(tokens).logits


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


def captured(function):
    """``function`` as a CUDA graph: one launch runs all of its kernels again, on the same tensors.

    `MambaLMHeadModel.generate(cg=True)` decodes in this way. None where a call cannot be captured, such as
    one that waits for the GPU.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # triton compiles and chooses, which cannot be captured
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            out = function()
    except RuntimeError:
        return None

    def run():
        graph.replay()
        return out

    return run


def peak_on(run, device):
    """The peak memory of one call, in bytes, including the model and torch. The call is also the warm-up."""
    if device == "cpu":
        return peak_of(run)
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated()
