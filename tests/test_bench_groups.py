"""Groups and figures on records made by hand and on the simulator: faults are seen, cheats are not rewarded."""

import dataclasses

import numpy as np
import pytest

from spatia_env.bench import groups, metrics
from spatia_env.bench.episodes import FRAMES, PATHS, film, path_of, turn
from spatia_env.bench.groups import closure, known, photographs, policies, returns, samples, viewpoint, walls
from spatia_env.bench.registry import FIGURES, GROUPS, Stage
from spatia_env.bench.systems import SYSTEMS, Rollout, Start, systems_of
from spatia_env.errors import ActionError
from spatia_env.sim.layout import draw_plan
from spatia_env.sim.scenes import SimScene

SCENE, SIZE = 10040, (48, 64)


@pytest.fixture(scope="module")
def scene():
    with SimScene(SCENE) as opened:
        yield opened


@pytest.fixture(scope="module")
def ring(scene):
    truth = film(scene, path_of(scene, "ring"), SIZE)
    return closure.Ring(truth, Rollout(truth.frames[1:], truth.depth[1:], truth.seen_before[1:]))


def with_frames(record, frames, depth=None):
    old = record.rollout
    rollout = dataclasses.replace(old, frames=frames, depth=old.depth if depth is None else depth)
    return dataclasses.replace(record, rollout=rollout)


def measured(name, record):
    return FIGURES[name].measure(record)


# -- episodes


@pytest.mark.parametrize("name", PATHS)
def test_paths_begin_at_the_first_camera_move_by_whole_clips_and_repeat(scene, name):
    poses = path_of(scene, name)
    assert np.array_equal(poses[0], scene.initial_c2w)
    assert len(poses) % FRAMES == 1 and poses.shape[1:] == (4, 4)
    assert np.allclose(np.linalg.det(poses[:, :3, :3]), 1, atol=1e-4)
    assert np.array_equal(poses, path_of(scene, name))
    if name in ("loop", "square", "drift", "ring", "glance"):
        assert np.allclose(poses[-1], poses[0], atol=1e-5)


def test_a_turn_turns_to_the_right_about_the_worlds_up_axis():
    c2w = np.array([[0, 0, 1, 1], [-1, 0, 0, 2], [0, -1, 0, 1.5], [0, 0, 0, 1]], np.float32)  # looks along +x
    end = turn(c2w, [45, 45])[-1]
    assert np.allclose(end[:3, 2], [0, -1, 0], atol=1e-6)
    assert np.array_equal(end[:3, 3], c2w[:3, 3])


def test_what_was_seen_is_what_a_depth_test_says(ring):
    truth = ring.truth
    assert truth.observed[0].mean() > 0.95
    assert truth.observed[4 * FRAMES].mean() < 0.05  # turned by 180 degrees
    assert truth.seen_before[8 * FRAMES + 4].mean() > 0.9  # the second round has seen it all


# -- closure


def test_the_truth_closes(ring):
    assert measured("seam", ring) == 1 and measured("second_turn", ring) == metrics.PSNR_CAP
    assert measured("floor_spread", ring) < 0.02 and measured("overlap_depth", ring) < 2


def test_a_seam_is_seen_and_a_wash_is_no_way_out(ring):
    truth = ring.truth
    new = ~truth.seen_before[1:][..., None]
    brighter = np.where(new, np.minimum(truth.frames[1:].astype(int) + 60, 255), truth.frames[1:]).astype(
        np.uint8
    )
    wash = np.full_like(brighter, 128)
    assert measured("seam", with_frames(ring, brighter)) > 1.5 < measured("seam", with_frames(ring, wash))


def test_a_second_turn_that_differs_is_seen_and_a_frozen_frame_gets_nothing(ring):
    frames = ring.rollout.frames.copy()
    frames[FRAMES * 8 :] = frames[FRAMES * 8 :][::-1]
    assert measured("second_turn", with_frames(ring, frames)) < 30
    frozen = np.repeat(ring.truth.frames[:1], len(frames), 0)
    assert measured("second_turn", with_frames(ring, frozen)) == 0


def test_depth_that_drifts_around_the_turn_is_seen_and_none_is_the_worst(ring):
    drifting = ring.rollout.depth * np.linspace(1, 1.6, len(ring.rollout.depth))[:, None, None].astype(
        np.float32
    )
    wrong = with_frames(ring, ring.rollout.frames, drifting)
    assert measured("floor_spread", wrong) > 0.05 and measured("overlap_depth", wrong) > 2
    nothing = with_frames(ring, ring.rollout.frames, np.zeros_like(drifting))
    assert measured("floor_spread", nothing) == 1 and measured("overlap_depth", nothing) == 100


# -- other viewpoints


def view_record(scene, frames=None, depth=None, went=True):
    truth = film(scene, path_of(scene, "aside"), (96, 96))
    rollout = Rollout(
        truth.frames[1:] if frames is None else frames,
        truth.depth[1:] if depth is None else depth,
        truth.observed[1:],
    )
    poses = truth.c2w[1:]
    a, b = viewpoint.FROM, viewpoint.TO
    drawn = viewpoint.draw_at(rollout.frames[a], rollout.depth[a], poses[a], poses[b], truth.K)
    return viewpoint.Seen(went, *drawn, truth, rollout)


def test_the_truth_agrees_with_itself_from_aside(scene):
    record = view_record(scene)
    assert record.covered.mean() > viewpoint.LEAST
    assert measured("view_depth", record) < 4


def test_another_place_at_b_is_seen_and_imagining_nothing_is_the_worst(scene):
    truth = view_record(scene)
    depth = truth.rollout.depth.copy()
    depth[viewpoint.TO] *= 1.3
    assert measured("view_depth", view_record(scene, depth=depth)) > 15
    assert measured("view_depth", view_record(scene, depth=np.zeros_like(depth))) == 100
    assert measured("view_depth", view_record(scene, went=False)) == 100


# -- samples


def test_resampled_rooms_keep_the_start_picture_and_change_the_rest():
    differ = []
    for seed in (10040, 10041, 10043):
        with SimScene(seed) as original:
            poses = turn(original.initial_c2w, [90, 90])[[0, FRAMES, 2 * FRAMES]]
            first = original.render(poses[0], 128, 128).rgb
        views = samples.posterior_views(seed, poses, 3)
        same = [(np.abs(view[0].astype(int) - first).max(-1) <= 12).mean() for view in views]
        assert min(same) > 0.97, seed
        differ.append(metrics.spread([metrics.coarse(view[1:]) for view in views]))
    assert np.mean(differ) > 0.01
    plan = draw_plan(SCENE)
    assert samples.resampled(plan, 0) == samples.resampled(plan, 0) != samples.resampled(plan, 1)


def sample_record(shown):
    posterior = np.stack([picture(seed) for seed in range(4)])
    return samples.Samples(shown, posterior, picture(9), None)


def picture(seed):
    return (
        np.random.default_rng(seed)
        .integers(0, 255, (2, 4, 4, 3))
        .astype(np.uint8)
        .repeat(16, 1)
        .repeat(16, 2)
    )


def test_one_answer_has_no_spread_and_draws_of_the_truth_score_best():
    draws = sample_record(np.stack([picture(seed) for seed in range(20, 24)]))
    one = sample_record(picture(20)[None])
    mean = sample_record(np.full((1, 2, 64, 64, 3), 128, np.uint8))
    assert measured("posterior_spread", draws) == pytest.approx(1, abs=0.2)
    assert measured("posterior_spread", one) == measured("posterior_spread", mean) == 0
    scores = [measured("posterior_energy", r) for r in (draws, one, mean)]
    assert scores[0] == min(scores)


# -- returns, walls, known


def test_standing_still_does_not_return(scene):
    truth = film(scene, path_of(scene, "loop"), SIZE)
    frozen = np.repeat(truth.frames[:1], 4 * FRAMES, 0)
    assert returns.closed(truth, truth.frames[1:], 2 * FRAMES, 4 * FRAMES) == metrics.PSNR_CAP
    assert returns.closed(truth, frozen, 2 * FRAMES, 4 * FRAMES) < 30
    dimmed = truth.frames[1:].copy()
    dimmed[-1] = dimmed[-1] // 2
    assert returns.closed(truth, dimmed, 2 * FRAMES, 4 * FRAMES) < 20


def test_going_through_the_wall_is_seen_and_standing_earns_nothing(scene):
    poses = path_of(scene, "straight")
    free = walls.free_way(scene, poses[0])
    blocked = walls.blocked(scene, poses[0], poses[1:])
    far = np.linalg.norm(poses[1:, :3, 3] - poses[0, :3, 3], axis=1)
    assert 0.5 < free <= 7 and blocked[far > free + walls.REACH].all() and not blocked[far < free - 0.1].any()
    still = walls.Walk(poses[1:], blocked * 0, 0.0, free, np.zeros((1, 8, 8, 3), np.uint8))
    assert measured("free_way_used", still) == 0 and measured("through_walls", still) == 0


def test_a_changed_known_pixel_is_seen():
    frames = np.full((16, 32, 48, 3), 90, np.uint8)
    known_mask = np.ones((16, 32, 48), bool)
    changed = frames.copy()
    changed[0, :8, :8] = 200
    truth = type(
        "T", (), {"frames": np.concatenate([frames[:1], frames]), "observed": np.ones((17, 32, 48), bool)}
    )
    for shown, share in ((frames, 0.0), (changed, 100 * 64 / (32 * 48))):
        record = known.Known({(128, 128): (truth, Rollout(shown, shown[..., 0], known_mask, frames))})
        assert measured("known_changed", record) == pytest.approx(share)
        assert (measured("known_128", record) < 60) == (share > 0)
    assert measured("known_256", record) is None


# -- photographs


def world_map(height=128):
    """An equirectangular picture whose colours tell the direction: red is +x, green +y, blue up."""
    rows, columns = np.indices((height, 2 * height)) + 0.5
    azimuth, polar = (0.5 - columns / (2 * height)) * 2 * np.pi, rows / height * np.pi
    rays = np.stack([np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], -1)
    return (127.5 + 127 * rays).round().astype(np.uint8)


def test_a_view_of_a_panorama_shows_the_directions_it_looks_at():
    place = photographs.place_of(world_map(), 3, (40, 56))
    for index in (0, 2 * FRAMES, 4 * FRAMES):
        pose = place.c2w[index]
        colour = place.frames[index][19:21, 27:29].mean((0, 1))
        assert np.allclose((colour - 127.5) / 127, pose[:3, 2], atol=0.03)
        right = place.frames[index][20, -2].astype(float) - place.frames[index][20, 1]
        assert right @ pose[:3, 0] > 100  # not mirrored
    assert place.observed[0].all() and not place.observed[4 * FRAMES].any()
    assert np.array_equal(place.frames[0], place.frames[-1])


def test_a_photograph_that_is_painted_over_and_one_that_never_turned_are_seen():
    truth = photographs.place_of(world_map(), 3, (48, 48))
    frames = truth.frames[1:]
    shown = {"true": frames, "over": frames.copy(), "frozen": np.repeat(truth.frames[:1], len(frames), 0)}
    shown["over"][-1, 10:30, 10:30] = 0
    record = {
        k: photographs.Place(truth, Rollout(f, f[..., 0], truth.observed[1:])) for k, f in shown.items()
    }
    assert measured("photo_return", record["true"]) == metrics.PSNR_CAP
    assert measured("photo_return", record["over"]) < 20 and measured("photo_return", record["frozen"]) == 0


# -- policies


def seen(**more):
    base = {
        "frame": np.zeros((64, 64, 3), np.uint8),
        "depth": np.ones((64, 64)),
        "known": np.ones((64, 64), bool),
    }
    return policies.Seen(**(base | more), goal=more.get("goal"), rng=np.random.default_rng(0))


def test_policies_act_on_what_they_are_shown():
    deep_right = np.ones((64, 64))
    deep_right[:, 32:] = 5
    assert policies.to_far(seen(depth=deep_right))[4] > 0 > policies.to_near(seen(depth=deep_right))[4]
    new_left = np.ones((64, 64), bool)
    new_left[:, :32] = False
    assert policies.to_unknown(seen(known=new_left))[4] < 0 < policies.to_known(seen(known=new_left))[4]
    for act in policies.POLICIES.values():
        camera = act(seen(depth=deep_right))
        assert camera.shape == (6,) and np.abs(camera).max() <= 1


def test_policies_play_in_every_world(model_folder, monkeypatch):
    monkeypatch.setattr(policies, "POLICIES", {"to-unknown": policies.to_unknown, "to-far": policies.to_far})
    monkeypatch.setattr(policies, "STEPS", 1)
    with Stage(str(model_folder)) as stage:
        record = [
            policies.play(stage, SCENE, SYSTEMS[n]) for n in ("oracle", "memory-render-only", "mirrored")
        ]
    assert all(r.world.shape == (2, 2) and np.isfinite(r.world).all() for r in record)
    assert all(np.array_equal(r.simulator, record[0].world) for r in record)


def test_rank_correlation_of_equal_reversed_and_constant_worlds():
    true = np.arange(16.0).reshape(8, 2)
    ones = np.ones(3)
    same = policies.rank_correlation([np.stack([true, true])] * 3)(ones)
    reverse = policies.rank_correlation([np.stack([-true, true])] * 3)(ones)
    constant = policies.rank_correlation([np.stack([true * 0, true])] * 3)(ones)
    assert (same, reverse, constant) == (pytest.approx(1), pytest.approx(-1), 0)


# -- the registry


def test_figures_have_titles_targets_that_parse_and_groups():
    from spatia_env.bench.report import target_of

    assert set(groups.__all__) == {g.replace("time", "timing") for g in GROUPS}
    for figure in FIGURES.values():
        assert figure.title and figure.group in GROUPS and figure.better in ("", "high", "low")
        row, rule = target_of(figure)
        assert row in SYSTEMS
        if rule:
            sign, number = rule.split()
            assert sign in (">=", "<=") and np.isfinite(float(number))
            assert (sign == ">=") == (figure.better == "high")
    for group in GROUPS.values():
        systems_of(group.systems)


def test_unknown_rows_are_named():
    with pytest.raises(ActionError, match=r"nosuch.*frozen-frame"):
        systems_of(["default", "nosuch"])


def test_an_option_that_the_environment_lacks_is_a_note():
    system = dataclasses.replace(SYSTEMS["default"], options={"telepathy": True})
    assert "telepathy" in system.missing() and SYSTEMS["default"].missing() == ""


def test_rows_without_a_model_show_the_map_of_the_start_picture(model_folder):
    with Stage(str(model_folder)) as stage:
        truth = stage.truth(SCENE, "glance", (64, 64))
        first = Start(truth.c2w[0], SCENE)
        shown = {
            n: stage.players.roll(SYSTEMS[n], truth, start=first)
            for n in ("memory-render-only", "memory+inpaint")
        }
        bare, filled = shown.values()
        assert np.array_equal(bare.frames, bare.render) and (bare.frames[~bare.known] == 0).all()
        assert np.array_equal(filled.frames[filled.known], bare.frames[bare.known])
        assert (filled.depth > 0).all() and not (bare.depth[~bare.known] > 0).any()
        played = stage.players.roll(SYSTEMS["default"], truth)
        assert played.frames.shape == truth.frames[1:].shape and len(played.infos) == truth.clips
        again = stage.players.roll(SYSTEMS["default"], truth)
        assert np.array_equal(played.frames, again.frames)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    from untrained import write_untrained

    return write_untrained(tmp_path_factory.mktemp("model"))
