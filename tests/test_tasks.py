import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spatia_env.errors import ActionError
from spatia_env.geometry import se3_exp
from spatia_env.tasks import TASKS, TaskContext, TaskResult, colour_difference, make_task, report

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
    task.reset(context())
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
        {"max_imagined": 0.0},
        {"goal_image": GREY[..., 0]},
        {"goal_image": GREY.astype(float)},
    ],
)
def test_image_goal_refuses_bad_goals(options):
    with pytest.raises(ActionError):
        make_task("image_goal", **options)


class Judge:
    """A judge of an empty space: one goal, one object two metres ahead of the origin."""

    def cells(self, path):
        return np.unique(np.floor(path[:, 0, 3]).astype(np.int64))

    def target(self, name, c2w):
        return (0.05 if c2w[0, 3] > 1 else 0.0), abs(2 - c2w[0, 3])

    def draw_goal(self, np_random, c2w):
        return GREY + 1, context(2.0).c2w

    def draw_target(self, np_random, c2w):
        return "duck"


def judged(x: float, **extra) -> TaskContext:
    path = np.stack([context(x).c2w])
    return context(x, judge=JUDGE, np_random=np.random.default_rng(0), seen_cells=JUDGE.cells(path), **extra)


JUDGE = Judge()


def test_image_goal_draws_a_goal_where_it_can():
    task = make_task("image_goal")
    assert task.wants_judge and not make_task("image_goal", goal_image=GREY).wants_judge
    with pytest.raises(ActionError, match="only a reset from a scene"):
        task.reset(context())
    task.reset(judged(0.0))
    assert (task.goal["image"] == GREY + 1).all()
    result = task.evaluate(judged(1.0))
    assert result.terms["progress"] == pytest.approx(1.0)
    assert result.oracle["goal_metres"] == pytest.approx(1.0)
    assert task.evaluate(judged(1.9)).success


def test_find_draws_an_object_and_asks_the_judge():
    task = make_task("find")
    task.reset(judged(0.0))
    assert task.goal == {"target": "duck"}
    assert not task.evaluate(judged(0.5)).success
    result = task.evaluate(judged(1.5))
    assert result.success and result.oracle["target_distance"] == pytest.approx(0.5)


def test_spl_is_success_times_the_shortest_way_over_the_way_taken():
    task = make_task("image_goal", goal_c2w=context(2.0).c2w)
    task.reset(context())
    assert task.evaluate(context(-1.0)).spl == 0
    task.evaluate(context(1.0))
    # 1 m back, 2 m ahead and the last 0.8 m, where 1.7 m would have done.
    assert task.evaluate(context(1.8)).spl == pytest.approx(1.7 / 3.8)


def test_explore_succeeds_at_its_area_and_its_spl_counts_clips():
    task = make_task("explore", goal_area=10.0, area_scale=4.0, limit=2.0)
    task.reset(context())
    assert task.evaluate(context(growth_area=4.0)).spl == 0
    assert not task.evaluate(context(growth_area=4.0)).terminated
    last = task.evaluate(context(growth_area=4.0))
    assert last.success and last.spl == pytest.approx(2 / 3)


def test_explore_pays_for_coming_nearer_to_the_frontier():
    task = make_task("explore", frontier_weight=0.5)
    task.reset(context(frontier_distance=2.0))
    assert task.evaluate(context(frontier_distance=1.4)).terms["frontier"] == pytest.approx(0.3)
    assert not make_task("explore").wants_frontier


def test_mush_truncates_but_a_turn_into_the_unknown_does_not():
    task = make_task("explore", max_imagined=0.9)
    task.reset(context())
    assert not any(task.evaluate(context(known_share=0.5)).truncated for _ in range(6))
    results = [task.evaluate(context(known_share=0.0)) for _ in range(3)]
    assert [r.truncated for r in results] == [False, False, True]
    assert "imagined 100%" in results[-1].reason and not results[-1].terminated


def test_drift_truncates():
    task = make_task("return_home", max_drift=0.25)
    task.reset(context())
    assert not task.evaluate(context(drift=0.2)).truncated
    assert "drifted 0.30 m" in task.evaluate(context(drift=0.1)).reason


def test_true_coverage_counts_every_cell_once():
    task = make_task("explore")
    task.reset(judged(0.0))
    first, again = task.evaluate(judged(3.0)), task.evaluate(judged(0.5))
    assert first.oracle == pytest.approx({"coverage": 0.08, "new_coverage": 0.04})
    assert again.oracle == pytest.approx({"coverage": 0.08, "new_coverage": 0.0})
    assert task.evaluate(context()).oracle == {}


def test_report_leaves_out_what_is_not_known():
    info = report(TaskResult({"a": 1.0}))
    assert info == {"reward_terms": {"a": 1.0}, "is_success": False}
    info = report(TaskResult(spl=0.5, oracle={"b": 1}, truncated=True, reason="why"))
    assert info["spl"] == 0.5 and info["oracle"] == {"b": 1.0} and info["end"] == "why"


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
    with pytest.raises(ActionError, match="reset from a scene"):
        make_task("find").reset(context())
    with pytest.raises(ActionError, match="name the object"):
        make_task("find", target=3)


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
