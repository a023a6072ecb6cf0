import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spatia_env.errors import ActionError
from spatia_env.poses import se3_exp
from spatia_env.tasks import TASKS, TaskContext, TaskResult, colour_difference, make_task

H, W = 12, 20
GREY = np.full((H, W, 3), 128, np.uint8)


def context(x: float = 0.0, yaw: float = 0.0, **extra) -> TaskContext:
    c2w = se3_exp(np.array([x, 0, 0, 0, np.radians(yaw), 0]))
    c2w[:3, 3] = [x, 0, 0]
    return TaskContext(**({"c2w": c2w, "start_c2w": np.eye(4), "frame": GREY, "start_frame": GREY} | extra))


def test_make_task_knows_names_and_options():
    for name in ("none", "explore", "return_home"):
        assert isinstance(make_task(name), TASKS[name])
    assert make_task("explore", area_scale=2.0).area_scale == 2
    with pytest.raises(ActionError, match="did you mean 'explore'"):
        make_task("explor")
    with pytest.raises(ActionError, match="did you mean 'weight'"):
        make_task("explore", wieght=1)
    with pytest.raises(ActionError, match="unknown option '_potential'"):
        make_task("return_home", _potential=3)


def test_result_sums_its_terms_as_plain_numbers():
    result = TaskResult({"a": np.float32(1.5), "b": -1}, np.bool_(True), np.bool_(False))
    assert result.reward == 0.5 and result.terminated is True and result.success is False
    assert all(type(value) is float for value in result.terms.values())
    assert make_task("none").evaluate(context()).reward == 0


def test_explore_pays_for_new_surface_only():
    task = make_task("explore", area_scale=4.0, limit=2.0, weight=0.5, step_cost=0.01)
    assert task.evaluate(context(growth_area=2.0)).terms == {"new_surface": 0.25, "time": -0.01}
    assert task.evaluate(context(growth_area=0.0)).reward == pytest.approx(-0.01)
    assert task.evaluate(context(growth_area=1e9)).terms["new_surface"] == 1.0
    assert task.evaluate(context(growth_area=-1)).terms["new_surface"] == 0


def test_image_goal_by_pose():
    goal = context(2.0, 90).c2w
    task = make_task("image_goal", goal_c2w=goal)
    task.reset(context())
    half = task.evaluate(context(1.0, 45))
    assert half.terms["progress"] == pytest.approx(1.5) and not half.terminated
    there = task.evaluate(context(1.9, 80))
    assert there.success and there.terminated and there.terms["success"] == 5
    assert not task.evaluate(context(2.0, 0)).success


def test_image_goal_by_picture():
    goal = GREY + 40
    task = make_task("image_goal", goal_image=goal)
    task.reset(context())
    closer = task.evaluate(context(frame=GREY + 20))
    assert closer.terms["progress"] == pytest.approx(4 * 20 / 255) and not closer.success
    assert task.evaluate(context(frame=goal)).success
    with pytest.raises(ActionError, match="goal image"):
        task.evaluate(context(frame=GREY[:-1]))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"goal_image": GREY[..., 0]},
        {"goal_image": GREY.astype(float)},
    ],
)
def test_image_goal_asks_for_a_goal(options):
    with pytest.raises(ActionError):
        make_task("image_goal", **options)


def test_goal_is_copied():
    goal = GREY.copy()
    task = make_task("image_goal", goal_image=goal)
    goal[:] = 0
    assert task.goal_image.min() == 128


def test_return_home_wants_an_excursion_first():
    task = make_task("return_home", away=1.0)
    task.reset(context())
    assert not task.evaluate(context(0.05)).success  # has not been anywhere
    out = task.evaluate(context(1.5))
    assert out.terms["progress"] == pytest.approx(1 - 0.05) and not out.success
    back = task.evaluate(context(0.1))
    assert back.success and back.terminated
    assert back.terms == pytest.approx({"progress": 0.9, "success": 5.0, "closure": 1.0})


def test_return_home_closure_falls_with_the_difference_of_pictures():
    task = make_task("return_home")
    for frame, closure in ((GREY + 16, 0.5), (GREY + 100, 0.0)):
        task.reset(context())
        task.evaluate(context(2.0))
        assert task.evaluate(context(frame=frame)).terms["closure"] == pytest.approx(closure)
    with pytest.raises(ActionError, match="away"):
        make_task("return_home", away=0.1)


def test_find():
    task = make_task("find", target="a red ball")
    task.reset(context(target_share=0.0))
    seen = task.evaluate(context(target_share=0.01))
    assert seen.terms["progress"] == pytest.approx(0.5) and not seen.success
    far = task.evaluate(context(target_share=0.05, target_distance=6.0))
    assert not far.success and far.terms["progress"] == pytest.approx(1.0)
    assert task.evaluate(context(target_share=0.05, target_distance=1.0)).success
    with pytest.raises(ActionError, match="reset from a scene"):
        task.evaluate(context())
    with pytest.raises(ActionError, match="name the object"):
        make_task("find")


CASES = {
    "image_goal": {"goal_c2w": se3_exp(np.array([1.5, 0, 0, 0, 0, 0]))},
    "return_home": {},
    "find": {"target": "duck"},
}


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(CASES)),
    walk=st.lists(st.floats(-3, 3), min_size=1, max_size=8),
)
def test_progress_telescopes_so_going_to_and_fro_earns_nothing(name, walk):
    """With gamma = 1, a closed walk that crosses no threshold sums to zero."""
    task = make_task(name, **CASES[name])

    def at(x: float) -> TaskContext:
        # Short of the far point of return_home, whose second phase is another state.
        return context(x / 4, target_share=abs(x) / 300)

    task.reset(at(walk[0]))
    total = sum(task.evaluate(at(x)).terms["progress"] for x in [*walk[1:], walk[0]])
    assert total == pytest.approx(0, abs=1e-9)


def test_a_copy_is_a_snapshot():
    task = make_task("return_home")
    task.reset(context())
    task.evaluate(context(0.5))
    twin = copy.copy(task)
    assert twin.evaluate(context(2.0)) == task.evaluate(context(2.0))


def test_colour_difference():
    assert colour_difference(GREY, GREY) == 0
    assert colour_difference(np.zeros_like(GREY), np.full_like(GREY, 255)) == 1
    with pytest.raises(ActionError):
        colour_difference(GREY, None)
