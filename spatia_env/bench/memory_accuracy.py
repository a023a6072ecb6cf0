"""Probes of the map's accuracy: surface, tracking, what moves, and the cost of an update over time.

The simulator plays the generator (`memory_play`), so every figure is one of SLAM and the map.
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree

from spatia_env.bench.episodes import FRAMES, generator, gentle_path, loop_path, turning_path, walk_path
from spatia_env.bench.memory_play import MAP_ROWS, Episode, ReplayEnv, drifted, film
from spatia_env.bench.memory_probes import Draw, Probe, Probed, Setting, figure
from spatia_env.bench.metrics import pose_errors
from spatia_env.events.vocabulary import EVENTS
from spatia_env.memory.point_map import SceneMemory
from spatia_env.memory.rendering import render_rows
from spatia_env.sim.scenes import FRAME_SECONDS, SimScene
from spatia_env.slam.depth_network import static_weight

SIZE = (128, 128)
NEAREST_THRESHOLD, RELATIVE_THRESHOLD = 0.05, 0.03
"""A point is right within the larger of these metres and this share of the depth it was seen at."""
DRIFT_SCALE, DRIFT_METRES, DRIFT_DEGREES = 1.01, 0.02, 1.0
"""Planted: factor on the translation of every clip, a step to the right and a yaw that are added to it."""
MOVER_METRES = 0.05
"""A wrong point this close to where something moved was left by it."""
UPDATES = 20

Cells = dict[int, dict[str, float]]


# -- the surface
# ------------------------------------------------------------------------------------------------


def walk(seed: int, clips: int) -> Episode:
    """A walk through a still scene."""
    with SimScene(seed) as scene:
        return film(scene, walk_path(scene, generator(seed, "walk"), clips).numpy(), SIZE)


def surface_scores(points: np.ndarray, episode: Episode) -> dict[str, float]:
    """Precision, recall and F-score of map points [n, 3] against the true surface that any frame shows."""
    if not len(points):
        return {"precision": 0.0, "recall": 0.0, "fscore": 0.0}
    limit = np.maximum(NEAREST_THRESHOLD, RELATIVE_THRESHOLD * episode.surface_depth)
    away, nearest = cKDTree(episode.surface).query(points)
    precision = float((away <= limit[nearest]).mean())
    recall = float((cKDTree(points).query(episode.surface)[0] <= limit).mean())
    both = precision + recall
    return {
        "precision": precision,
        "recall": recall,
        "fscore": 2 * precision * recall / both if both else 0.0,
    }


def similarity(points: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Scale, rotation [3, 3] and shift [3] that bring points [n, 3] closest to `truth` [n, 3].

    S. Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991.
    """
    a, b = points.mean(0), truth.mean(0)
    u, s, vt = np.linalg.svd((truth - b).T @ (points - a))
    sign = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = u @ sign @ vt
    scale = float((s * sign.diagonal()).sum() / ((points - a) ** 2).sum())
    return scale, rotation, b - scale * rotation @ a


def aligned(points: np.ndarray, episode: Episode, env: ReplayEnv) -> np.ndarray:
    """Map points [n, 3] after the similarity that brings what the keyframes saw closest to the truth."""
    from spatia_env.geometry import unproject

    K, ours, true = torch.from_numpy(episode.K), [], []
    for index, keyframe in enumerate(env.world.state.keyframes):
        frame = 4 * index  # the first picture, then every fourth frame
        depth, truth = keyframe.depth.float(), torch.from_numpy(episode.depth[frame])
        both = (depth > 0) & (truth > 0)
        ours.append(unproject(depth, K, keyframe.c2w)[both].numpy())
        true.append(unproject(truth, K, torch.from_numpy(episode.c2w[frame]))[both].numpy())
    scale, rotation, shift = similarity(
        np.concatenate(ours).astype(float), np.concatenate(true).astype(float)
    )
    return scale * points @ rotation.T + shift


def probe_surface(setting: Setting) -> Probed:
    """The map against the true surface: with the first picture's depth, from the picture alone, with true depth.

    Poses of the same walks: tracking must not lose what the command says.
    """
    names = ("default", "picture-only", "oracle", "no-slam", "no-carving", "no-planes")
    envs = {n: ReplayEnv(MAP_ROWS.get(n, MAP_ROWS["default"]), SIZE, setting.model) for n in names}
    scores: dict[str, Cells] = {name: {} for name in names}

    for seed in setting.seeds:
        episode = walk(seed, setting.clips)
        for name, env in envs.items():
            env.start(episode, depth=name != "picture-only")
            errors = [pose_of(env, episode, clip) for clip, _ in enumerate(env.clips())]
            points = env.world.memory.points()["position"]
            points = aligned(points, episode, env) if name == "picture-only" else points
            scores[name][seed] = surface_scores(points, episode) | {
                "position_m": errors[-1][0], "rotation_deg": errors[-1][1], "points": float(len(points)),
            }  # fmt: skip
    figures = {
        "map_fscore": figure(
            "F-score of the map, 8 clips, first picture's depth given", _column(scores["default"], "fscore"), 0.90
        ),
        "map_fscore_picture_only": figure(
            "the same, from the picture alone, after similarity alignment",
            _column(scores["picture-only"], "fscore"), 0.75,
        ),
        "map_fscore_oracle": figure(
            "the same, with oracle depth", _column(scores["oracle"], "fscore"), 0.97
        ),
        "pose_metres_without_drift": figure(
            "final position error without drift", _column(scores["default"], "position_m"), 0.03, False, "m"
        ),
        "pose_degrees_without_drift": figure(
            "final rotation error without drift", _column(scores["default"], "rotation_deg"), 1.0, False, "deg"
        ),
    }  # fmt: skip
    cells = {row: [values["fscore"] for values in scores[row].values()] for row in names}
    return Probed(figures, {row: _means(cell) for row, cell in scores.items()}, {"fscore": cells})


# -- tracking
# ---------------------------------------------------------------------------------------------------


def pose_of(env: ReplayEnv, episode: Episode, clip: int) -> tuple[float, float, float, float]:
    """Metres and degrees by which SLAM errs at the end of a clip, and the same of dead reckoning."""
    state, true = env.world.state, episode.c2w[FRAMES * (clip + 1)][None]
    ours = pose_errors((state.drift @ state.c2w).numpy()[None], true)
    reckoned = pose_errors(state.c2w.numpy()[None], true)
    return float(ours[0][0]), float(ours[1][0]), float(reckoned[0][0]), float(reckoned[1][0])


def stray(seed: int, kind: str, clips: int) -> Episode:
    """True frames from cameras that stray from their command, on a walk or on a loop."""
    twist = np.array([DRIFT_METRES, 0, 0, 0, np.radians(DRIFT_DEGREES), 0])
    with SimScene(seed) as scene:
        path = (walk_path if kind == "walk" else loop_path)(scene, generator(seed, kind), clips).numpy()
        return film(scene, drifted(path, DRIFT_SCALE, twist), SIZE, path)


def probe_tracking(setting: Setting) -> Probed:
    """Planted drift: position at the end against dead reckoning, and the map against the surface."""
    cells: dict[str, Cells] = {}
    curves: dict[str, list[list[float]]] = {"tracked": [], "dead reckoning": []}
    for row in ("default", "no-slam"):
        env = ReplayEnv(MAP_ROWS[row], SIZE, setting.model)
        for kind in ("walk", "loop"):
            found = cells.setdefault(f"{row}, {kind}", {})
            for seed in setting.seeds:
                episode = stray(seed, kind, setting.clips)
                env.start(episode)
                loops, errors = 0, []
                for clip, info in enumerate(env.clips()):
                    loops += info["slam"]["loop_step"] is not None
                    errors.append(pose_of(env, episode, clip))
                last = errors[-1]
                found[seed] = {
                    "position_m": last[0], "rotation_deg": last[1], "dead_reckoning_m": last[2],
                    "share": last[0] / max(last[2], 1e-6), "loops": float(loops),
                    **surface_scores(env.world.memory.points()["position"], episode),
                }  # fmt: skip
                if (row, kind) == ("default", "walk"):
                    curves["tracked"].append([e[0] for e in errors])
                    curves["dead reckoning"].append([e[2] for e in errors])
    share = {seed: values["share"] for seed, values in cells["default, walk"].items()}
    loop = {seed: values["share"] for seed, values in cells["default, loop"].items()}
    figures = {
        "tracking_share": figure(
            "final position error with planted drift, share of dead reckoning's (walk)", share, 0.25, False
        ),
        "tracking_share_loop": figure("the same on a loop", loop, 0.25, False),
    }
    return Probed(figures, {row: _means(cell) for row, cell in cells.items()}, {"curves": curves})


# -- what moves
# -----------------------------------------------------------------------------------------------------


def mover_episode(seed: int, number: int) -> tuple[Episode, np.ndarray]:
    """A mover crosses while the camera turns; then it is taken away and the camera looks back. And its points."""
    rng = generator(seed, "leakage")
    movers = [event.name for event in EVENTS if event.kind == "mover"]
    with SimScene(seed) as scene:
        start = torch.from_numpy(np.array(scene.initial_c2w, np.float32))
        out = turning_path(scene, start, rng)
        scene.start_event(movers[(seed + 5 * number) % len(movers)], out[FRAMES - 1].numpy(), rng)
        acting = film(scene, torch.cat([start[None], out]).numpy(), SIZE, advance=FRAME_SECONDS)
        scene.remove_movers()
        back = torch.cat([gentle_path(out[-1], rng), out.flip(0)[1:], start[None]])
        after = film(scene, torch.cat([out[-1:], back]).numpy(), SIZE)
    both = {
        name: np.concatenate([getattr(acting, name), getattr(after, name)[1:]])
        for name in ("c2w", "commanded", "frames", "depth", "dynamic")
    }
    surface = {
        n: np.concatenate([getattr(acting, n), getattr(after, n)]) for n in ("surface", "surface_depth")
    }
    return Episode(seed, acting.K, **both, **surface), moving_points(acting)


def moving_points(episode: Episode) -> np.ndarray:
    """World points [n, 3] of everything that moves in any frame."""
    from spatia_env.geometry import unproject

    points = unproject(
        torch.from_numpy(episode.depth), torch.from_numpy(episode.K), torch.from_numpy(episode.c2w)
    )
    return points[torch.from_numpy(episode.dynamic & (episode.depth > 0))].numpy()


def leaked(points: np.ndarray, episode: Episode, moving: np.ndarray) -> np.ndarray:
    """Which map points [n, 3] lie where something moved, and not on static surface: bool [n]."""
    if not len(moving) or not len(points):
        return np.zeros(len(points), bool)
    limit = np.maximum(NEAREST_THRESHOLD, RELATIVE_THRESHOLD * episode.surface_depth)
    away, nearest = cKDTree(episode.surface).query(points)
    return (away > limit[nearest]) & (cKDTree(moving).query(points)[0] < MOVER_METRES)


def probe_movers(setting: Setting) -> Probed:
    """Movers that cross while the camera turns: what they leave in the map, and what the filter costs."""
    rows = ("default", "oracle", "no-slam", "no-carving", "no-dynamic-filter")
    cells: dict[str, Cells] = {row: {} for row in rows}
    envs = {row: ReplayEnv(MAP_ROWS[row], SIZE, setting.model) for row in rows}
    for number, seed in enumerate(setting.seeds):
        episode, moving = mover_episode(seed, number)
        for row, env in envs.items():
            cells[row][seed] = _mover_scores(env, episode, moving)
    default = cells["default"]
    figures = {
        "leaked_points": figure(
            "points that movers left in the map", _column(default, "leaked"), 0.01, False
        ),
        "static_recall": figure("static pixels written", _column(default, "static_recall"), 0.95),
        "ghost_pixels": figure("ghost pixels on revisit", _column(default, "ghosts"), 0.02, False),
    }
    return Probed(figures, {row: _means(cell) for row, cell in cells.items()})


def _mover_scores(env: ReplayEnv, episode: Episode, moving: np.ndarray) -> dict[str, float]:
    env.start(episode)
    written = static = 0
    for clip, _ in enumerate(env.clips()):
        assert env.geometry is not None
        still = torch.from_numpy(~episode.dynamic[episode.clip(clip)])
        written += int(((static_weight(env.geometry) > 0) & still).sum())
        static += int(still.sum())
    rows = env.world.memory.points()
    wrong = leaked(rows["position"], episode, moving)
    state = env.world.state
    painted = rows.copy()
    painted["colour"] = np.where(wrong, 255, 0).astype(np.uint8)[:, None]
    poses = torch.from_numpy(episode.c2w[: 1 + 2 * FRAMES : 4])
    view = render_rows(painted, poses, state.K, *state.size)
    ghosts = ((view.rgb[:, 0] > 0.5) & view.known).float().mean()
    return {
        "leaked": float(wrong.sum()) / max(len(rows), 1),
        "static_recall": written / max(static, 1),
        "ghosts": float(ghosts),
    }


# -- the cost of an update over time
# -------------------------------------------------------------------------------


def probe_incremental(setting: Setting) -> Probed:
    """Seconds of writing the i-th of 20 clips into the map, against rebuilding the map from all frames so far."""
    update, rebuild = np.zeros(UPDATES), np.zeros(UPDATES)
    episode = walk(setting.seeds[0], 4)
    rgb = torch.from_numpy(episode.frames).movedim(-1, 1).float() / 255
    depth, c2w, K = (torch.from_numpy(x) for x in (episode.depth, episode.c2w, episode.K))
    weight = (depth > 0).float()
    spans = [episode.clip(i % episode.clips) for i in range(UPDATES)]
    clips = [(rgb[s], depth[s], weight[s], c2w[s], K) for s in spans]
    memory = SceneMemory()
    for clip in clips[: episode.clips]:  # all blocks exist before the first is timed: warm
        memory, _ = memory.update(*clip, step=0)
    for index, clip in enumerate(clips):
        begin = time.process_time()
        memory, _ = memory.update(*clip, step=index)
        update[index] = time.process_time() - begin
    for index in (0, UPDATES // 2, UPDATES - 1):
        begin = time.process_time()
        whole = SceneMemory()
        for step, clip in enumerate(clips[: index + 1]):
            whole, _ = whole.update(*clip, step=step)
        rebuild[index] = time.process_time() - begin
    period = episode.clips  # the same clips come again and again: like is compared with like
    ratio = float(np.median(update[-period:]) / np.median(update[:period]))
    figures = {
        "update_last_first": figure("CPU time of updates 17-20 / 1-4", {0: ratio}, 1.2, False),
        "rebuild_last_first": figure("the same of rebuilding from all frames", {0: rebuild[-1] / rebuild[0]}),
    }
    measured = [i for i in range(UPDATES) if rebuild[i] > 0]
    curves = {"update": update.tolist(), "rebuilt": measured, "rebuild": rebuild[measured].tolist()}
    return Probed(figures, data=curves)


# -- tables and plots
# ----------------------------------------------------------------------------------------------


def _column(cells: Cells, name: str) -> dict[int, float]:
    return {seed: values[name] for seed, values in cells.items()}


def _means(cells: Cells) -> dict[str, float]:
    names = next(iter(cells.values()))
    return {name: float(np.mean([values[name] for values in cells.values()])) for name in names}


def _draw_drift(canvas: Any, data: Mapping[str, Any]) -> bool:
    if "tracking" not in data:
        return False
    axes = canvas.subplots()
    for name, curves in data["tracking"]["curves"].items():
        mean = 100 * np.mean(curves, axis=0)
        axes.plot(range(1, len(mean) + 1), mean, marker="o", label=name)
    axes.set_xlabel("clip")
    axes.set_ylabel("position error (cm)")
    axes.legend()
    return True


def _draw_map_error(canvas: Any, data: Mapping[str, Any]) -> bool:
    if "surface" not in data:
        return False
    axes, rows = canvas.subplots(), data["surface"]["fscore"]
    for place, values in enumerate(rows.values()):
        axes.barh(place, np.mean(values), 0.6, color="tab:blue")
        axes.plot(values, [place] * len(values), "k.", alpha=0.5)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("F-score of the map at max(5 cm, 3 % of depth); dots are scenes")
    return True


def _draw_incremental(canvas: Any, data: Mapping[str, Any]) -> bool:
    if "incremental" not in data:
        return False
    axes, curves = canvas.subplots(), data["incremental"]
    axes.plot(range(1, 1 + len(curves["update"])), curves["update"], marker="o", label="update")
    axes.plot(
        [1 + i for i in curves["rebuilt"]], curves["rebuild"], marker="s", label="rebuild from all frames"
    )
    axes.set_xlabel("clip")
    axes.set_ylabel("CPU seconds")
    axes.set_yscale("log")
    axes.legend()
    return True


PROBES: dict[str, Probe] = {
    "surface": probe_surface,
    "tracking": probe_tracking,
    "movers": probe_movers,
    "incremental": probe_incremental,
}
PLOTS: dict[str, Draw] = {
    "drift": _draw_drift,
    "map_error": _draw_map_error,
    "incremental": _draw_incremental,
}
