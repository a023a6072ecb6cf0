"""Events: every one is seen, moves by physics, comes to rest; light and air ramp and end."""

import numpy as np
import pytest

from spatia_env.events import vocabulary
from spatia_env.sim import movers
from spatia_env.sim.scenes import SimFrame, SimScene

HEIGHT, WIDTH = 48, 64
MOVERS = [event.name for event in vocabulary.EVENTS if event.kind == "mover"]
CONDITIONS = [event.name for event in vocabulary.EVENTS if event.kind == "condition"]


def play(scene: SimScene, text: str, seed: int = 0, frames: int = 8) -> list[SimFrame]:
    scene.start_event(text, scene.initial_c2w, np.random.default_rng(seed))
    out = []
    for _ in range(frames):
        scene.advance()
        out.append(scene.render(scene.initial_c2w, HEIGHT, WIDTH))
    return out


@pytest.mark.parametrize("name", MOVERS)
@pytest.mark.parametrize("seed", [10005, 10013])
def test_movers_are_seen_and_move(name, seed):
    with SimScene(seed) as scene:
        before = scene.render(scene.initial_c2w, HEIGHT, WIDTH).rgb.astype(int)
        frames = play(scene, vocabulary.phrasings(name, "dev")[0], seed)
        areas = np.array([frame.dynamic.mean() for frame in frames])
        assert (areas > 0.01).sum() >= 5 and areas.max() > 0.018
        changed = np.abs(frames[2].rgb - before).max(-1) > 30
        assert changed[frames[2].dynamic].mean() > 0.5
        assert (frames[1].dynamic != frames[5].dynamic).mean() > 0.005  # it moves


def test_things_fall_and_rise():
    rows = np.arange(HEIGHT)[:, None] * np.ones(WIDTH)
    for name, sign in (("blue_box_drops", 1), ("duck_falls", 1), ("balloon_rises", -1)):
        with SimScene(10002) as scene:
            frames = play(scene, name)
            first, last = (rows[frame.dynamic].mean() for frame in (frames[0], frames[5]))
            assert sign * (last - first) > 4, name


def test_a_body_comes_to_rest_and_becomes_part_of_the_world():
    with SimScene(10003) as scene:
        frames = play(scene, "blue_box_drops", frames=60)
        assert not scene.is_moving and scene.events_active == ()
        assert not frames[-1].dynamic.any() and any("blue_box" in row.name for row in scene.object_table())
        scene.advance()
        again = scene.render(scene.initial_c2w, HEIGHT, WIDTH)
        assert (again.rgb == frames[-1].rgb).all()


def test_dynamic_lasts_four_still_frames():
    with SimScene(10003) as scene:
        scene.start_event("blue_box_drops", scene.initial_c2w, np.random.default_rng(0))
        body = next(row.body for row in scene.object_table() if "blue_box" in row.name)
        last, still, history = scene.engine.pose(body), 0, []
        for _ in range(60):
            scene.advance()
            now = scene.engine.pose(body)
            moved = np.linalg.norm(now[0] - last[0]) >= 0.005 or movers._angle(now[1], last[1]) >= 1.0
            still, last = (0 if moved else still + 1), now
            history.append((still, body in scene._activity.dynamic))
        assert all(dynamic == (still < 4) for still, dynamic in history) and history[-1][0] >= 4


def test_knocked_furniture_is_dynamic_while_it_moves():
    knocked = False
    for seed in range(10000, 10010):
        with SimScene(seed) as scene:
            crates = [row for row in scene.object_table() if row.name in ("box", "chair", "ball")]
            if not crates:
                continue
            scene.start_event("pink_cube_slides", scene.initial_c2w, np.random.default_rng(0))
            import pybullet

            cube = next(row.body for row in scene.object_table() if "pink" in row.name)
            middle = (np.array(crates[0].low) + crates[0].high) / 2
            pybullet.resetBasePositionAndOrientation(
                cube,
                [*(middle[:2] + [0.0, 0.0]), crates[0].high[2] + 1.0],
                [0, 0, 0, 1],
                physicsClientId=scene.engine.client,
            )
            pybullet.resetBaseVelocity(cube, [1.0, 1.0, -6], physicsClientId=scene.engine.client)
            seen = set()
            for _ in range(8):
                scene.advance()
                seen |= {row.body for row in scene.object_table() if row.dynamic}
            if crates[0].body in seen:
                knocked = True
                break
    assert knocked


@pytest.mark.parametrize("name", CONDITIONS)
def test_conditions_ramp_stay_and_end(name):
    ending = next(event.name for event in vocabulary.EVENTS if event.ends == name)
    with SimScene(10006) as scene:
        plain = scene.render(scene.initial_c2w, HEIGHT, WIDTH)
        scene.start_event(ending, scene.initial_c2w, np.random.default_rng(0))
        assert (scene.render(scene.initial_c2w, HEIGHT, WIDTH).rgb == plain.rgb).all()  # nothing to end
        frames = play(scene, name)
        change = [np.abs(frame.rgb.astype(int) - plain.rgb).mean() for frame in frames]
        assert scene.conditions == (name,) and scene.events_active == (name,)
        assert change[0] < 0.6 * change[3] and change[7] > 0.7 * change[3] > 1.5
        for frame in frames:
            assert (frame.depth == plain.depth).all()
            assert (frame.segmentation[~frame.dynamic] == plain.segmentation[~frame.dynamic]).all()
        assert frames[-1].dynamic.any() == (name == "snow")
        after = play(scene, ending)
        assert scene.conditions == () and (after[-1].rgb == plain.rgb).all()
        assert (after[0].rgb != plain.rgb).any()


def test_fog_hides_what_is_far():
    with SimScene(10006) as scene:
        plain = scene.render(scene.initial_c2w, HEIGHT, WIDTH)
        foggy = play(scene, "fog")[-1].rgb.astype(float)
        share = np.abs(foggy - plain.rgb).sum(-1) / (
            np.abs(np.array([196, 202, 206]) - plain.rgb.astype(float)).sum(-1) + 6
        )
        near, far = plain.depth < np.quantile(plain.depth, 0.2), plain.depth > np.quantile(plain.depth, 0.8)
        assert np.median(share[far]) > np.median(share[near]) + 0.05


def test_snow_is_dynamic_and_falls():
    with SimScene(10006) as scene:
        frames = play(scene, "snow")
        assert (frames[-1].segmentation[frames[-1].dynamic] == -2).all()
        assert 0.005 < frames[-1].dynamic.mean() < 0.12
        assert (frames[-1].dynamic & frames[-2].dynamic).mean() < 0.5 * frames[-1].dynamic.mean()


def test_two_events_at_once():
    with SimScene(10006) as scene:
        rng = np.random.default_rng(0)
        assert scene.start_event("it is snowing now", scene.initial_c2w, rng) == "snow"
        assert scene.start_event("Night falls.", scene.initial_c2w, rng) == "night"
        assert scene.start_event("red_ball_rolls", scene.initial_c2w, rng) == "red_ball_rolls"
        scene.advance()
        assert scene.events_active == ("red_ball_rolls", "snow", "night")
        assert scene.conditions == ("snow", "night") and scene.is_moving


def test_what_leaves_is_removed():
    with SimScene(5) as scene:  # a yard: the balloon goes up into the sky
        play(scene, "balloon_rises", frames=70)
        assert not any("balloon" in row.name for row in scene.object_table()) and not scene.is_moving
