import dataclasses

import pytest
import torch

import official_models as tiny
from spatia_env.errors import ActionError, CaseError
from spatia_env.models.generator import ClipShape
from spatia_env.models.wan.autoencoder import latent_frames
from spatia_env.models.wan.pipeline import SpatiaWanPipeline
from spatia_env.models.wan.sampling import (
    SamplerSettings,
    check_clip_size,
    from_uint8,
    generate_clip,
    to_uint8,
)
from spatia_env.models.wan.schedulers import (
    release_grid,
    release_sigmas,
    release_unipc,
    sample_by_renoising,
)
from spatia_env.release.rounds import RoundView, decode_film, generate_rounds, plan_rounds

HEIGHT, WIDTH = 64, 96
SHAPE = ClipShape(num_frames=8, num_preceding=5, num_references=2, height=HEIGHT, width=WIDTH, multiple=32)
FEW = SamplerSettings(num_inference_steps=2, guidance_scale=2.0)


class Words:
    """A text encoder without weights: the same sentence gives the same embeddings."""

    def __init__(self):
        self.seen = []

    def __call__(self, texts):
        self.seen += texts
        rows = [torch.randn(7, 24, generator=torch.Generator().manual_seed(len(text))) for text in texts]
        return torch.stack(rows)


def build(**changes):
    transformer = tiny.FIXTURES.transformer
    return SpatiaWanPipeline(transformer, tiny.FIXTURES.autoencoder, Words(), SHAPE, FEW, **changes)


def video(frames, seed, batch=1):
    return torch.rand(batch, 3, frames, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def call(pipeline, past, batch=1, seed=0):
    known = (video(8, 3, batch)[:, :1] > 0).float()
    generators = [torch.Generator().manual_seed(seed + i) for i in range(batch)]
    references, given = video(2, 4, batch), video(past, 5, batch)
    return pipeline(["a room"] * batch, video(8, 2, batch), known, references, given, generators)


def test_a_step_is_the_clip_without_its_given_frames():
    pipeline = build()
    frames = call(pipeline, past=5)
    assert frames.shape == (1, 3, 8, HEIGHT, WIDTH) and float(frames.abs().max()) <= 1
    assert pipeline.text_encoder.seen[0] == "a room 4K, realistic, high quality, HDR."
    known = (video(8, 3)[:, :1] > 0).float()
    given = video(5, 5)
    clip = generate_clip(
        pipeline.transformer,
        pipeline.autoencoder,
        pipeline.text_encoder(["a room 4K, realistic, high quality, HDR."]),
        torch.cat([given, video(8, 2)], dim=2),
        torch.cat([torch.zeros(1, 1, 5, HEIGHT, WIDTH), 1 - known], dim=2),
        negative_embeds=pipeline.text_encoder([pipeline.text_encoder.seen[1]]),
        preceding_frames=given,
        reference_frames=video(2, 4),
        generator=torch.Generator().manual_seed(0),
        settings=FEW,
    )
    torch.testing.assert_close(frames, clip.frames[:, :, 5:])


def test_worlds_of_a_batch_ignore_their_neighbours():
    pipeline = build()
    both = call(pipeline, past=1, batch=2)
    torch.testing.assert_close(call(pipeline, past=1), both[:1])


def test_a_first_clip_looks_at_no_references():
    pipeline = build()
    known = torch.ones(1, 1, 8, HEIGHT, WIDTH)
    results = [
        pipeline(["a"], video(8, 2), known, references, video(1, 5), torch.Generator().manual_seed(0))
        for references in (video(2, 4), video(2, 9))
    ]
    assert torch.equal(*results)


def test_a_world_that_has_just_begun_shows_its_picture_several_times():
    pipeline = build()
    known = torch.ones(1, 1, 8, HEIGHT, WIDTH)
    picture = video(1, 5)
    results = [
        pipeline(["a"], video(8, 2), known, video(2, 4), given, torch.Generator().manual_seed(0))
        for given in (picture, picture.expand(-1, -1, 5, -1, -1))
    ]
    assert torch.equal(*results) and pipeline.adapters.active == ()


def test_render_over_the_given_frames_may_be_handed_in():
    pipeline = build()
    given = video(5, 5)
    known = torch.ones(1, 1, 13, HEIGHT, WIDTH)
    whole = torch.cat([given, video(8, 2)], dim=2)
    rest = (video(2, 4), given)
    a = pipeline(["a"], whole, known, *rest, torch.Generator().manual_seed(0))
    b = pipeline(["a"], whole[:, :, 5:], known[:, :, 5:], *rest, torch.Generator().manual_seed(0))
    torch.testing.assert_close(a, b)
    with pytest.raises(ActionError, match="scene_render: has 9 frames"):
        pipeline(["a"], whole[:, :, :9], known, *rest)


@pytest.mark.parametrize("size", [(64, 97), (48, 96), (0, 96)])
def test_sizes_that_do_not_fit_are_named(size):
    with pytest.raises(ActionError, match="multiples of 32"):
        check_clip_size(*size)


@pytest.mark.parametrize("frames", [0, 2, 8, 80])
def test_frame_counts_that_do_not_fit_are_named(frames):
    with pytest.raises(ActionError, match=r"4 \* k \+ 1"):
        latent_frames(frames)
    assert [latent_frames(n) for n in (1, 9, 73, 81, 121)] == [1, 3, 19, 21, 31]


def test_conditions_that_do_not_belong_together_are_refused():
    model, autoencoder, text = tiny.FIXTURES.transformer, tiny.FIXTURES.autoencoder, torch.zeros(1, 7, 24)
    render, unknown = video(5, 1), torch.zeros(1, 1, 5, HEIGHT, WIDTH)
    with pytest.raises(ActionError, match="first_frame for a first clip"):
        generate_clip(model, autoencoder, text, render, unknown)
    with pytest.raises(ActionError, match="negative_embeds"):
        generate_clip(model, autoencoder, text, render, unknown, first_frame=video(1, 1), settings=FEW)
    with pytest.raises(ActionError, match="resize"):
        generate_clip(model, autoencoder, text, render, unknown, first_frame=video(1, 1)[..., :64])


def test_guidance_of_one_needs_one_pass(monkeypatch):
    calls = []
    model = tiny.FIXTURES.transformer
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    arguments = (
        model,
        tiny.FIXTURES.autoencoder,
        torch.zeros(1, 7, 24),
        video(5, 1),
        torch.zeros(1, 1, 5, HEIGHT, WIDTH),
    )
    settings = dataclasses.replace(FEW, guidance_scale=1.0)
    generate_clip(*arguments, first_frame=video(1, 1), settings=settings)
    assert len(calls) == 2
    few = dataclasses.replace(FEW, few_step_sigmas=(1.0, 0.5, 0.2))
    generate_clip(
        *arguments, first_frame=video(1, 1), settings=few, generator=torch.Generator().manual_seed(0)
    )
    assert len(calls) == 5


def test_pixels_make_the_round_trip():
    pixels = torch.randint(0, 256, (3, 4, 5, 3), dtype=torch.uint8)
    back = to_uint8(from_uint8(pixels) + 1e-6)[0].permute(1, 2, 3, 0)
    assert torch.equal(back, pixels)


# -- schedules ------------------------------------------------------------------------------------------------------


def test_release_schedule_in_numbers():
    scheduler = release_unipc(40)
    assert (
        scheduler.timesteps[:5].tolist() == [999, 994, 989, 983, 978] and int(scheduler.timesteps[-1]) == 113
    )
    assert release_unipc(4).timesteps.tolist() == [999, 937, 833, 624]
    assert float(release_sigmas(40)[0]) == pytest.approx(0.9998, abs=1e-5)
    for steps in range(1, 51):
        assert len(set(release_unipc(steps).timesteps.tolist())) == steps
    for steps in (0, 51):
        with pytest.raises(ActionError, match="num_inference_steps"):
            release_unipc(steps)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 20])
def test_the_sampler_is_unipc(steps):
    """Against diffusers' own, whose float32 logarithms differ in their last digit, and in float64."""
    from diffusers import UniPCMultistepScheduler

    stock = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
    )
    stock.set_timesteps(sigmas=release_grid(steps))
    own = release_unipc(steps, shift=3.0)
    assert torch.equal(own.sigmas, stock.sigmas) and torch.equal(own.timesteps, stock.timesteps)
    x = y = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    for timestep in own.timesteps:
        x = own.step(torch.tanh(x) + float(timestep) / 1000, x)
        y = stock.step(torch.tanh(y) + float(timestep) / 1000, timestep, y, return_dict=False)[0]
        torch.testing.assert_close(x, y, atol=5e-6, rtol=5e-6)
    with pytest.raises(ActionError, match="all"):
        own.step(x, x)


def test_renoising_ends_on_the_clean_clip():
    clean = torch.randn(2, 3)

    def velocity(latents, timestep):  # of a model that knows the answer
        return (latents - clean) / (timestep / 1000)

    for sigmas in ((1.0,), (1.0, 0.757, 0.522)):
        torch.testing.assert_close(sample_by_renoising(velocity, torch.randn(2, 3), sigmas), clean)
    for sigmas in ((), (0.5, 0.7), (1.2,), (1.0, 0.0)):
        with pytest.raises(ActionError, match="sigmas"):
            sample_by_renoising(velocity, torch.randn(2, 3), sigmas)


# -- rounds ---------------------------------------------------------------------------------------------------------


def test_rounds_of_the_release():
    rounds = plan_rounds(194)
    assert [(r.start, r.stop, r.num_frames, r.padding, r.history) for r in rounds] == [
        (0, 121, 121, 0, 1),
        (112, 193, 81, 0, 9),
        (184, 194, 81, 71, 9),
    ]
    assert [r.start for r in plan_rounds(193)] == [0, 112]
    assert len(plan_rounds(121)) == 1 and plan_rounds(60)[0].padding == 61
    cameras = rounds[2].cameras(torch.arange(194.0)[:, None, None].expand(-1, 4, 4))
    assert cameras[:, 0, 0].tolist() == [*range(184, 194), *[193.0] * 71]


def test_impossible_rounds_are_refused():
    with pytest.raises(CaseError):
        plan_rounds(0)
    for lengths in ({"first": 120}, {"later": 9}, {"history": 10}, {"first": 5}):
        with pytest.raises(ActionError):
            plan_rounds(50, **lengths)


class Grey:
    """A world that shows grey everywhere and recalls the oldest frames."""

    def __init__(self):
        self.seen = []

    def view(self, current, frames):
        self.seen.append((current.index, len(frames)))
        shape = (current.num_frames, HEIGHT, WIDTH)
        references = () if current.index == 0 else (0, 3)
        return RoundView(
            torch.full((*shape, 3), 128, dtype=torch.uint8), torch.zeros(shape, dtype=torch.uint8), references
        )


def test_rounds_follow_the_path_and_join_into_one_film():
    pipeline, world = build(), Grey()
    rounds = plan_rounds(16, first=9, later=9, history=5)
    image = torch.randint(0, 256, (HEIGHT, WIDTH, 3), dtype=torch.uint8)
    results = list(generate_rounds(pipeline, world, rounds, ["a", "b"], image))
    assert world.seen == [(0, 1), (1, 9), (2, 13)]
    assert [len(result.frames) for result in results] == [8, 4, 3]
    film = decode_film(pipeline, results)
    assert len(film) == 16 and len(decode_film(pipeline, results, trim=False)) == 17
    again = list(generate_rounds(build(), Grey(), rounds[:1], ["a"], image))
    assert torch.equal(again[0].frames, results[0].frames)


def test_a_world_that_answers_wrongly_is_named():
    class Wrong(Grey):
        def view(self, current, frames):
            return dataclasses.replace(super().view(current, frames), references=(1,))

    image = torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.uint8)
    with pytest.raises(ActionError, match="references"):
        next(generate_rounds(build(), Wrong(), plan_rounds(5, first=5, later=5, history=1), ["a"], image))


# -- folder to clip -------------------------------------------------------------------------------------------------
