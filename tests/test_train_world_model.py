"""Training of the world model end to end, small: a real episode, the real networks, a few steps."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spatia_env.env import SpatiaEnv
from spatia_env.errors import ActionError
from spatia_env.models.loading import PACKAGED, TINY
from spatia_env.models.spatial_conditioning import FALLING_CHANNELS, PLACE_CHANNELS
from spatia_env.train.autoencoder import encode_episodes, fresh_autoencoder, load_trained
from spatia_env.train.checkpoint import TOLD_LATER, UnpackConfig, unpack
from spatia_env.train.dataset import (
    ClipStore,
    dev_batches,
    draw_picks,
    draws,
    known_words,
    read_pixels,
    training_batches,
)
from spatia_env.train.episodes import PRECEDING
from spatia_env.train.geometry import load_trained as load_geometry
from spatia_env.train.loop import LoopConfig, Trainer
from spatia_env.train.losses import relight
from spatia_env.train.simulation import DataConfig, EpisodeConfig, render_data
from spatia_env.train.world_model import (
    TransformerSize,
    WorldModel,
    WorldModelConfig,
    blank_latents,
    pace,
    tiny_transformer,
    train_world_model,
    world_loss,
)

H, W = 64, 96


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs folder with two encoded episodes and an untrained autoencoder."""
    folder = tmp_path_factory.mktemp("runs")
    episode = EpisodeConfig(clips=2, height=H, width=W, event_share=1.0, quiet_share=0.0)
    assert render_data(DataConfig(folder / "data", count=2, workers=1, episode=episode)) == 2
    torch.manual_seed(0)
    network = fresh_autoencoder()
    Trainer(network, LoopConfig(folder / "autoencoder")).save()
    encode_episodes(network, folder / "data")
    return folder


def test_latents_on_file_are_those_of_the_frames(runs):
    store = ClipStore(runs / "data")
    autoencoder = load_trained(runs / "autoencoder")
    episode = next(iter(store.episodes.values()))
    assert store.size == (H, W)
    frames = episode.file.get("frames", slice(3, 5)).movedim(-1, 1).float() / 127.5 - 1
    expected = autoencoder.normalise(autoencoder.encode_raw(frames))
    assert (episode.frames[3:5].float() - expected).abs().max() < 0.05 * expected.std()
    assert episode.moving.shape == (17, H // 16, W // 16) and 0 < episode.moving.max() <= 1


def test_a_training_batch_holds_the_pixels_of_the_frames_it_decodes(runs):
    store = ClipStore(runs / "data")
    autoencoder = load_trained(runs / "autoencoder")
    blank = blank_latents(autoencoder, *store.size)
    batch = next(training_batches(store, 3, 5, 0.0, blank, np.random.default_rng(0)))
    assert batch.clean.shape == (3, 48, 8, H // 16, W // 16) and batch.pixels.frames.shape == (5, 3, H, W)
    encoded = autoencoder.normalise(autoencoder.encode_raw(batch.pixels.frames))
    clean = batch.clean[batch.pixels.row, :, batch.pixels.time]
    assert (encoded - clean).abs().max() < 0.05 * encoded.std()


def test_frames_with_flakes_are_decoded_more_often():
    texts = ["a room", "snow begins to fall. a room", "in falling snow. a room", "night falls. a room"]
    rng = np.random.default_rng(0)
    picks = [pick for _ in range(300) for pick in draw_picks(texts, 4, rng)]
    shares = np.bincount([row for row, _ in picks], minlength=4) / len(picks)
    np.testing.assert_allclose(shares, np.array([1, 2, 2, 1]) / 6, atol=0.04)
    assert {time for _, time in picks} == set(range(8))


def test_what_a_checkpoint_begins_without_learns_fastest():
    paces = [
        pace(f"{part}.weight", 0.4) for part in ("autoencoder.decoder_fine.0.conv1", "transformer.proj_out")
    ]
    assert paces[0] < paces[1] < pace("autoencoder.falling_in.weight", 0.4)


def test_a_clip_that_forgets_its_map_sees_black_everywhere(runs):
    store = ClipStore(runs / "data")
    blank = blank_latents(load_trained(runs / "autoencoder"), *store.size)
    batch = next(training_batches(store, 2, 4, 1.0, blank, np.random.default_rng(0)))
    assert batch.pixels.known.max() == 0 and batch.pixels.render.max() == -1
    assert batch.conditions.control[:, 48:, 4:].max() == 0  # coverage of the new frames
    assert batch.conditions.control[:, 48:, :4].min() == 1  # the preceding frames are covered


def test_every_event_is_drawn_equally_often_and_movers_more_often_than_light(runs):
    store = ClipStore(runs / "data")
    drawn = [episode.clips[clip]["event"] for episode, clip in store.draw(600, np.random.default_rng(0))]
    names = [name for name in store.by_event if name]
    quiet = 150 if "" in store.by_event else 0
    assert len(names) >= 2
    shares = {name: draws(name) for name in names}
    for name in names:
        assert abs(drawn.count(name) - (600 - quiet) * shares[name] / sum(shares.values())) < 40


def test_a_clip_that_forgets_its_map_forgets_where_its_surfaces_are(runs):
    store = ClipStore(runs / "data")
    blank = blank_latents(load_trained(runs / "autoencoder"), *store.size)
    rng = np.random.default_rng(0)
    kept, lost = (next(training_batches(store, 2, 4, share, blank, rng)) for share in (0.0, 1.0))
    points = slice(FALLING_CHANNELS, -8)
    assert kept.conditions.places[:, points, PRECEDING:].any() and not lost.conditions.places[:, points].any()
    assert lost.conditions.places[:, -8:-5, PRECEDING:].any()  # the rays stay


def test_the_share_of_the_render_learns_where_it_is_right(runs):
    """The loss asks for all of the render where it shows the truth, and for none before what moves."""
    config = WorldModelConfig(share_weight=1.0, pixel_weight=0.0, restore_weight=0.0, noisy_share=0.0)
    store = ClipStore(runs / "data")
    model = WorldModel(
        tiny_transformer(TransformerSize(heads=2, ffn_dim=64, layers=1, control_layers=(0,))),
        load_trained(runs / "autoencoder"),
    )
    batch = dev_batches(store, 3)[0]
    no_photos = torch.zeros(0, 3, 32, 48)

    def share_loss(bias: float) -> float:
        model.autoencoder.head.weight.data.zero_()
        model.autoencoder.head.bias.data.zero_()
        model.autoencoder.head.bias.data[3 * 16 : 4 * 16] = bias
        return world_loss(model, batch, no_photos, config, torch.Generator().manual_seed(0))[1]["share"]

    pixels = batch.pixels
    relit = relight(pixels.render, pixels.frames, pixels.known, pixels.moving)
    plain, known = relit.plain > 0, pixels.known > 0.5
    agrees, moves = (relit.agrees > 0) & known, pixels.moving[:, None] & (relit.agrees == 0) & known
    assert (plain & agrees).any() and not plain.all()
    under_lamps = (~plain & (relit.explained > 0) & known & ~moves).float()
    asked = (plain & agrees & ~moves).float() + under_lamps * relit.gain.mean(1, keepdim=True)
    assert share_loss(-20.0) == pytest.approx(float(asked.mean()), abs=1e-4)
    too_bright = under_lamps * (1 - relit.gain).abs().mean(1, keepdim=True)
    assert share_loss(20.0) == pytest.approx(float((moves.float() + too_bright).mean()), abs=1e-4)


def test_dev_batches_are_the_same_every_time(runs):
    first, second = (dev_batches(ClipStore(runs / "data"), 3) for _ in range(2))
    assert len(first) == 2 and sum(len(batch.clean) for batch in first) == 4
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a.conditions.control, b.conditions.control, rtol=0, atol=0)
        assert len(a.pixels.row) == 8 * len(a.clean)


def test_an_empty_folder_says_what_to_run(tmp_path):
    with pytest.raises(ActionError, match="spatia train encode"):
        ClipStore(tmp_path)


def test_training_lowers_the_error_resumes_and_evaluates(runs):
    def config(steps):
        loop = LoopConfig(
            runs / "world-model", max_steps=steps, learning_rate=1e-3, muon=2.0, warmup=2, log_every=1
        )
        return WorldModelConfig(
            loop, runs / "autoencoder", (runs / "data",), runs / "data", batch=2, pixel_frames=2
        )

    figures = train_world_model(config(2))
    assert set(figures) >= {"observed", "unobserved", "moving", "restored", "frozen"}
    assert np.isfinite(list(figures.values())).all()
    later = train_world_model(config(4))
    assert json.loads((runs / "world-model" / "progress.json").read_text())["step"] == 4
    rows = [line.split(",") for line in (runs / "world-model" / "log.csv").read_text().splitlines()]
    restore = [float(value) for _, _, name, value in rows if name == "restore"]
    assert len(restore) == 4
    # On the same dev frames; the losses of single steps are those of other frames each.
    assert later["restored"] > figures["restored"] and later["all"] > figures["all"]


def test_the_decoder_may_learn_alone(runs):
    def config(out, steps):
        loop = LoopConfig(out, max_steps=steps, learning_rate=1e-3, warmup=1)
        return WorldModelConfig(
            loop,
            runs / "autoencoder",
            (runs / "data",),
            runs / "data",
            batch=2,
            pixel_frames=2,
            decoder_only=True,
        )

    out = runs / "decoder"
    states = []
    for steps in (1, 2):
        train_world_model(config(out, steps))
        states.append(load_file(out / "state.safetensors"))
    changed = {n for n in states[0] if n.startswith("model.") and not torch.equal(states[0][n], states[1][n])}
    assert changed and all(
        ".autoencoder.decoder" in n
        or any(
            part in n for part in (".render_in", ".falling_in", ".head", ".continued_in", ".continued_head")
        )
        for n in changed
    )


def test_frames_come_with_how_surfaces_go_on_beyond_their_render(runs):
    store = ClipStore(runs / "data")
    episode = next(iter(store.episodes.values()))
    pixels = read_pixels([(episode, 1)], [(0, 0), (0, 5)])
    on = pixels.continued[:, 3:] > 0
    assert on.any() and pixels.continued.abs().max() <= 1
    assert not (pixels.continued[:, :3].abs().amax(1, keepdim=True) > 0)[~on].any()
    # The simulator's own depth is told to the map, so all that it knows is seen, and none of that is continued.
    assert not (on & (pixels.known > 0) & (episode.file.get("map_depth", 1)[[0, 5]][:, None] > 0)).any()
    lost = read_pixels([(episode, 1)], [(0, 0)], [True])
    assert not lost.continued.any()


def test_episodes_that_were_encoded_without_it_are_refused(runs, tmp_path):
    for path in (runs / "data").glob("*.[sl]a*s"):
        shutil.copy(path, tmp_path)
    with pytest.raises(ActionError, match="spatia train encode"):
        ClipStore(tmp_path)


def test_a_clip_is_read_in_known_words_with_what_stands_behind_them():
    clip = {
        "event": "fog_ends",
        "event_text": "the mist disappears",
        "text": "the mist disappears. in fog. a room",
        "text_short": "the mist disappears. in fog",
    }
    assert known_words(clip) == "the fog clears. in fog. a room"
    assert known_words(clip, short=True) == "the fog clears. in fog"
    both = {
        "event": "red_ball_rolls",
        "also": "duck_falls",
        "event_text": "a scarlet ball rolls along the ground. a big yellow duck falls to the ground",
        "text": "a scarlet ball rolls along the ground. a big yellow duck falls to the ground. a room",
    }
    assert known_words(both) == "a red ball rolls in. a yellow duck falls. a room"
    assert known_words({"event": "", "event_text": "", "text": "a room"}) == "a room"


def test_a_packaged_checkpoint_unpacks_to_runs_that_go_on(tmp_path):
    stages = ("autoencoder", "geometry", "world-model")
    unpack(UnpackConfig(runs=tmp_path, stages=stages))
    state = load_file(tmp_path / "world-model" / "state.safetensors")
    shipped = load_file(PACKAGED / TINY / "transformer.safetensors")
    assert {n.removeprefix("model.transformer.") for n in state if ".transformer." in n} == set(shipped)
    network = load_geometry(tmp_path / "geometry").state_dict()
    assert network.keys() == load_file(PACKAGED / TINY / "geometry.safetensors").keys()
    model = WorldModel(tiny_transformer(), load_trained(tmp_path / "autoencoder"))
    trainer = Trainer(model, LoopConfig(out=tmp_path / "world-model"))
    assert trainer.step > 0 and trainer.fresh_from == trainer.step
    for average, parameter in zip(trainer.average.shadow_params, trainer.parameters.values(), strict=True):
        assert torch.equal(average, parameter)
    with pytest.raises(ActionError, match="already"):
        unpack(UnpackConfig(runs=tmp_path, stages=stages))
    with pytest.raises(ActionError, match="not known"):
        unpack(UnpackConfig(runs=tmp_path, stages=("dreams",)))


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """The packaged checkpoint as one that was never told what would fall or how surfaces go on, and whose geometry
    looks nowhere far.
    """
    folder = tmp_path_factory.mktemp("older") / TINY
    shutil.copytree(PACKAGED / TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    config["transformer"]["place_channels"] = PLACE_CHANNELS
    for name in ("falling_planes", "continued_planes"):
        config["autoencoder"].pop(name, None)
    del config["geometry"]["looks"]
    (folder / "config.json").write_text(json.dumps(config))
    transformer = load_file(folder / "transformer.safetensors")
    places = transformer["place_embedding.weight"]
    transformer["place_embedding.weight"] = places[:, FALLING_CHANNELS:].contiguous()
    save_file(transformer, folder / "transformer.safetensors")
    autoencoder = load_file(folder / "autoencoder.safetensors")
    kept = {n: t for n, t in autoencoder.items() if not n.startswith(TOLD_LATER)}
    save_file(kept, folder / "autoencoder.safetensors")
    geometry = load_file(folder / "geometry.safetensors")
    save_file(
        {n: t for n, t in geometry.items() if not n.startswith("look.")}, folder / "geometry.safetensors"
    )
    return folder


def test_an_older_checkpoint_still_plays(older):
    env = SpatiaEnv(model=str(older), size=(H, W))
    env.reset(seed=0, options={"scene": 3})
    action = {"camera": np.array([0, 0, 0.3, 0, 0.2, 0], np.float32), "event": "a red ball rolls in"}
    assert env.step(action)[0]["frames"].std() > 1


def test_training_goes_on_from_an_older_checkpoint_as_if_nothing_fell(older, tmp_path):
    unpack(UnpackConfig(checkpoint=older, runs=tmp_path))
    state = load_file(tmp_path / "world-model" / "state.safetensors")
    places = state["model.transformer.place_embedding.weight"]
    assert not places[:, :FALLING_CHANNELS].any() and places[:, FALLING_CHANNELS:].any()
    assert not state["model.autoencoder.falling_in.weight"].any()
    assert not state["model.autoencoder.continued_in.weight"].any()
    model = WorldModel(tiny_transformer(), load_trained(tmp_path / "autoencoder"))
    assert Trainer(model, LoopConfig(out=tmp_path / "world-model")).step > 0
    looking = load_geometry(tmp_path / "geometry")
    assert Trainer(looking, LoopConfig(out=tmp_path / "geometry")).step > 0
    known = load_file(older / "geometry.safetensors")
    kept = looking.state_dict()
    assert all(torch.equal(kept[name], value.float()) for name, value in known.items())
    assert kept.keys() > known.keys() and not kept["look.0.out.weight"].any()
