"""The models that become ONNX files: inputs, outputs, comparison with PyTorch, and times."""

import statistics
import time
from dataclasses import replace

import numpy as np
import torch
from answers import Refusal
from models import LANGUAGE
from onnx_language import Decoder, zeros
from quantizing import quantized

STEPS = 3
IMAGES = (1, 3)
PROMPTS = ((1, 1), (3, 5), (1, 100))
"""Batches and lengths that are compared."""
EXAMPLE_LENGTH = 72
TIMED_PROMPT = 128
SECONDS = 2.0


class VisionWork:
    """A Vision Mamba: image (batch, 3, size, size) to logits (batch, classes)."""

    quantized = False
    """Whether the exported model has weights of 8 bits already."""

    def __init__(self, request):
        import torch_vision

        self.model, _ = torch_vision.build({**request, "device": "cpu"})
        self.size = self.model.shape.size
        self.exported = self.model
        self.arguments = (self.images(2),)
        self.names = (["image"], ["logits"])
        self.dynamic = ({0: "batch"},)
        shape = self.model.shape
        self.facts = {"size": self.size, "classes": shape.classes, **size_of(self.model, shape.depth)}

    def images(self, count):
        return torch.randn(count, 3, self.size, self.size)

    def compare(self, session):
        found = []
        for batch in IMAGES:
            image = self.images(batch)
            logits = session.run(None, {"image": image.numpy()})[0]
            found.append(
                {"batch": batch, "length": None, "difference": difference(logits, self.model(image))}
            )
        return found

    def measure(self, session):
        image = self.images(1)
        feeds = {"image": image.numpy()}
        return [timed("image", lambda: self.model(image), lambda: session.run(None, feeds))]


class LanguageWork:
    """A language model: tokens (batch, length) and states to the last token's logits and the next states."""

    def __init__(self, request):
        import language
        from stateful import Stateful

        shape = LANGUAGE[request["model"]]
        self.shape = replace(shape, depth=request["depth"] or shape.depth)
        self.model = language.build(self.shape, "cpu")
        if request.get("checkpoint"):
            load_language(self.model, request)

        self.quantized = request["int8"] and request["form"] == "fused"
        changed = language.build(self.shape, "cpu")
        if self.quantized:
            changed.load_state_dict(self.model.state_dict())
            quantized(changed, "int8")
        else:
            share(changed, self.model)
        self.exported = Stateful(changed, plain=request["int8"])
        states = self.exported.first_states(2)
        self.arguments = (self.tokens(2, EXAMPLE_LENGTH), *states)
        inputs = [f"{kind}_state.{i}" for i in range(self.shape.depth) for kind in ("conv", "scan")]
        self.names = (["tokens", *inputs], ["logits", *(f"next_{name}" for name in inputs)])
        self.dynamic = ({0: "batch", 1: "length"}, tuple({0: "batch"} for _ in states))
        vocabulary = self.model.lm_head.weight.shape[0]
        self.facts = {"vocabulary": vocabulary, **size_of(self.model, self.shape.depth)}

    def tokens(self, batch, length):
        return torch.randint(0, self.shape.vocabulary, (batch, length))

    def prefilled(self, session, tokens):
        """The logits after a prompt, and a decoder that goes on from the prompt's states."""
        feeds = {"tokens": tokens.numpy(), **zeros(session, len(tokens))}
        logits, *states = session.run(None, feeds)
        return logits, Decoder(
            session, feeds["tokens"][:, -1:], dict(zip(self.names[0][1:], states, strict=True))
        )

    def compare(self, session):
        from stateful import decoded

        found = []
        for batch, length in PROMPTS:
            prompt, more = self.tokens(batch, length), self.tokens(batch, STEPS)
            wanted = decoded(self.model, prompt, more)
            logits, decoder = self.prefilled(session, prompt)
            differences = [difference(logits, wanted[0])]
            for token, expected in zip(more.t(), wanted[1:], strict=True):
                differences.append(difference(decoder.step(token.numpy()), expected))
            # NaN stays NaN, as it does not in Python's max.
            found.append({"batch": batch, "length": length, "difference": float(np.max(differences))})
        return found

    def measure(self, session):
        import language

        prompt = self.tokens(1, TIMED_PROMPT)
        feeds = {"tokens": prompt.numpy(), **zeros(session, 1)}
        prefill = timed("prefill", language.prefill(self.model, prompt), lambda: session.run(None, feeds))
        _, decoder = self.prefilled(session, prompt)
        return [prefill, timed("decode", language.decode(self.model, prompt), decoder.step)]


def share(model, source):
    """Gives a model the layers of another one of the same shape, so that weights are in memory once."""
    for block, other in zip(model.backbone.layers, source.backbone.layers, strict=True):
        block.mixer, block.norm = other.mixer, other.norm
    model.backbone.norm_f, model.backbone.embedding = source.backbone.norm_f, source.backbone.embedding
    model.lm_head = source.lm_head


def load_language(model, request):
    """Loads a checkpoint, which must fit exactly.

    Raises:
        Refusal: it does not.
    """
    from checkpoints import read_state

    path = request["checkpoint"]
    state = read_state(path)
    state.setdefault("lm_head.weight", state.get("backbone.embedding.weight"))
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    present = {name: tuple(value.shape) for name, value in state.items() if value is not None}
    if present != wanted:
        odd = sorted(set(wanted.items()) ^ set(present.items()))[0]
        raise Refusal(
            "run",
            f"This checkpoint is not one of {request['model']}: {path}",
            found=f"{len(present)} tensors; a difference is {odd[0]} {odd[1]}",
            expected=f"{len(wanted)} tensors with the names and shapes of state-spaces' release",
            hint="give pytorch_model.bin of that model; without --checkpoint the weights are random",
        )
    model.load_state_dict(state)


def size_of(model, depth):
    """The properties of a file that `bench` compares."""
    return {"depth": depth, "parameters": sum(item.numel() for item in model.parameters())}


def difference(found, wanted):
    """The largest difference, relative to the largest number wanted."""
    wanted = wanted.double()
    return float((torch.from_numpy(found).double() - wanted).abs().max() / wanted.abs().max())


def timed(name, in_torch, in_onnx):
    """Medians of both, in turns."""
    times = ([], [])
    for function in (in_torch, in_onnx):
        function()
    started = time.perf_counter()
    while len(times[0]) < 5 or (time.perf_counter() - started < SECONDS and len(times[0]) < 200):
        for function, spent in zip((in_torch, in_onnx), times, strict=True):
            before = time.perf_counter()
            function()
            spent.append(time.perf_counter() - before)
    torch_ms, onnx_ms = (statistics.median(spent) * 1e3 for spent in times)
    return {"measure": name, "torch_ms": torch_ms, "onnx_ms": onnx_ms, "runs": len(times[0])}
