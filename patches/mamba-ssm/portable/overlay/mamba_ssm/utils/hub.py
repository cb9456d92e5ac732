"""Model files from a local folder, or from the hub where huggingface_hub is installed."""

import os

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
