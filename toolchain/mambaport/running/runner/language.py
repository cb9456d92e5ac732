"""Language models of the Mamba family with random weights, in the shapes of the released 130M models."""

import torch


def build(shape, device):
    """A MambaLMHeadModel ready for inference."""
    from mamba_ssm import MambaLMHeadModel
    from mamba_ssm.models.config_mamba import MambaConfig

    torch.manual_seed(0)
    config = MambaConfig(
        d_model=shape.width,
        n_layer=shape.depth,
        vocab_size=shape.vocabulary,
        ssm_cfg={"layer": shape.layer},
        pad_vocab_size_multiple=shape.pad_to,
    )
    return MambaLMHeadModel(config, device=device).eval().requires_grad_(False)


def prefill(model, tokens):
    """A function that computes all of ``tokens``, (1, length), at once."""
    return lambda: model(tokens, num_last_tokens=1).logits


def decode(model, tokens):
    """A function that computes one token after ``tokens``, (1, length). Every call does the same work."""
    from mamba_ssm.utils.generation import InferenceParams

    states = InferenceParams(max_seqlen=tokens.shape[1] + 1, max_batch_size=1)
    model(tokens, inference_params=states, num_last_tokens=1)
    states.seqlen_offset = tokens.shape[1]
    return lambda: model(tokens[:, -1:], inference_params=states, num_last_tokens=1).logits
