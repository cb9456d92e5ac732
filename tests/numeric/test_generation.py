"""MambaLMHeadModel: logits, generation with the cache, and models on disk."""

from __future__ import annotations

import json

import pytest
import reference
import torch
from mamba_ssm import MambaLMHeadModel
from mamba_ssm.models.config_mamba import MambaConfig
from mamba_ssm.utils.generation import InferenceParams, sample
from mamba_ssm.utils.hub import cached_file
from reference import assert_close

pytestmark = pytest.mark.usefixtures("path")
MAMBA2 = {"layer": "Mamba2", "d_state": 16, "headdim": 8, "chunk_size": 16}
ATTENTION = {"causal": True, "d_conv": 4, "num_heads": 4, "rotary_emb_dim": 16, "head_dim": 16,
             "qkv_proj_bias": False, "out_proj_bias": False}  # fmt: skip
CONFIGS = {
    "mamba": {},
    "mamba, unfused": {"fused_add_norm": False, "residual_in_fp32": False},
    "mamba2": {"ssm_cfg": MAMBA2},
    "mamba2 with mlp": {"ssm_cfg": MAMBA2, "d_intermediate": 48},
    "hybrid": {"ssm_cfg": MAMBA2, "attn_layer_idx": [1], "attn_cfg": ATTENTION},
}


@pytest.fixture(params=CONFIGS)
def model(request):
    config = MambaConfig(d_model=32, n_layer=2, vocab_size=50, **CONFIGS[request.param])
    return reference.vary(MambaLMHeadModel(config))


def expected_logits(model, ids):
    attention = model.config.attn_layer_idx

    def mixer(x, p, layer):
        if layer in attention:
            return reference.attention(x, p, ATTENTION["num_heads"], None, True, ATTENTION["rotary_emb_dim"])
        if model.config.ssm_cfg.get("layer") == "Mamba2":
            return reference.mamba2(x, p, MAMBA2["headdim"])
        return reference.mamba(x, p)

    return reference.lm_logits(ids, model, mixer)


def greedy(model, ids, length):
    while ids.shape[1] < length:
        ids = torch.cat([ids, expected_logits(model, ids)[:, -1:].argmax(-1)], dim=1)
    return ids


def test_logits(model):
    ids = torch.randint(50, (2, 19))
    logits = model(ids).logits
    assert logits.shape == (2, 19, 56), "the vocabulary is padded to a multiple of 8"
    expected = expected_logits(model, ids)
    assert_close(logits, expected, 40)
    assert_close(model(ids, num_last_tokens=1).logits, expected[:, -1:], 40)


def test_gradients_reach_every_parameter(model):
    model(torch.randint(50, (2, 19))).logits.square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name


def test_greedy_generation_uses_the_cache(model):
    ids = torch.randint(50, (2, 7))
    expected = greedy(model, ids, 17)
    assert torch.equal(model.generate(ids, max_length=17, top_k=1, vocab_size=56), expected)
    out = model.generate(ids, max_length=17, cg=True, return_dict_in_generate=True, output_scores=True)
    assert torch.equal(out.sequences, expected), "cg asks for a CUDA graph, and changes nothing here"
    assert len(out.scores) == 10
    full = expected_logits(model, expected)
    for i, score in enumerate(out.scores):
        assert_close(score, full[:, 6 + i], 100)


def test_teacher_forcing_and_end_of_sequence(model):
    ids = torch.randint(50, (1, 5))
    teacher = torch.randint(50, (1, 12))
    out = model.generate(
        ids, max_length=12, teacher_outputs=teacher, return_dict_in_generate=True, output_scores=True
    )
    assert torch.equal(out.sequences[:, 5:], teacher[:, 5:])
    chosen = greedy(model, ids, 9)
    stop = int(chosen[0, 7])
    stopped = model.generate(ids, max_length=30, eos_token_id=stop)
    end = (chosen[0, 5:] == stop).nonzero()[0].item() + 6
    assert torch.equal(stopped[0], chosen[0, :end])


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 5},
        {"top_k": 0, "top_p": 0.8},
        {"top_k": 0, "min_p": 0.1},
        {"top_k": 5, "top_p": 0.5, "temperature": 0.7},
        {"top_k": 0, "repetition_penalty": 1.3},
    ],
    ids=str,
)
def test_sampling(model, options):
    ids = torch.randint(50, (3, 4))
    torch.manual_seed(1)
    first = model.generate(ids, max_length=12, vocab_size=50, **options)
    torch.manual_seed(1)
    assert torch.equal(model.generate(ids, max_length=12, vocab_size=50, **options), first)
    assert first.shape == (3, 12)
    assert torch.equal(first[:, :4], ids)
    assert first.max() < 50


def test_which_tokens_sampling_allows():
    probabilities = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.05, 0.9, 0.04, 0.01]])
    logits = torch.log(probabilities) + torch.tensor([[3.0], [-2.0]])  # a constant does not matter

    def seen(**options):
        rows = torch.stack([sample(logits.clone(), **options) for _ in range(400)])
        return [set(column.tolist()) for column in rows.t()]

    assert seen(top_k=1) == [{0}, {1}]
    assert seen(top_k=2) == [{0, 1}, {0, 1}]
    assert seen(top_k=0, top_p=0.7) == [{0, 1}, {1}]
    assert seen(top_k=0, min_p=0.25) == [{0, 1, 2}, {1}]


def test_timing_and_streamer(model, capsys):
    class Streamer:
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, tokens):
            self.tokens.append(tokens)

        def end(self):
            self.ended = True

    streamer = Streamer()
    out = model.generate(torch.randint(50, (1, 3)), max_length=6, enable_timing=True, streamer=streamer)
    assert "decoding time" in capsys.readouterr().out
    assert streamer.ended
    assert torch.equal(torch.cat(streamer.tokens, dim=1), out)


def test_chunked_prompt_with_allocated_cache(model):
    """As upstream's own generation test: a cache allocated beforehand gives the same logits."""
    ids = torch.randint(50, (2, 12))
    params = InferenceParams(max_seqlen=12, max_batch_size=2)
    params.key_value_memory_dict = model.allocate_inference_cache(2, 12)
    full = expected_logits(model, ids)
    with torch.no_grad():
        assert_close(model(ids[:, :8], inference_params=params).logits, full[:, :8], 40)
        params.seqlen_offset = 8
        for t in range(8, 12):
            logits = model(ids[:, t : t + 1], inference_params=params, num_last_tokens=1).logits
            assert_close(logits[:, 0], full[:, t], 100)
            params.seqlen_offset += 1


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_a_folder_and_back(model, tmp_path, dtype):
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["d_model"] == 32
    loaded = MambaLMHeadModel.from_pretrained(str(tmp_path), dtype=dtype).eval()
    for name, value in model.state_dict().items():
        other = loaded.state_dict()[name]
        assert torch.equal(other, value.to(other.dtype)), name
    ids = torch.randint(50, (1, 6))
    if dtype is None:
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    else:
        assert loaded(ids).logits.dtype == dtype
        assert loaded.generate(ids, max_length=10).shape == (1, 10)


def test_a_folder_with_safetensors(model, tmp_path):
    """safetensors' own function leaves out one name of the tensor that the embedding and lm_head share."""
    save_model = pytest.importorskip("safetensors.torch").save_model
    model.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    save_model(model, str(tmp_path / "model.safetensors"))
    loaded = MambaLMHeadModel.from_pretrained(str(tmp_path))
    ids = torch.randint(50, (1, 6))
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_a_torch_that_cannot_load_pickles_safely(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(torch, "__version__", "2.5.1")
    with pytest.raises(RuntimeError, match=r"torch 2\.5\.1 cannot load pytorch_model\.bin safely"):
        MambaLMHeadModel.from_pretrained(str(tmp_path))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    ids = torch.randint(50, (1, 6))
    assert torch.equal(MambaLMHeadModel.from_pretrained(str(tmp_path))(ids).logits, model(ids).logits)


def test_a_folder_without_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config"):
        cached_file(str(tmp_path), "config.json")


def test_a_bfloat16_model_generates():
    config = MambaConfig(d_model=32, n_layer=2, vocab_size=48, ssm_cfg=MAMBA2)
    model = MambaLMHeadModel(config, dtype=torch.bfloat16)
    ids = torch.randint(48, (2, 5))
    out = model.generate(ids, max_length=9, return_dict_in_generate=True, output_scores=True)
    assert out.sequences.shape == (2, 9)
    assert all(score.isfinite().all() for score in out.scores)


def test_transformers_is_used_where_it_is_there():
    generation = pytest.importorskip("transformers.generation")
    model = MambaLMHeadModel(MambaConfig(d_model=16, n_layer=1, vocab_size=16))
    out = model.generate(torch.randint(16, (1, 3)), max_length=5, return_dict_in_generate=True)
    assert isinstance(out, generation.GenerateDecoderOnlyOutput)
    assert out.scores is None
