"""Recorded episodes that a model plays again: what is kept of its world, and what of the truth."""

import numpy as np
import pytest
import torch

from spatia_env.env import SpatiaEnv
from spatia_env.errors import ActionError, CheckpointError
from spatia_env.train.autoencoder import encode_episodes, fresh_autoencoder
from spatia_env.train.dataset import ClipStore, latent_row, read_pixels
from spatia_env.train.episodes import EpisodeFile, to_model
from spatia_env.train.rollouts import (
    RolloutsConfig,
    decline,
    make_rollouts,
    play_episode,
    shown_by_start,
)
from spatia_env.train.simulation import DataConfig, EpisodeConfig, render_data
from untrained import write_untrained

H, W, CLIPS = 64, 96, 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with two recorded episodes and an untrained checkpoint."""
    folder = tmp_path_factory.mktemp("rollouts")
    episode = EpisodeConfig(clips=CLIPS, height=H, width=W, event_share=1.0, quiet_share=0.0)
    assert render_data(DataConfig(folder / "data", first=6, count=2, workers=1, episode=episode)) == 2
    (folder / "model").mkdir()
    write_untrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def config(runs):
    return RolloutsConfig(runs / "data", runs / "played", str(runs / "model"), depth_share=1.0, workers=1)


@pytest.fixture(scope="module")
def played(config):
    """(recorded, played) episode files."""
    said = make_rollouts(config)
    assert said["played"] == 2 and len(said["determined"]) == len(said["all"]) == CLIPS
    return [
        (EpisodeFile(config.data / p.name), EpisodeFile(p)) for p in sorted(config.out.glob("*.safetensors"))
    ]


def whole(episode, name):
    return episode.get(name)


def test_the_target_stays_the_recorded_truth(played):
    for recorded, own in played:
        for name in ("frames", "depth", "dynamic", "c2w", "K"):
            assert torch.equal(whole(recorded, name), whole(own, name)), name
        assert own.meta["clips"] == recorded.meta["clips"]


def test_what_is_given_is_the_models_own(played):
    for recorded, own in played:
        frames = whole(own, "own")
        assert (
            torch.equal(frames[0], recorded.get("frames", 0))
            and frames.shape == whole(recorded, "frames").shape
        )
        assert (
            frames[1:].float() - whole(recorded, "frames")[1:].float()
        ).abs().mean() > 10  # it is untrained
        # The first clip's map is the first picture's, as in the recording; later ones hold what the model drew.
        first, truth = own.get("render", 0)[0].float(), own.get("own", 0).float()
        known = own.get("known", 0)[0]
        assert known.float().mean() > 0.5
        references = whole(own, "references")
        assert references.shape == (CLIPS, 2)
        for number in range(CLIPS):
            assert references[number].max() <= 8 * number
        assert first.shape == truth.shape


def test_clips_are_those_of_the_environment(runs, played):
    """Played by hand through `reset` and `step` on the same picture, poses and words."""
    recorded, own = played[0]
    env = SpatiaEnv(action="path", size=(H, W), model=str(runs / "model"))
    c2w = whole(recorded, "c2w")
    picture = {"image": recorded.get("frames", 0).numpy(), "intrinsics": whole(recorded, "K").numpy()}
    depth = recorded.get("depth", 0).float().numpy()
    env.reset(
        seed=3, options=picture | {"depth": depth, "pose": c2w[0].numpy(), "prompt": recorded.meta["prompt"]}
    )
    relative = torch.linalg.inv(c2w[0].double()) @ c2w[1:9].double()
    seen, _, _, _, _ = env.step(
        {"path": relative.float().numpy(), "event": recorded.meta["clips"][0]["event_text"]}
    )
    difference = np.abs(seen["frames"].astype(int) - own.get("own", slice(1, 9)).numpy().astype(int))
    assert np.percentile(difference, 99) <= 2
    assert (torch.from_numpy(seen["known"] > 0) != own.get("known", 0)).float().mean() < 0.01


def test_truth_is_asked_for_where_it_can_be_known(played):
    for recorded, own in played:
        known, trust = whole(own, "known"), whole(own, "trust")
        assert trust.dtype == torch.bool and trust.shape == known.shape
        assert trust[~known].all()
        moving = whole(recorded, "dynamic")[1:].view_as(trust)
        assert trust[moving].all()
        names = ("frames", "depth", "dynamic", "c2w", "K")
        shown = shown_by_start({name: whole(recorded, name) for name in names}).view_as(trust)
        left_out = ~trust
        assert not (left_out & shown).any() and not (left_out & ~known).any()


def test_the_start_picture_shows_its_own_surface_only():
    """A wall 2 m ahead, seen from where it was, from a step aside, and from behind."""
    K = torch.tensor([[48.0, 0, 48], [0, 48, 32], [0, 0, 1]])
    c2w = torch.eye(4).repeat(4, 1, 1)
    c2w[2, 0, 3] = 1.0
    c2w[3, 0, 0] = c2w[3, 2, 2] = -1  # turned round
    recorded = {"depth": torch.full((4, H, W), 2.0), "c2w": c2w, "K": K}
    same, aside, behind = shown_by_start(recorded)
    assert same.all() and not behind.any()
    # One metre at 2 m is a quarter of the picture's 4 m.
    assert aside.float().mean() == pytest.approx(0.75, abs=0.02) and not aside[:, -10:].any()


def test_a_second_call_keeps_what_is_there_and_seeds_repeat(runs, config, played):
    assert make_rollouts(config)["played"] == 0
    env = SpatiaEnv(action="path", size=(H, W), model=str(runs / "model"), debug=True)
    rng = np.random.default_rng([0, 6])
    arrays, about = play_episode(env, played[0][0], 1.0, rng)
    assert torch.equal(arrays["own"], whole(played[0][1], "own")) and about["with_depth"]


def test_decline_pools_the_errors_of_all_episodes(config, played):
    expected = []
    for number in range(CLIPS):
        span = slice(1 + 8 * number, 9 + 8 * number)
        squared = [
            ((own.get("own", span).float() - own.get("frames", span).float()) / 255).square().mean()
            for _, own in played
        ]
        expected.append(float(-10 * torch.log10(torch.stack(squared).mean())))
    assert decline(config.out)["all"] == pytest.approx(expected, abs=2e-3)


def test_encoded_they_are_episodes_like_others(runs, config, played):
    torch.manual_seed(0)
    assert encode_episodes(fresh_autoencoder(), config.out) == 2
    store = ClipStore(config.out)
    row = latent_row(next(iter(store.episodes.values())), 1)
    assert row["clean"].shape == row["render"].shape == (48, 8, H // 16, W // 16)
    assert row["references"].shape[1] == 2


def test_mixed_with_recorded_ones_they_give_their_own_frames_and_ask_for_what_can_be_known(
    runs, config, played
):
    torch.manual_seed(0)  # the network of the test before, whose latents may be there
    network = fresh_autoencoder()
    for folder in (config.data, config.out):
        encode_episodes(network, folder)
    store = ClipStore(config.data, config.out)
    assert len(store.episodes) == 4
    recorded, own = (
        next(e for p, e in store.episodes.items() if p.parent == f) for f in (config.data, config.out)
    )
    a, b = latent_row(recorded, 1), latent_row(own, 1)
    assert torch.equal(a["clean"], b["clean"]) and not torch.allclose(a["preceding"], b["preceding"])
    shown = to_model(own.file.get("own", slice(5, 9)))
    expected = network.normalise(network.encode_raw(shown)).transpose(0, 1)
    assert (b["preceding"] - expected).abs().max() < 0.1 * expected.std()
    assert (b["weight"] <= a["weight"] + 1e-3).all() and (b["weight"] < a["weight"] - 0.1).any()
    pixels = read_pixels([(own, 1)], [(0, t) for t in range(8)])
    trust = torch.stack([own.file.get("trust", 1, t) for t in range(8)])
    assert torch.equal(pixels.weight[:, 0] > 0, trust)


def test_nothing_to_play_and_nobody_to_play_it(tmp_path, runs):
    with pytest.raises(ActionError, match="spatia train data"):
        make_rollouts(RolloutsConfig(tmp_path / "none", tmp_path / "out"))
    with pytest.raises(CheckpointError, match="no such folder"):
        make_rollouts(RolloutsConfig(runs / "data", tmp_path / "out", model="nobody", workers=1))
    assert not list((tmp_path / "out").glob("*"))
