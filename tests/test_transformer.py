import pytest
import torch
from diffusers import WanTransformer3DModel

from spatia_env.errors import ActionError, CheckpointError
from spatia_env.models.blocks import RotaryPositions, SinusoidalTime, modulate, rope_table, rotate
from spatia_env.models.transformer import SpatiaTransformer3DModel

TINY = dict(
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=5,
    out_channels=5,
    text_dim=10,
    freq_dim=16,
    ffn_dim=32,
    num_layers=3,
    control_layers=(0, 2),
    control_in_channels=7,
)


def build(**changes):
    torch.manual_seed(0)
    model = SpatiaTransformer3DModel(**{**TINY, **changes}).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # hints and input control start at zero: give them a voice
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def inputs(batch=2, refs=2, frames=3, height=4, width=6):
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    latents = normal(batch, 5, refs + frames, height, width)
    timestep = torch.full((batch, refs + frames), 700.0)
    timestep[:, : refs + 1] = 0
    return latents, timestep, normal(batch, 4, 10), normal(batch, 7, frames, height, width)


def test_matches_the_stock_model_without_references_and_control():
    model = build(control_layers=())
    stock = WanTransformer3DModel(**{k: v for k, v in TINY.items() if not k.startswith("control")})
    stock.load_state_dict(model.state_dict())
    latents, timestep, text, _ = inputs(refs=0)
    tokens = timestep.repeat_interleave(2 * 3, dim=1)
    with torch.no_grad():
        expected = stock(latents, tokens, text).sample
        torch.testing.assert_close(model(latents, timestep, text).sample, expected, atol=1e-5, rtol=1e-5)


def test_scalar_and_per_frame_timesteps_agree():
    model = build()
    latents, _, text, control = inputs()
    every = torch.full((2, 5), 313.0)
    with torch.no_grad():
        expected = model(latents, every, text, control, 2).sample
        for timestep in (torch.tensor(313.0), every[:, 0]):
            torch.testing.assert_close(model(latents, timestep, text, control, 2).sample, expected)


def test_missing_references_change_nothing_however_they_are_filled():
    model = build()
    latents, timestep, text, control = inputs(refs=3)
    mask = torch.tensor([[False, False, True], [False, False, True]])
    with torch.no_grad():
        alone = model(latents[:, :, 2:], timestep[:, 2:], text, control, 1).sample
        padded = model(latents, timestep, text, control, 3, reference_mask=mask).sample
        latents[:, :, :2] = 9.0
        refilled = model(latents, timestep, text, control, 3, reference_mask=mask).sample
    torch.testing.assert_close(padded[:, :, 2:], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded[:, :, 2:], refilled[:, :, 2:])


def test_reference_order_and_place_matter():
    model = build()
    latents, timestep, text, control = inputs()
    with torch.no_grad():
        out = model(latents, timestep, text, control, 2).sample
        swapped = model(latents[:, :, [1, 0, 2, 3, 4]], timestep, text, control, 2).sample
    assert (out - swapped)[:, :, 2:].abs().max() > 1e-4


def test_control_at_input_starts_silent_and_adds_its_own_names_only():
    torch.manual_seed(0)
    plain = SpatiaTransformer3DModel(**TINY).eval()
    torch.manual_seed(0)
    model = SpatiaTransformer3DModel(**TINY, control_at_input=True).eval()
    added = model.state_dict().keys() - plain.state_dict().keys()
    assert added == {"control_input_embedding.weight", "control_input_embedding.bias"}
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k not in added})
    latents, timestep, text, control = inputs()
    with torch.no_grad():
        expected = plain(latents, timestep, text, control, 2).sample
        torch.testing.assert_close(model(latents, timestep, text, control, 2).sample, expected)
        model.control_input_embedding.weight.normal_()
        assert (model(latents, timestep, text, control, 2).sample - expected).abs().max() > 1e-3


def test_place_planes_start_silent_are_needed_and_belong_to_all_but_references():
    torch.manual_seed(0)
    plain = SpatiaTransformer3DModel(**TINY).eval()
    model = SpatiaTransformer3DModel(**TINY, place_channels=5).eval()
    added = model.state_dict().keys() - plain.state_dict().keys()
    assert added == {"place_embedding.weight", "place_embedding.bias"}
    model.load_state_dict(plain.state_dict(), strict=False)
    latents, timestep, text, control = inputs()
    places = torch.randn(len(latents), 5, latents.shape[2] - 2, *latents.shape[3:])
    with torch.no_grad():
        expected = plain(latents, timestep, text, control, 2).sample

        def predicted(planes):
            return model(latents, timestep, text, control, 2, place_hidden_states=planes).sample

        torch.testing.assert_close(predicted(places), expected)
        model.place_embedding.weight.normal_()
        assert (predicted(places) - expected).abs().max() > 1e-3
        torch.testing.assert_close(predicted(torch.zeros_like(places)), expected)
    with pytest.raises(ActionError, match="place_hidden_states"):
        model(latents, timestep, text, control, 2)
    with pytest.raises(ActionError, match="place_hidden_states"):
        predicted(places[:, :4])
    with pytest.raises(ActionError, match="place_hidden_states"):
        predicted(places[:, :, 1:])


def test_every_weight_learns_and_checkpointing_gives_the_same_gradients():
    model = build(control_at_input=True).train()
    arguments = (*inputs(), 2)
    model(*arguments).sample.square().mean().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    assert all(gradient.abs().max() > 0 for gradient in gradients.values())
    model.zero_grad()
    model.enable_gradient_checkpointing()
    model(*arguments).sample.square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name])


def test_fresh_weights_predict_nothing_until_trained():
    model = SpatiaTransformer3DModel(**TINY, control_at_input=True)
    model.initialise_weights(torch.Generator().manual_seed(3))
    again = SpatiaTransformer3DModel(**TINY, control_at_input=True)
    again.initialise_weights(torch.Generator().manual_seed(3))
    assert torch.equal(model.blocks[1].ffn.net[2].weight, again.blocks[1].ffn.net[2].weight)
    assert model(*inputs(), 2).sample.abs().max() == 0


def test_save_and_load_keep_the_configuration(tmp_path):
    model = build(control_at_input=True)
    model.save_pretrained(tmp_path)
    loaded = SpatiaTransformer3DModel.from_pretrained(tmp_path)
    assert dict(loaded.config)["control_layers"] in ((0, 2), [0, 2])
    with torch.no_grad():
        torch.testing.assert_close(loaded(*inputs(), 2).sample, model(*inputs(), 2).sample)


def test_full_size_has_the_released_names():
    with torch.device("meta"):
        model = SpatiaTransformer3DModel()
    control = [name for name in model.state_dict() if name.startswith("vace_")]
    assert len(control) == 236 and len(model.state_dict()) == 825 + 236
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(6.395e9, rel=1e-3)
    latents = torch.empty(1, 48, 28, 44, 78, device="meta")
    control_latents = torch.empty(1, 96, 21, 44, 78, device="meta")
    text = torch.empty(1, 512, 4096, device="meta")
    out = model(latents, torch.empty(1, 28, device="meta"), text, control_latents, 7).sample
    assert out.shape == latents.shape


@pytest.mark.parametrize("head_dim", [8, 12, 20, 32, 128])
def test_rope_turns_by_relative_position(head_dim):
    table = rope_table(head_dim, 2, 3, 2, 4)
    assert table.shape == ((2 + 3) * 8, head_dim // 2, 2)
    torch.testing.assert_close(table.square().sum(-1), torch.ones(40, head_dim // 2))
    # The first pair of the time axis turns at one radian per frame: -2, -1 for references, then 0, 1, 2.
    angle = torch.atan2(table[::8, 0, 1], table[::8, 0, 0])
    torch.testing.assert_close(angle, torch.tensor([-2.0, -1, 0, 1, 2]))


def test_rotation_matches_the_obvious_form():
    x = torch.randn(2, 40, 3, 20, dtype=torch.float32)
    table = rope_table(20, 2, 3, 2, 4)
    expected = torch.empty_like(x)
    for pair in range(10):
        cos, sin = table[:, pair, 0, None], table[:, pair, 1, None]
        a, b = x[..., 2 * pair], x[..., 2 * pair + 1]
        expected[..., 2 * pair], expected[..., 2 * pair + 1] = a * cos - b * sin, a * sin + b * cos
    torch.testing.assert_close(rotate(x, table[None, :, None]), expected)
    real = torch.compile(rotate, backend="eager")(x, table[None, :, None])
    torch.testing.assert_close(real, expected)


def test_rope_tables_are_remembered_and_bounded():
    rope = RotaryPositions(8, 64)
    first = rope(1, 2, 3, 4, torch.device("cpu"))
    assert rope(1, 2, 3, 4, torch.device("cpu")) is first
    for frames in range(1, 60):
        rope(0, frames, 1, 1, torch.device("cpu"))
    assert len(rope._tables) <= 32


def test_modulation_rows_own_their_tokens():
    x, shift, scale = torch.randn(2, 6, 4), torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    expected = x * (1 + scale.repeat_interleave(2, 1)) + shift.repeat_interleave(2, 1)
    torch.testing.assert_close(modulate(x, shift, scale), expected)


def test_time_sinusoid_of_zero():
    assert torch.equal(SinusoidalTime(6)(torch.zeros(1)), torch.tensor([[1.0, 1, 1, 0, 0, 0]]))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_states": torch.zeros(2, 4, 5, 4, 6)}, r"\[B, 5, F, h, w\]"),
        ({"hidden_states": torch.zeros(2, 5, 5, 3, 6)}, "multiple of the patch"),
        ({"num_ref_frames": 5}, "num_ref_frames"),
        ({"timestep": torch.zeros(2, 4)}, "timestep"),
        ({"control_hidden_states": torch.zeros(2, 7, 5, 4, 6)}, "control latents"),
        ({"reference_mask": torch.ones(2, 3, dtype=torch.bool)}, "reference_mask"),
    ],
)
def test_wrong_shapes_are_named(change, words):
    latents, timestep, text, control = inputs()
    arguments = {
        "hidden_states": latents,
        "timestep": timestep,
        "encoder_hidden_states": text,
        "control_hidden_states": control,
        "num_ref_frames": 2,
    }
    with pytest.raises(ActionError, match=words):
        build()(**{**arguments, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"attention_head_dim": 16},
        {"patch_size": (2, 2, 2)},
        {"control_layers": (0, 3)},
        {"control_layers": (1, 1)},
        {"control_layers": (), "control_at_input": True},
    ],
)
def test_impossible_sizes_are_refused(change):
    with pytest.raises(CheckpointError):
        SpatiaTransformer3DModel(**{**TINY, **change})
