"""A Vision Mamba in PyTorch, as `infer` and `evaluate` use a model."""

from dataclasses import replace
from pathlib import Path

import images
import torch
import vim
from answers import send
from checkpoints import fit, read_state
from models import VISION
from quantizing import device_for, quantized
from setting import facts, prepare


def build(request):
    """The model requested, and its device."""
    weights = request.get("weights", "float32")
    device = device_for(weights, prepare(request["threads"], request["device"]))
    name, path = request["model"], request.get("checkpoint")
    shape, state = VISION[name], None
    for field in ("size", "depth"):
        if request[field]:
            shape = replace(shape, **{field: request[field]})
    if path is not None:
        send(stage=f"reading {Path(path).name}")
        state = read_state(path)
        shape = fit(name, shape, state, path, request["size"])
    send(stage=f"making {name}")
    return quantized(vim.build(shape, state, device=device), weights), device


class Classifier:
    """Images to classes."""

    def __init__(self, request):
        self.model, self.device = build(request)
        self.name, self.checkpoint = request["model"], request.get("checkpoint")
        self.size, self.classes = self.model.shape.size, self.model.shape.classes

    def read(self, path, upright=True):
        """The model's input for an image."""
        return images.read(path, self.size, upright)

    @torch.inference_mode()
    def best(self, inputs, count):
        """The ``count`` best classes of each input: pairs of number and probability."""
        logits = self.model(torch.stack(inputs).to(self.device)).float().cpu()
        order = logits.topk(min(count, logits.shape[1])).indices
        chances = logits.softmax(dim=-1).gather(1, order)
        return [list(zip(*row, strict=True)) for row in zip(order.tolist(), chances.tolist(), strict=True)]

    def facts(self):
        """The versions and the machine."""
        return facts(self.device)
