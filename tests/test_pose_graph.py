"""The pose graph: against the truth, against Open3D, and against its own residuals taken numerically."""

import numpy as np
import pytest
import torch

from spatia_env.errors import PoseError
from spatia_env.geometry import invert_se3, path_from_twist, pose_error, se3_exp
from spatia_env.slam.pose_graph import Edge, optimise, se3_log


def circle(count: int) -> torch.Tensor:
    """Poses [count, 4, 4] once around, f64."""
    twist = torch.tensor([0.0, 0.0, 0.3 * count / 10, 0.0, 2 * torch.pi * (1 - 1 / count), 0.0])
    return path_from_twist(torch.eye(4), twist, count).double()


def noisy_loop(
    count: int, seed: int = 0, noise: float = 0.01
) -> tuple[torch.Tensor, torch.Tensor, list[Edge]]:
    """True poses, dead reckoning, and edges: noisy motions and one exact loop from the last to the first."""
    true = circle(count)
    generator = torch.Generator().manual_seed(seed)
    edges, poses = [], [true[0]]
    for i in range(count - 1):
        error = noise * torch.randn(6, generator=generator, dtype=torch.float64)
        motion = invert_se3(true[i]) @ true[i + 1] @ se3_exp(error)
        edges.append(Edge(i, i + 1, motion))
        poses.append(poses[-1] @ motion)
    edges.append(Edge(count - 1, 0, invert_se3(true[-1]) @ true[0], 0.002, 0.001))
    return true, torch.stack(poses), edges


@pytest.mark.parametrize("seed", range(3))
def test_a_loop_brings_the_poses_back(seed):
    true, reckoned, edges = noisy_loop(24, seed)
    found = optimise(reckoned, edges)
    before, after = (pose_error(poses, true)[0] for poses in (reckoned, found))
    assert torch.equal(found[0], reckoned[0])
    assert float(after[-1]) < 0.1 * float(before[-1])
    assert float(after.mean()) < float(before.mean())


def test_without_a_loop_nothing_moves():
    _, reckoned, edges = noisy_loop(9)
    assert torch.allclose(optimise(reckoned, edges[:-1]), reckoned, atol=1e-9)


def cost(poses, edges):
    total = 0.0
    for edge in edges:
        r = se3_log(invert_se3(edge.motion) @ invert_se3(poses[edge.first]) @ poses[edge.second])
        total += float((r[:3] / edge.metres).square().sum() + (r[3:] / edge.radians).square().sum())
    return total


def test_the_optimum_is_a_minimum():
    # Little noise: all edges lie within the quadratic part.
    _, reckoned, edges = noisy_loop(8, 1, noise=0.001)
    found = optimise(reckoned, edges)
    least = cost(found, edges)
    generator = torch.Generator().manual_seed(3)
    for _ in range(60):
        nudged = found.clone()
        i = int(torch.randint(1, 8, (1,), generator=generator))
        nudged[i] = nudged[i] @ se3_exp(1e-4 * torch.randn(6, generator=generator, dtype=torch.float64))
        assert cost(nudged, edges) > least


def test_a_wrong_loop_bends_little():
    true, reckoned, edges = noisy_loop(20, 2, noise=0.001)
    wrong = Edge(14, 3, invert_se3(true[14]) @ true[3] @ se3_exp(torch.tensor([2.0, 0, 0, 0, 0, 0]).double()))
    found = optimise(reckoned, [*edges, wrong])
    assert float(pose_error(found, true)[0].max()) < 0.2


def test_log_undoes_exp():
    twist = torch.randn(200, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.8
    twist[:20] *= 1e-5
    assert torch.allclose(se3_log(se3_exp(twist)), twist, atol=1e-9)


def test_open3d_finds_the_same():
    from spatia_env.io.mesh import import_open3d

    registration = import_open3d().pipelines.registration
    true, reckoned, edges = noisy_loop(30, 5, noise=0.002)
    graph = registration.PoseGraph()
    for pose in reckoned.numpy():
        graph.nodes.append(registration.PoseGraphNode(pose))
    for edge in edges:
        # Open3D's edges map the source's coordinates into the target's; its twists turn first.
        information = np.diag([edge.radians**-2] * 3 + [edge.metres**-2] * 3)
        motion = invert_se3(edge.motion).numpy()
        graph.edges.append(registration.PoseGraphEdge(edge.first, edge.second, motion, information, False))
    registration.global_optimization(
        graph,
        registration.GlobalOptimizationLevenbergMarquardt(),
        registration.GlobalOptimizationConvergenceCriteria(),
        registration.GlobalOptimizationOption(reference_node=0),
    )
    theirs = torch.from_numpy(np.stack([node.pose for node in graph.nodes]))
    ours = optimise(reckoned, edges)
    error = [float(pose_error(poses, true)[0].mean()) for poses in (ours, theirs)]
    assert float(pose_error(ours, theirs)[0].max()) < 0.002
    assert error[0] < 1.2 * error[1] + 1e-4


def test_errors_say_what_to_do():
    _, reckoned, edges = noisy_loop(4)
    with pytest.raises(PoseError, match="fix"):
        optimise(reckoned, edges, fixed=())
    with pytest.raises(PoseError, match="edges"):
        optimise(reckoned[:2], edges)
    assert optimise(reckoned, []) is reckoned
