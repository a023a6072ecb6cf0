import math

import pytest
import torch
from torch.nn import functional as F

import official_models as tiny
from spatia_env.errors import DependencyError, PromptError
from spatia_env.models.wan import text_encoder
from spatia_env.models.wan.convert import ConvertConfig, convert
from spatia_env.models.wan.text_encoder import NEGATIVE_PROMPT, UMT5TextEncoder, clean_prompt

pytest.importorskip("ftfy")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("text")
    config = ConvertConfig(
        wan=tiny.write_original(root / "wan"),
        control=tiny.write_control(root / "control.safetensors"),
        out=root / "model",
        dtype="float32",
        **tiny.statistics(),
    )
    return convert(config).folder


def bucket(distance):
    """T5's bidirectional bucket of a relative position, 32 buckets up to 128."""
    half, exact = 16, 8
    base, distance = (half if distance > 0 else 0), abs(distance)
    if distance < exact:
        return base + distance
    large = exact + int(math.log(distance / exact) / math.log(128 / exact) * (half - exact))
    return base + min(large, half - 1)


def encode_slowly(tensors, ids, heads):
    """umT5's encoder from its published description, on the rows that exist."""

    def norm(x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * tensors[name]

    buckets = torch.tensor([[bucket(k - q) for k in range(len(ids))] for q in range(len(ids))])
    x = tensors["token_embedding.weight"][ids]
    for i in range(2):
        block = f"blocks.{i}."
        h = norm(x, block + "norm1.weight")
        q, k, v = (
            (h @ tensors[f"{block}attn.{n}.weight"].T).unflatten(-1, (heads, -1)).transpose(0, 1)
            for n in "qkv"
        )
        bias = tensors[block + "pos_embedding.embedding.weight"][buckets].permute(2, 0, 1)
        out = (q @ k.transpose(-1, -2) + bias).softmax(-1) @ v
        x = x + out.transpose(0, 1).flatten(1) @ tensors[block + "attn.o.weight"].T
        h = norm(x, block + "norm2.weight")
        gate = F.gelu(h @ tensors[block + "ffn.gate.0.weight"].T, approximate="tanh")
        x = x + (gate * (h @ tensors[block + "ffn.fc1.weight"].T)) @ tensors[block + "ffn.fc2.weight"].T
    return norm(x, "norm.weight")


def test_converted_encoder_matches_the_published_description(folder, tmp_path):
    encoder = UMT5TextEncoder(folder, dtype=torch.float32, cache=tmp_path)
    embeds = encoder(["a  ball\nrolls"])
    ids = torch.tensor([tiny.VOCABULARY.index(word) for word in ("a", "ball", "rolls", "</s>")])
    assert embeds.shape == (1, 512, tiny.TEXT_DIM)
    torch.testing.assert_close(
        embeds[0, :4], encode_slowly(tiny.text_encoder_tensors(), ids, heads=3), atol=1e-5, rtol=1e-5
    )
    assert not embeds[0, 4:].any()


def test_embeddings_are_remembered(folder, tmp_path, monkeypatch):
    first = UMT5TextEncoder(folder, dtype=torch.float32, cache=tmp_path)(["a room", "a ball"])
    again = UMT5TextEncoder(folder, dtype=torch.float32, cache=tmp_path)

    def fail(self):
        raise AssertionError("the encoder was loaded for remembered prompts")

    monkeypatch.setattr(UMT5TextEncoder, "_load", fail)
    assert torch.equal(again(["a ball", "a room"]), first.flip(0))
    with pytest.raises(AssertionError):
        again(["a new prompt"])
    with pytest.raises(AssertionError):  # another precision is another embedding
        UMT5TextEncoder(folder, dtype=torch.bfloat16, cache=tmp_path)(["a room"])


def test_without_a_cache_nothing_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    encoder = UMT5TextEncoder(folder, cache="", keep_loaded=True)
    assert encoder(["a room"]).any() and not list(tmp_path.iterdir())
    assert encoder._loaded is not None
    encoder.unload()
    assert encoder._loaded is None
    assert str(tmp_path) in str(text_encoder.default_cache())


def test_prompts_are_cleaned_as_in_the_release():
    assert clean_prompt(" a\tball &amp;amp; \n a room ") == "a ball & a room"
    assert "，" in NEGATIVE_PROMPT and "，" not in clean_prompt(NEGATIVE_PROMPT)


def test_not_text_and_missing_packages_are_named(folder, monkeypatch):
    with pytest.raises(PromptError, match="expected text"):
        UMT5TextEncoder(folder, cache="")([3])
    monkeypatch.setitem(__import__("sys").modules, "ftfy", None)
    with pytest.raises(DependencyError, match="pip install"):
        clean_prompt("a")
