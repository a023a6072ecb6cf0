import numpy as np
import pytest
import torch

from spatia_env import actions
from spatia_env.errors import ActionError, PoseError, PromptError, SpatiaError
from spatia_env.geometry import se3_exp
from twists import path_of_twist

ZERO = np.zeros(6, np.float32)


def test_camera_is_a_fraction_of_metres_and_degrees():
    camera = np.array([1, -0.5, 0.2, 1, -1, 0.5], np.float32)
    twist, event = actions.decode_action({"camera": camera, "event": " rain "})
    np.testing.assert_allclose(twist[:3], [0.5, -0.25, 0.1], atol=1e-7)
    np.testing.assert_allclose(np.degrees(twist[3:]), [30, -30, 15], atol=1e-5)
    assert event == "rain" and twist.dtype == np.float64


@pytest.mark.parametrize("camera", [[0] * 6, (0.0,) * 6, torch.zeros(6), np.zeros(6, np.float64)])
def test_camera_may_be_any_array_of_numbers(camera):
    assert actions.decode_camera(camera).tolist() == [0] * 6


def test_actions_are_copied():
    camera, path = ZERO.copy(), path_of_twist(np.full(6, 0.1), 4)
    twist, _ = actions.decode_action({"camera": camera, "event": ""})
    kept, _ = actions.decode_action({"path": path, "event": ""}, "path", 4)
    before = kept.copy()
    camera[:] = 1
    path[:] = 0
    assert not twist.any() and np.array_equal(kept, before)


def test_rounding_beyond_one_is_forgiven():
    camera = np.array([np.nextafter(np.float32(1), np.float32(2)), 0, 0, 0, 0, 0], np.float32)
    assert actions.decode_camera(camera)[0] == actions.MAX_TRANSLATION


BAD_CAMERAS = {
    "nan": np.array([0, 0, np.nan, 0, 0, 0]),
    "inf": np.array([np.inf, 0, 0, 0, 0, 0]),
    "-inf": np.array([0, 0, 0, 0, 0, -np.inf]),
    "1e9": np.array([0, 0, 1e9, 0, 0, 0]),
    "a little": np.array([0, 0, 1.00001, 0, 0, 0]),
    "five": np.zeros(5),
    "matrix": np.zeros((1, 6)),
    "scalar": 0.0,
    "empty": [],
    "object": np.zeros(6, dtype=object),
    "complex": np.zeros(6, dtype=complex),
    "bool": np.zeros(6, dtype=bool),
    "text": "000000",
    "texts": ["0"] * 6,
    "none": None,
    "ragged": [[0, 0], [0]],
    "dict": {"x": 1},
}


@pytest.mark.parametrize("camera", BAD_CAMERAS.values(), ids=BAD_CAMERAS.keys())
def test_bad_camera(camera):
    with pytest.raises(ActionError, match="camera"):
        actions.decode_action({"camera": camera, "event": ""})


BAD_ACTIONS = {
    "none": None,
    "text": "forward",
    "array": np.zeros(6),
    "list": [0] * 6,
    "no event": {"camera": ZERO},
    "no camera": {"event": ""},
    "empty": {},
    "extra": {"camera": ZERO, "event": "", "speed": 1},
    "path for camera": {"path": np.eye(4)[None], "event": ""},
}


@pytest.mark.parametrize("action", BAD_ACTIONS.values(), ids=BAD_ACTIONS.keys())
def test_bad_action(action):
    with pytest.raises(ActionError) as caught:
        actions.decode_action(action)
    assert isinstance(caught.value, ValueError) and "camera" in str(caught.value)


def test_errors_name_the_near_miss_and_the_remedy():
    with pytest.raises(ActionError, match="did you mean 'camera'"):
        actions.decode_action({"camra": ZERO, "event": ""})
    with pytest.raises(ActionError, match=r"\[2\] is 3; the range is -1 to 1.*0.5 m or 30 degrees"):
        actions.decode_camera([0, 0, 3, 0, 0, 0])


@pytest.mark.parametrize("event", [None, 3, b"rain", "x" * 257, "a\nb", "\ud800", np.array("rain"), ["rain"]])
def test_bad_event(event):
    with pytest.raises(PromptError, match="event"):
        actions.decode_action({"camera": ZERO, "event": event})


def test_path_is_checked_frame_by_frame():
    good = path_of_twist(np.array([0.2, 0, 0.3, 0, 0.4, 0]), 4).astype(np.float32)
    path, _ = actions.decode_action({"path": good, "event": ""}, "path", 4)
    np.testing.assert_allclose(path, good)
    for row, value in [((2, 0, 0), np.nan), ((2, 1, 3), np.inf), ((2, 0, 0), 5.0), ((2, 3, 3), 0.0)]:
        bad = good.copy()
        bad[row] = value
        with pytest.raises(PoseError, match=r"path'\]\[2\]"):
            actions.decode_path(bad, 4)
    far = good.copy()
    far[1, 0, 3] = 1e9
    with pytest.raises(PoseError, match="limit is 50 m"):
        actions.decode_path(far, 4)


@pytest.mark.parametrize("path", [None, "x", np.zeros((3, 4, 4)), np.eye(4), np.zeros((4, 3, 4)), [[]]])
def test_bad_path(path):
    with pytest.raises(SpatiaError):
        actions.decode_path(path, 4)


def test_moves_keep_their_order():
    names = [name for name, _ in actions.MOVES]
    assert names[:11] == [
        "none",
        "forward",
        "back",
        "left",
        "right",
        "up",
        "down",
        "turn left",
        "turn right",
        "look up",
        "look down",
    ]
    assert not any(actions.MOVES[0][1])
    assert all(len(camera) == 6 and max(map(abs, camera)) <= 1 for _, camera in actions.MOVES)


def test_discrete_actions():
    camera, event = actions.decode_discrete(np.array([1, 0]))
    assert camera.tolist() == [0, 0, 1, 0, 0, 0] and event == ""
    camera[:] = 9  # the caller's own copy
    assert actions.decode_discrete([1, 0])[0].max() == 1
    assert actions.decode_discrete((0, 2))[1] == actions.EVENTS[2]


@pytest.mark.parametrize(
    "action", [None, 1, [0], [0, 0, 0], [0.0, 0.0], [-1, 0], [99, 0], [0, 9999], "ab", {"move": 1}, [[0, 0]]]
)
def test_bad_discrete_action(action):
    with pytest.raises(ActionError):
        actions.decode_discrete(action)


def _end(clips: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    for camera in clips:
        pose = pose @ se3_exp(actions.decode_camera(camera))
    return pose


# End centre and yaw of WorldScore's paths, in units of its camera speed.
WORLDSCORE = {
    "push_in": ((0, 0, 1), 0),
    "pull_out": ((0, 0, -1), 0),
    "move_left": ((-0.5, 0, 0), 0),
    "move_right": ((0.5, 0, 0), 0),
    "pan_left": ((0, 0, 0), -30),
    "pan_right": ((0, 0, 0), 30),
    "orbit_left": ((-0.5, 0, 0.134), 30),
    "orbit_right": ((0.5, 0, 0.134), -30),
}


@pytest.mark.parametrize("name", actions.WORLDSCORE_PRESETS)
@pytest.mark.parametrize("distance", [1.0, 2.5])
def test_worldscore_presets_end_where_worldscore_does(name, distance):
    centre, yaw = WORLDSCORE[name]
    end = _end(actions.preset(name, distance))
    np.testing.assert_allclose(end[:3, 3], np.array(centre) * distance, atol=1e-3)
    forward = end[:3, :3] @ [0, 0, 1]
    assert np.degrees(np.arctan2(forward[0], forward[2])) == pytest.approx(yaw, abs=1e-3)


def test_orbits_look_at_their_centre_all_along():
    pose = np.eye(4)
    for camera in actions.preset("orbit_left", 2.0):
        for step in path_of_twist(actions.decode_camera(camera), 6):
            target = np.linalg.inv(pose @ step) @ [0, 0, 2, 1]
            np.testing.assert_allclose(target[:3], [0, 0, 2], atol=1e-5)
        pose = pose @ se3_exp(actions.decode_camera(camera))


@pytest.mark.parametrize("name", actions.PRESETS)
def test_presets_are_valid_actions(name):
    clips = actions.preset(name)
    assert clips.dtype == np.float32 and clips.ndim == 2
    for camera in clips:
        actions.decode_camera(camera)
    if name in ("panorama_left", "look_around", "there_and_back", "side_to_side", "fixed"):
        np.testing.assert_allclose(_end(clips), np.eye(4), atol=1e-6)


def test_preset_uses_the_fewest_clips():
    assert len(actions.preset("pan_left")) == 1
    assert len(actions.preset("push_in")) == 2
    assert len(actions.preset("push_in", 1.2)) == 3
    assert len(actions.preset("panorama_left")) == 12
    assert len(actions.preset("push_in", max_translation=1.0)) == 1


@pytest.mark.parametrize(("name", "distance"), [("orbit", 1), ("push_in", 0), ("push_in", np.nan)])
def test_bad_preset(name, distance):
    with pytest.raises(ActionError):
        actions.preset(name, distance)
