"""Measures a file of `mambaport export` in ONNX Runtime, with the measures of bench.py. Needs no torch."""

from dataclasses import replace

import flops
import numpy as np
from device import state
from models import LANGUAGE, VISION
from onnx_session import load, not_exported
from timing import in_turns, peak_of, summary, warmest


def bench(request):
    """Every measure of the model in the file ``request["checkpoint"]``."""
    session, described, facts = load(request)
    path, model = request["checkpoint"], described["model"]
    if not {"depth", "parameters"} <= described.keys() or model not in {**VISION, **LANGUAGE}:
        raise not_exported(path, f"a file of mambaport {described.get('mambaport')}, model {model}")
    vision = model in VISION
    measures = (vision_work if vision else language_work)(session, described, request)
    before, hottest, results = state(), {}, []
    for name, (run, unit, count, operations) in measures.items():
        peak = peak_of(run)
        times = in_turns({"default": run}, request["seconds"], name, hottest)["default"]
        results.append(
            {
                "measure": name,
                "variant": "default",
                "unit": unit,
                "flops": operations,
                "peak_bytes": peak,
                **summary(times, count),
            }
        )
    after = state()
    for moment in (before, after):
        warmest(moment["temperatures"], hottest)
    return {
        "model": model,
        "parameters": int(described["parameters"]),
        "size": int(described["size"]) if vision else None,
        "depth": int(described["depth"]),
        "prompt": None if vision else request["prompt"],
        "measures": results,
        "before": before,
        "after": after,
        "hottest": hottest,
        "environment": facts,
    }


def vision_work(session, described, request):
    """Measures by name: (function, unit, units per call, operations)."""
    size, depth, classes = (int(described[name]) for name in ("size", "depth", "classes"))
    shape = replace(VISION[described["model"]], size=size, depth=depth, classes=classes)
    image = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    return {"image": (lambda: session.run(["logits"], {"image": image}), "images", 1, flops.vision(shape))}


def language_work(session, described, request):
    """As :func:`vision_work`, for a language model."""
    from onnx_language import Decoder, zeros

    shape, length = LANGUAGE[described["model"]], request["prompt"]
    shape = replace(shape, depth=int(described["depth"]))
    tokens = np.random.default_rng(0).integers(0, shape.vocabulary, (1, length))
    feeds = {"tokens": tokens, **zeros(session, 1)}
    names = [item.name for item in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, feeds), strict=True))
    states = {name: outputs[f"next_{name}"] for name in feeds if name != "tokens"}
    decoder = Decoder(session, tokens[:, -1:], states)
    return {
        "prefill": (lambda: session.run(names, feeds), "tokens", length, flops.language(shape, length)),
        "decode": (decoder.step, "tokens", 1, flops.language(shape, 1)),
    }
