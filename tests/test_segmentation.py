import json

import pytest
import torch

from spatia_env.errors import ActionError, CheckpointError
from spatia_env.slam import segmentation
from spatia_env.slam.segmentation import TextSegmenter

pytest.importorskip("transformers")

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "person", "red", "car"]


def detector():
    """A GroundingDINO of transformers' own class, small and random."""
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=4,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    text = BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=backbone, text_config=text, num_queries=9, encoder_layers=1, encoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_layers=2, decoder_ffn_dim=32, decoder_attention_heads=2, d_model=32,
        max_text_len=16, disable_custom_kernels=True,
    )  # fmt: skip
    return GroundingDinoForObjectDetection(config).eval()


def segmenter():
    """A SAM 2 of transformers' own class, small and random."""
    from transformers import (
        Sam2Config,
        Sam2HieraDetConfig,
        Sam2MaskDecoderConfig,
        Sam2Model,
        Sam2PromptEncoderConfig,
        Sam2VisionConfig,
    )

    torch.manual_seed(0)
    backbone = Sam2HieraDetConfig(
        hidden_size=8, num_attention_heads=1, image_size=[64, 64], blocks_per_stage=[1, 1, 1, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[2, 2, 2, 2], global_attention_blocks=[],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=backbone, backbone_channel_list=[64, 32, 16, 8], fpn_hidden_size=32,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]], fpn_top_down_levels=[2, 3],
    )  # fmt: skip
    prompts = Sam2PromptEncoderConfig(hidden_size=32, image_size=64, patch_size=16)
    decoder = Sam2MaskDecoderConfig(hidden_size=32, mlp_dim=32, num_attention_heads=4, iou_head_hidden_dim=16)
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    return Sam2Model(config).eval()


def tokenizer(folder):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    fast = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    fast.normalizer, fast.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder.mkdir(exist_ok=True)
    fast.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("segmentation")
    detector().save_pretrained(root / "detector")
    tokenizer(root / "detector")
    segmenter().save_pretrained(root / "segmenter")
    return root / "detector", root / "segmenter"


@pytest.fixture(scope="module")
def both(folders):
    return TextSegmenter.from_folders(*folders, ["Person", "red car."], threshold=0.0, device="cpu")


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(segmentation, "SHORT_SIDE", 64)


FRAME = torch.rand(3, 40, 64, generator=torch.Generator().manual_seed(1))


def test_masks_come_in_the_size_of_the_frames(both):
    assert both.caption == "person . red car ."
    masks = both(torch.stack([FRAME, FRAME.flip(-1)]))
    assert masks.shape == (2, 40, 64) and set(masks.unique().tolist()) <= {0.0, 1.0}


def test_boxes_are_what_transformers_makes_of_them(both):
    text = both.tokenizer([both.caption], return_tensors="pt")
    assert 1 not in text["input_ids"]
    found = both.boxes(FRAME)
    assert found.shape == (9, 4) and (found[:, 2:] > found[:, :2]).all()
    both_high = TextSegmenter(both.detector, both.tokenizer, both.segmenter, ["person"], threshold=1.0)
    assert len(both_high.boxes(FRAME)) == 0
    assert not both_high(FRAME[None]).any()


def test_a_mask_depends_on_its_box_in_pixels_of_the_frame(both):
    asked = []
    hook = both.segmenter.register_forward_pre_hook(
        lambda module, args, kwargs: asked.append(kwargs["input_boxes"]), with_kwargs=True
    )
    both.cut_out(FRAME, torch.tensor([[0.0, 0, 64, 40], [32, 10, 64, 20]]))
    hook.remove()
    assert asked[0].tolist() == [[[0, 0, 64, 64], [32, 16, 64, 32]]]


def test_detector_looks_at_the_size_it_was_trained_at(both, monkeypatch):
    monkeypatch.setattr(segmentation, "SHORT_SIDE", 800)
    seen = []
    hook = both.detector.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["pixel_values"].shape), with_kwargs=True
    )
    both.boxes(FRAME)
    hook.remove()
    assert seen[0] == (1, 3, 800, 1280)


@pytest.mark.parametrize("words", [[], [""], [3]])
def test_words_must_be_words(both, words):
    with pytest.raises(ActionError, match="words"):
        TextSegmenter(both.detector, both.tokenizer, both.segmenter, words)


def test_other_folders_are_refused(folders, tmp_path):
    detector_folder, segmenter_folder = folders
    with pytest.raises(CheckpointError, match="not a folder"):
        TextSegmenter.from_folders(tmp_path / "gone", segmenter_folder, ["a"])
    with pytest.raises(CheckpointError, match="expected grounding-dino"):
        TextSegmenter.from_folders(segmenter_folder, segmenter_folder, ["a"])
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "sam2"}))
    with pytest.raises(CheckpointError, match="safetensors"):
        TextSegmenter.from_folders(detector_folder, tmp_path, ["a"])
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "sam2", "auto_map": {"AutoModel": "x.Y"}})
    )
    with pytest.raises(CheckpointError, match="auto_map"):
        TextSegmenter.from_folders(detector_folder, tmp_path, ["a"])
