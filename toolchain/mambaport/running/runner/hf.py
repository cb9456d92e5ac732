"""A configuration of transformers with random weights, with mamba_ssm and causal_conv1d and without."""

import copy
import importlib
import importlib.abc
import importlib.util
import inspect
import itertools
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from answers import Refusal
from setting import require

PACKAGES = ("mamba_ssm", "causal_conv1d")
OLDEST = "5.15"
UPGRADE = f"pip install --upgrade 'transformers>={OLDEST}', into the environment that --python names"
BYTES = 4
"""Of a weight: all are float32."""
CACHES = ("cache", "past_key_values", "cache_params")
"""The names that releases of transformers have for the argument with the states."""


def make(request, device):
    """The model with its measures, as bench.make returns them.

    The variant ``without`` is the same model with the same weights, whose code was loaded while Python found
    neither package.

    Raises:
        Refusal: transformers is missing or too old, refuses the configuration, or calls neither package for
            the model; the weights do not fit into the memory.
    """
    require("transformers")
    check_release()
    kind = model_class(request)
    config = refusing(request, lambda: kind.config_class.from_dict(request["config"]))
    check_memory(kind, config, request)
    model = refusing(request, lambda: build(kind, config)).to(device).eval().requires_grad_(False)
    other = without_packages(model, request)
    tokens = torch.randint(0, config.get_text_config().vocab_size, (1, request["prompt"]), device=device)
    models = {"default": model, "without": other}
    prefills = {name: prefill(item, tokens) for name, item in models.items()}
    # Some configurations are refused only when the model runs.
    refusing(request, prefills["default"])
    decodes = refusing(request, lambda: {name: decode(item, tokens) for name, item in models.items()})
    return {
        "model": model,
        "size": None,
        "depth": config.get_text_config().num_hidden_layers,
        "measures": {
            "prefill": (prefills, "tokens", request["prompt"], None),
            "decode": (decodes, "tokens", 1, None),
        },
        "environment": {"transformers": sys.modules["transformers"].__version__},
    }


def check_release():
    """Raises a Refusal where the installed transformers does not call the packages on a CPU."""
    import transformers

    try:
        from transformers.integrations.hub_kernels import use_kernel_func_from_hub_with_fallback  # noqa: F401
    except ImportError:
        raise Refusal(
            "host",
            "This transformers does not call mamba_ssm and causal_conv1d on a CPU",
            found=f"transformers {transformers.__version__}",
            expected=f"transformers {OLDEST} or newer",
            hint=UPGRADE,
        ) from None
    transformers.logging.set_verbosity_error()


def model_class(request):
    """The class of the language model that the configuration names.

    Raises:
        Refusal: transformers has no such model, or the model is no language model.
    """
    import transformers
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    name = request["config"]["model_type"]
    if name not in CONFIG_MAPPING:
        raise Refusal(
            "run",
            f"transformers has no model of the type {name!r}",
            found=f"transformers {transformers.__version__}",
            expected="the model_type of a model in transformers, such as mamba, mamba2 or falcon_mamba",
            hint=f"correct model_type in {request['path']}; a new model needs a new transformers: {UPGRADE}",
        )
    try:
        return AutoModelForCausalLM._model_mapping[CONFIG_MAPPING[name]]
    except KeyError:
        raise Refusal(
            "run",
            f"transformers has no language model of the type {name!r}",
            expected="a model of AutoModelForCausalLM",
            hint="name the config.json of a language model; of a model for images and text, the text_config",
        ) from None


def refusing(request, function):
    """The result of ``function``; an error of transformers becomes a Refusal."""
    try:
        return function()
    except (MemoryError, Refusal):
        raise
    except Exception as fault:  # transformers' checks of a configuration raise errors of many kinds
        if "can't allocate memory" in str(fault):  # torch's error for memory of the CPU
            raise
        raise Refusal(
            "run",
            f"transformers refuses the configuration {request['path']}",
            found=f"{type(fault).__name__}: {' '.join(str(fault).split())[:300]}",
            hint="correct the entry of the file that the message names",
        ) from None


def build(kind, config):
    torch.manual_seed(0)
    return kind._from_config(config, dtype=torch.float32)


def check_memory(kind, config, request):
    """Raises a Refusal where the weights need more memory than the machine has free."""

    def count():
        with torch.device("meta"):
            return sum(weight.numel() for weight in build(kind, config).parameters())

    needed, free = BYTES * refusing(request, count), available_bytes()
    if free is not None and needed > free:
        raise Refusal(
            "host",
            "There is not enough memory for this model",
            found=f"{free / 1e9:.3g} GB free",
            expected=f"{needed / 1e9:.3g} GB for {needed / BYTES / 1e9:.3g} G weights in float32, and more",
            hint="a configuration with fewer layers (num_hidden_layers) or a smaller hidden_size; more swap",
        )


def available_bytes():
    """The memory that programs can take without swapping; None where the system does not report it."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith(("MemAvailable:", "SwapFree:"))]
    return sum(kilobytes) * 1024 if kilobytes else None


def without_packages(model, request):
    """The same model and weights, with the code that transformers runs where neither package is installed.

    Raises:
        Refusal: the model's code asks for neither package.
    """
    code = sys.modules[type(model).__module__]
    hidden, asked = loaded_without(code)
    if not asked:
        raise Refusal(
            "run",
            f"This model calls neither mamba_ssm nor causal_conv1d: {request['config']['model_type']}",
            expected="a model with Mamba layers or short convolutions",
            hint="docs/how-to/transformers.md lists such models",
        )
    tensors = itertools.chain(model.parameters(), model.buffers())
    other = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for module in other.modules():
        if type(module).__module__ == code.__name__:
            module.__class__ = getattr(hidden, type(module).__name__)
    return other


def loaded_without(code):
    """The module ``code`` loaded again without the packages, and the packages that the code asked for."""
    finder = Hidden()
    with finder.hidden():
        spec = importlib.util.find_spec(code.__name__)
        again = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(again)
    return again, finder.asked


class Hidden(importlib.abc.MetaPathFinder):
    """Makes Python find neither package, and records which were asked for."""

    def __init__(self):
        self.asked = set()

    def find_spec(self, fullname, path=None, target=None):
        package = fullname.partition(".")[0]
        if package in PACKAGES:
            self.asked.add(package)
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)

    @contextmanager
    def hidden(self):
        before = {
            name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in PACKAGES
        }
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)
            sys.modules.update(before)


def options_of(model, length, start=0):
    """The arguments of the model, other than the tokens, as far as the model has them."""
    parameters = inspect.signature(model.forward).parameters
    found = {"use_cache": True}
    if "position_ids" in parameters:
        found["position_ids"] = torch.arange(start, start + length, device=model.device)[None]
    if "logits_to_keep" in parameters:
        found["logits_to_keep"] = 1
    return found


def prefill(model, tokens):
    """A function that computes all of ``tokens``, (1, length), at once, and the states after them."""
    options = options_of(model, tokens.shape[1])
    return lambda: model(tokens, **options).logits


def decode(model, tokens):
    """A function that computes one token after ``tokens``, (1, length). Every call does the same work."""
    length = tokens.shape[1]
    parameters = inspect.signature(model.forward).parameters
    name = next(name for name in CACHES if name in parameters)
    cache = model(tokens, **options_of(model, length))[name]
    before = [(vars(layer), dict(vars(layer))) for layer in cache.layers]
    options = {**options_of(model, 1, length), name: cache}

    def step():
        out = model(tokens[:, -1:], **options).logits
        for attributes, values in before:  # the next call sees as many keys
            attributes.update(values)
        return out

    return step
