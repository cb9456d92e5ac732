"""The cases in a process that finds none of the packages: ``python without.py FILE MODEL...``.

The file gets all results, those of the emulations among them: transformers' own code, changed in the one
respect in which upstream's function differs by design.
"""

import sys
from contextlib import contextmanager
from unittest import mock

PACKAGES = (
    "mamba_ssm",
    "causal_conv1d",
    "selective_scan_cuda",
    "causal_conv1d_cuda",
    "causal_conv1d_cpu",
    "selective_scan_cpu",
)


def main(path, *names):
    sys.modules.update(dict.fromkeys(PACKAGES))  # to import a name that stands for None is an ImportError
    import torch
    import transformers
    from cases import run

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    results = {name: run(name) | emulate(name) for name in names}
    assert not any(sys.modules[name] for name in PACKAGES)
    torch.save(results, path)


def emulate(name):
    """Case -> its result where transformers' code is changed as upstream's functions differ."""
    import cases
    from models import MODELS

    model, found = MODELS[name], {}
    for case, change in (
        ("backward", norm_after_projection if name == "falcon_mamba" else None),
        ("backward padded", padding_through_the_convolution if model.fused else None),
        ("packed", convolution_apart if model.packing == "conv" else None),
    ):
        if change is not None:
            built = cases.build(name)
            with change(built):
                found[f"{case}, as upstream"] = cases.CASES[case](built)
    return found


def module_of(built):
    return sys.modules[type(built).__module__]


@contextmanager
def padding_through_the_convolution(built):
    """Padding is set to zero before a mixer, not after the convolution: the fused function has no mask."""
    module, mixers = module_of(built), []
    original = module.apply_mask_to_padding_states

    def first_of_two(states, mask):
        mixers.append(states)
        return original(states, mask) if len(mixers) % 2 else states

    with mock.patch.object(module, "apply_mask_to_padding_states", first_of_two):
        if built.config.model_type == "falcon_mamba":
            with norm_after_projection(built):
                yield
        else:
            yield


@contextmanager
def norm_after_projection(built):
    """FalconMamba's norm of dt follows dt's projection."""
    import torch

    module = module_of(built)
    scan = module.mamba_selective_scan

    def normalized(u, dt, *args, **options):
        epsilon = built.config.mixer_rms_eps
        return scan(u, dt * torch.rsqrt(dt.square().mean(dim=1, keepdim=True) + epsilon), *args, **options)

    for layer in built.backbone.layers:
        layer.mixer.dt_layernorm.forward = lambda dt: dt
    with mock.patch.object(module, "mamba_selective_scan", normalized):
        yield


@contextmanager
def convolution_apart(built):
    """The convolution keeps the sequences of a packed row apart, and the scan does not."""
    import torch
    from cases import LENGTHS

    module = module_of(built)
    convolution = module.causal_conv1d_fn

    def apart(x, weight, bias, activation, seq_idx):
        parts = (convolution(part, weight, bias, activation=activation) for part in x.split(LENGTHS, dim=2))
        return torch.cat(list(parts), dim=2)

    with mock.patch.object(module, "causal_conv1d_fn", apart):
        yield


if __name__ == "__main__":
    main(*sys.argv[1:])
