"""A Vision Mamba in a file of `mambaport export`, as `infer` and `evaluate` use a model. Needs no torch."""

import os
import platform

import images
import numpy as np
from answers import Refusal, send
from device import processor
from onnx_session import open_session, properties, require_versions


class Classifier:
    """Images to classes.

    Raises:
        Refusal: the file is not a Vision Mamba's.
    """

    def __init__(self, request):
        require_versions("onnxruntime")
        import onnxruntime

        self.release = onnxruntime.__version__
        path = self.checkpoint = request["checkpoint"]
        self.threads = request["threads"] or os.cpu_count()
        send(stage=f"reading {path}")
        self.session = open_session(path, self.threads)
        self.described = properties(self.session)
        self.name = self.described.get("model")
        if "size" not in self.described:
            raise Refusal(
                "run",
                f"{path} is not a Vision Mamba that mambaport exported",
                found=f"the model {self.name}" if self.name else "no name of a model in the file",
                hint="write such a file: mambaport export --model vim-tiny",
            )
        self.size, self.classes = int(self.described["size"]), int(self.described["classes"])

    def read(self, path, upright=True):
        """The model's input for an image."""
        return images.read(path, self.size, upright, images.normalize_array)

    def best(self, inputs, count):
        """The ``count`` best classes of each input: pairs of number and probability."""
        (logits,) = self.session.run(["logits"], {"image": np.stack(inputs)})
        order = np.argsort(-logits, axis=1, kind="stable")[:, :count]
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances = np.take_along_axis(chances / chances.sum(axis=1, keepdims=True), order, axis=1)
        return [list(zip(*row, strict=True)) for row in zip(order.tolist(), chances.tolist(), strict=True)]

    def facts(self):
        """The versions and the machine."""
        return {
            "python": platform.python_version(),
            "arch": platform.machine(),
            "processor": processor(),
            "torch": None,
            "onnxruntime": self.release,
            "mamba_ssm": self.described["mamba_ssm"],
            "causal_conv1d": self.described["causal_conv1d"],
            "threads": self.threads,
            "device": "cpu",
            "kernels": self.described["form"] == "fused",
            "capability": None,
        }
