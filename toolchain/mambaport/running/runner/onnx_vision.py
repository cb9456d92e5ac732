"""A Vision Mamba in a file of `mambaport export`, as `infer` and `evaluate` use a model. Needs no torch."""

import images
import numpy as np
from onnx_session import load, not_exported


class Classifier:
    """Images to classes.

    Raises:
        Refusal: the file is not a Vision Mamba's.
    """

    def __init__(self, request):
        path = self.checkpoint = request["checkpoint"]
        self.session, self.described, self._facts = load(request)
        self.name = self.described["model"]
        if "size" not in self.described:
            raise not_exported(path, f"the model {self.name}", "a Vision Mamba")
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
        return self._facts
