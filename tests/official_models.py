"""The released files in miniature: the parity weights in every layout that `spatia convert` reads."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from parity.fixtures import Fixtures
from spatia_env.models.wan.convert import ConvertConfig, convert

PARITY = Path(__file__).parent / "data" / "parity"
FIXTURES = Fixtures(PARITY)
TEXT_DIM = 24
VOCABULARY = [
    "<pad>",
    "</s>",
    "<unk>",
    "a",
    "ball",
    "rolls",
    "room",
    "4K,",
    "realistic,",
    ",",
    "high",
    "quality,",
    "HDR.",
]


def statistics():
    sizes = FIXTURES.config("f_vae_weights")
    return {"latents_mean": tuple(sizes["mean"]), "latents_std": tuple(sizes["std"])}


def text_encoder_tensors(layers=2, heads=3, hidden=20, seed=0):
    """Weights of a umT5 encoder under their original names."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=0.3):
        return scale * torch.randn(shape, generator=generator)

    tensors = {
        "token_embedding.weight": normal(len(VOCABULARY), TEXT_DIM, scale=1.0),
        "norm.weight": 1 + normal(TEXT_DIM),
    }
    for i in range(layers):
        for name in "qkvo":
            tensors[f"blocks.{i}.attn.{name}.weight"] = normal(TEXT_DIM, TEXT_DIM)
        tensors[f"blocks.{i}.pos_embedding.embedding.weight"] = normal(32, heads, scale=1.0)
        tensors[f"blocks.{i}.norm1.weight"] = 1 + normal(TEXT_DIM)
        tensors[f"blocks.{i}.norm2.weight"] = 1 + normal(TEXT_DIM)
        tensors[f"blocks.{i}.ffn.gate.0.weight"] = normal(hidden, TEXT_DIM)
        tensors[f"blocks.{i}.ffn.fc1.weight"] = normal(hidden, TEXT_DIM)
        tensors[f"blocks.{i}.ffn.fc2.weight"] = normal(TEXT_DIM, hidden)
    return tensors


def write_tokenizer(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_original(folder):
    """The base model as it is downloaded: two shards, pickled autoencoder and text encoder, tokenizer."""
    folder.mkdir()
    tensors = load_file(PARITY / "dit_weights.safetensors")
    names = sorted(tensors)
    half = len(names) // 2
    shards = {"diffusion_pytorch_model-00001-of-00002.safetensors": names[:half]}
    shards["diffusion_pytorch_model-00002-of-00002.safetensors"] = names[half:]
    for file, own in shards.items():
        save_file({name: tensors[name] for name in own}, folder / file)
    weight_map = {name: file for file, own in shards.items() for name in own}
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(index)
    (folder / "config.json").write_text(json.dumps({"_class_name": "WanModel", "num_heads": 3, "eps": 1e-6}))
    torch.save(load_file(PARITY / "f_vae_weights.safetensors"), folder / "Wan2.2_VAE.pth")
    torch.save(text_encoder_tensors(), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    write_tokenizer(folder / "google" / "umt5-xxl")
    return folder


def write_control(path):
    save_file(load_file(PARITY / "vace_weights.safetensors"), path)
    return path


def write_lora(path):
    tensors = load_file(PARITY / "g_lora.safetensors")
    save_file({name[5:]: tensor for name, tensor in tensors.items() if name.startswith("lora/")}, path)
    return path


def converted(root):
    """The released files in miniature, through the converter: the folder of the model, below `root`."""
    config = ConvertConfig(
        wan=write_original(root / "wan"),
        control=write_control(root / "control.safetensors"),
        lora=write_lora(root / "lora.safetensors"),
        out=root / "model",
        dtype="float32",
        **statistics(),
    )
    return convert(config).folder
