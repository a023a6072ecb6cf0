import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spatia_env import geometry
from spatia_env.errors import PoseError
from spatia_env.io.validation import as_pose

TWIST = st.lists(st.floats(-3, 3), min_size=6, max_size=6).map(np.array)


@settings(max_examples=60, deadline=None)
@given(TWIST)
def test_exp_of_an_array_is_that_of_the_tensor_and_is_rigid(twist):
    ours = geometry.se3_exp(twist)
    theirs = geometry.se3_exp(torch.tensor(twist, dtype=torch.float64)).numpy()
    np.testing.assert_array_equal(ours, theirs)
    assert geometry.rigid_problem(ours) == ""
    np.testing.assert_allclose(geometry.invert_se3(ours) @ ours, np.eye(4), atol=1e-9)


def test_exp_is_the_matrix_exponential():
    from scipy.linalg import expm

    twist = np.array([0.3, -0.2, 0.5, 0.4, -0.6, 0.1])
    hat = np.zeros((4, 4))
    hat[:3, :3] = np.cross(np.eye(3), twist[3:])
    hat[:3, 3] = twist[:3]
    np.testing.assert_allclose(geometry.se3_exp(twist), expm(hat), atol=1e-12)


@pytest.mark.parametrize("scale", [0, 1e-12, 1e-6, 1e-5, 1e-4])
def test_exp_near_zero(scale):
    twist = scale * np.array([1, 2, 3, 1, -1, 2])
    np.testing.assert_allclose(
        geometry.se3_exp(twist), geometry.se3_exp(twist / 2) @ geometry.se3_exp(twist / 2), atol=1e-15
    )


def test_signs_of_the_axes():
    # Forward is +z; +pitch looks up (towards -y), +yaw turns right (+x), +roll is clockwise (right goes
    # down).
    forward, right = np.array([0, 0, 1.0]), np.array([1.0, 0, 0])
    assert (geometry.se3_exp(np.array([0, 0, 0, 0.1, 0, 0]))[:3, :3] @ forward)[1] < 0
    assert (geometry.se3_exp(np.array([0, 0, 0, 0, 0.1, 0]))[:3, :3] @ forward)[0] > 0
    assert (geometry.se3_exp(np.array([0, 0, 0, 0, 0, 0.1]))[:3, :3] @ right)[1] > 0


@pytest.mark.parametrize("degrees", [0, 1e-4, 1, 90, 179, 180])
def test_distance_and_angle(degrees):
    a = geometry.se3_exp(np.array([1, 2, 3, 0.3, 0.2, 0.1]))
    b = a @ geometry.se3_exp(np.array([0, 0, 0, 0, np.radians(degrees), 0]))
    b[:3, 3] += [0.3, 0, 0.4]
    metres, angle = geometry.distance_and_angle(a, b)
    assert metres == pytest.approx(0.5) and angle == pytest.approx(degrees, abs=1e-5)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "eye",
        np.eye(3),
        np.eye(4)[None],
        np.full((4, 4), np.nan),
        np.zeros((4, 4)),
        np.diag([1, 1, -1, 1]),
        np.diag([2.0, 2, 2, 1]),
        np.diag([1, 1, 1, 2]),
        np.eye(4, dtype=complex),
        np.eye(4, dtype=object),
        [[1, 2], [3]],
        np.full((4, 4), 1e300),
        np.eye(4, dtype=bool),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_pose(value):
    with pytest.raises(PoseError):
        as_pose(value)


def test_as_pose_copies():
    pose = np.eye(4)
    kept = as_pose(pose)
    pose[0, 3] = 9
    assert kept[0, 3] == 0 and kept.dtype == np.float64
