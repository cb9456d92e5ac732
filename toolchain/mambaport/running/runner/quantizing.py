"""Weights of 8 and 4 bits for the models of the runner."""

from answers import Refusal, send

BITS = {"int8": 8, "int4": 4}


def device_for(weights, device):
    """The device of a model with these weights.

    Raises:
        Refusal: the device is a GPU, and the weights are for a CPU.
    """
    if weights != "float32" and device != "cpu":
        raise Refusal("usage", f"--weights {weights} is for a CPU, and torch has a GPU", hint="--device cpu")
    return device


def quantized(model, weights):
    """The model, its weights replaced in place by those of fewer bits; ``float32`` leaves it as it is.

    Raises:
        Refusal: the environment's mamba_ssm is older than the weights, or a weight is not finite.
    """
    if weights == "float32":
        return model
    try:
        from mamba_ssm.utils.quantize import quantize
    except ImportError:
        raise Refusal(
            "host",
            f"The mamba_ssm of this environment has no {weights} weights",
            found="no mamba_ssm.utils.quantize",
            hint="install the wheels of this mambaport: mambaport install --profile cpu --python PATH",
        ) from None
    send(stage=f"quantizing to {weights}")
    try:
        return quantize(model, BITS[weights])
    except ValueError as fault:
        raise Refusal(
            "run",
            f"The weights cannot be quantized to {weights}",
            found=str(fault),
            hint="the checkpoint holds NaN or infinity; fetch it from its source again",
        ) from None
