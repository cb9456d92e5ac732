"""Model files from a local folder, or from the hub where huggingface_hub is installed."""

import os

import torch
from torch.torch_version import TorchVersion

WEIGHTS_NAME = "pytorch_model.bin"
CONFIG_NAME = "config.json"

try:
    from huggingface_hub import PyTorchModelHubMixin
except ImportError:

    class PyTorchModelHubMixin:
        """Replaces huggingface_hub's mixin: the same methods, which raise an ImportError that names huggingface_hub."""

        def _needs_the_hub(self, *args, **kwargs):
            raise ImportError("this method needs huggingface_hub: pip install huggingface_hub")

        save_pretrained = push_to_hub = _needs_the_hub
        from_pretrained = classmethod(_needs_the_hub)


def load_weights(model_name, device):
    """The tensors of a model by name, on `device`: from model.safetensors in a folder, else from pytorch_model.bin.

    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1, a variable of torch, says that the file is trusted and may run code.
    Raises RuntimeError for pytorch_model.bin with a torch older than 2.6: there, a crafted file runs code also with
    weights_only=True (CVE-2025-32434). FileNotFoundError and ImportError as for `cached_file`.
    """
    tensors = os.path.join(model_name, "model.safetensors")
    if os.path.isfile(tensors):
        try:
            from safetensors.torch import load_file
        except ImportError:
            raise ImportError(f"{tensors} needs safetensors: pip install safetensors") from None
        weights = load_file(tensors, device="cpu" if device is None else str(torch.device(device)))
        # Of weights that are one tensor, safetensors keeps one name.
        if "lm_head.weight" not in weights and "backbone.embedding.weight" in weights:
            weights["lm_head.weight"] = weights["backbone.embedding.weight"]
        return weights
    path = cached_file(model_name, WEIGHTS_NAME)
    trusted = os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "").lower() in ("1", "y", "yes", "true")
    if not trusted and TorchVersion(torch.__version__) < "2.6.0":
        raise RuntimeError(
            f"{model_name}: torch {torch.__version__} cannot load {WEIGHTS_NAME} safely (CVE-2025-32434). Use torch 2.6 or "
            "newer, or a folder with model.safetensors; or, for a file that you trust, set "
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1"
        )
    return torch.load(path, map_location=device, weights_only=not trusted)


def cached_file(model_name, filename):
    """The path of a model's file.

    model_name: a folder, or a name on the hub. A folder needs no network and no other package.
    Raises FileNotFoundError where the folder lacks the file, ImportError for a name without huggingface_hub.
    """
    if os.path.isdir(model_name):
        path = os.path.join(model_name, filename)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{model_name} has no {filename}")
        return path
    try:
        from huggingface_hub import hf_hub_download
    except ImportError:
        raise ImportError(
            f"{model_name} is not a folder here, and the hub needs: pip install huggingface_hub"
        ) from None
    return hf_hub_download(model_name, filename)
