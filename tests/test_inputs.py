import numpy as np
import pytest

from spatia_env.errors import ActionError, PoseError, PromptError, SeedError, SpatiaError
from spatia_env.world.reset import check_reset_options, check_seed

IMAGE = np.zeros((20, 30, 3), np.uint8)


@pytest.mark.parametrize("seed", [0, 5, 2**63, np.int64(5), np.uint8(3)])
def test_seeds(seed):
    assert check_seed(seed) == int(seed) and type(check_seed(seed)) is int
    assert check_seed(None) is None


@pytest.mark.parametrize("seed", [-1, 1.5, "7", True, np.bool_(True), np.int64(-3), [1], np.float32(2), b"1"])
def test_bad_seeds(seed):
    with pytest.raises(SeedError) as caught:
        check_seed(seed)
    assert isinstance(caught.value, ValueError) and "non-negative integer" in str(caught.value)


def test_options_are_normalised_and_copied():
    pose = np.eye(4, dtype=np.float32)
    given = {"scene": np.int64(7), "prompt": " a room ", "pose": pose, "image": None, "depth": True}
    options = check_reset_options(given)
    assert options["scene"] == 7 and type(options["scene"]) is int
    assert options["prompt"] == "a room" and "image" not in options
    pose[0, 3] = 5
    assert options["pose"][0, 3] == 0
    assert check_reset_options(None) == {} and check_reset_options({}) == {}
    assert check_reset_options({"scene": "yard-3"}) == {"scene": "yard-3"}


@pytest.mark.parametrize(
    "options",
    [
        {"image": IMAGE, "intrinsics": [1, 1, 0.5, 0.5], "depth": IMAGE[..., 0], "mask": IMAGE[..., 0]},
        {"image": "a.png"},
        {"world": "a.spatia", "prompt": "", "pose": np.eye(4)},
        {"prompt": "x" * 2000},
    ],
)
def test_options_that_go_together(options):
    assert set(check_reset_options(options)) == set(options)


BAD = {
    "not a dict": ([("scene", 1)], ActionError, "dict"),
    "unknown": ({"scen": 1}, ActionError, "did you mean 'scene'"),
    "unknown type": ({3: 1}, ActionError, "unknown key 3"),
    "two sources": ({"scene": 1, "image": "a.png"}, ActionError, "exclude each other"),
    "three sources": ({"scene": 1, "image": "a.png", "world": "w"}, ActionError, "exclude each other"),
    "intrinsics of a scene": (
        {"scene": 1, "intrinsics": [1, 1, 0.5, 0.5]},
        ActionError,
        "goes with an 'image'",
    ),
    "intrinsics of nothing": ({"intrinsics": [1, 1, 0.5, 0.5]}, ActionError, "goes with an 'image'"),
    "mask of a world": ({"world": "w", "mask": IMAGE[..., 0]}, ActionError, "goes with an 'image'"),
    "depth of a world": ({"world": "w", "depth": True}, ActionError, "a world has its own"),
    "depth array of a scene": ({"scene": 1, "depth": np.ones((4, 4))}, ActionError, "True or False"),
    "depth flag of an image": ({"image": IMAGE, "depth": True}, ActionError, "an array"),
    "scene float": ({"scene": 1.5}, ActionError, "seed .int. or a name"),
    "scene negative": ({"scene": -1}, ActionError, "seed .int. or a name"),
    "scene bool": ({"scene": True}, ActionError, "seed .int. or a name"),
    "scene control": ({"scene": "a\nb"}, PromptError, "scene"),
    "prompt bytes": ({"prompt": b"x"}, PromptError, "prompt"),
    "prompt long": ({"prompt": "x" * 2001}, PromptError, "2000"),
    "pose scaled": ({"pose": np.eye(4) * 2}, PoseError, "pose"),
    "pose nan": ({"pose": np.full((4, 4), np.nan)}, PoseError, "pose"),
    "pose shape": ({"pose": np.eye(3)}, PoseError, "pose"),
}


@pytest.mark.parametrize(("options", "error", "words"), BAD.values(), ids=BAD.keys())
def test_bad_options(options, error, words):
    with pytest.raises(error, match=words) as caught:
        check_reset_options(options)
    assert isinstance(caught.value, SpatiaError)
