"""`spatia train rollouts`: recorded episodes played again by the model itself, to fine-tune on its own mistakes.

In recorded episodes everything that is given is true. At play it is not: from the second clip on the preceding
frames, the map and the retrieved pictures come from clips that the model made. Here the environment plays an
episode's walk and events from its first picture; what the model was given is kept, and the target stays the
recorded truth. The files are episode files (`episodes`) whose `render`, `known`, `map_depth` and
`references` are those of the played world, with two arrays more:

    own     u8 [1 + 8 n, H, W, 3]   what the model showed; `references` count these frames
    trust   bool [n, 8, H, W]       where the truth can be asked for (below)

A place that the start picture does not show was imagined once, and its truth cannot be known. Where the map shows
such a place again, the recorded frame would teach the model to disbelieve its own map. `trust` leaves those pixels out:
it is set where the map shows nothing yet, where the start picture shows the surface, and on what moves.
"""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spatia_env.env import SpatiaEnv
from spatia_env.errors import ActionError
from spatia_env.geometry import invert_se3, project, unproject
from spatia_env.train.episodes import (
    FRAMES,
    EpisodeFile,
    EpisodeStore,
    clip_span,
    dilated,
    frame_indices,
    in_processes,
    write_episode,
)
from spatia_env.world.reset import begin
from spatia_env.world.starts import Start
from spatia_env.world.world import World

STILL = 1e-6
"""Entries of a relative pose this close to the identity's are the rounding of a rest."""


@dataclass(frozen=True)
class RolloutsConfig:
    """Play recorded episodes with a model and keep what it was given."""

    data: Path = Path("runs/data/train")
    """recorded episode files"""
    out: Path = Path("runs/data/rollouts")
    """folder of the played episode files; those that exist are kept"""
    model: str = "spatia-tiny"
    """checkpoint that plays: a name, or a folder that `spatia train ship` wrote"""
    first: int = 0
    """number of the first file"""
    count: int = 400
    """how many files"""
    depth_share: float = 0.5
    """share of episodes that start with their true depth; the others from the picture alone"""
    seed: int = 0
    """decides which start with depth, and the model's noise"""
    workers: int = 2
    """processes"""


def make_rollouts(config: RolloutsConfig) -> dict[str, Any]:
    """Play the missing episodes; returns how many, and dB per clip on what the start picture shows.

    Raises:
        ActionError: There are no episodes, or the checkpoint makes clips of another length or size.
        CheckpointError: The checkpoint cannot be loaded.
    """
    files = EpisodeStore(config.data).require().files[config.first : config.first + config.count]
    config.out.mkdir(parents=True, exist_ok=True)
    missing = [path for path in files if not (config.out / path.name).exists()]
    jobs = [(path, config) for path in missing]
    in_processes(_play, jobs, config.workers, "rollouts")
    return {"played": len(missing), **decline(config.out, [path.name for path in files])}


def decline(folder: Path, names: list[str] | None = None) -> dict[str, list[float]]:
    """PSNR in dB by number of the clip, over the played episodes of a folder: `determined` and `all` pixels.

    `determined` are static pixels whose surface the start picture shows; each clip's errors are pooled.
    """
    errors: dict[str, list[list[tuple[float, int]]]] = {"determined": [], "all": []}
    for path in sorted(folder.glob("*.safetensors")) if names is None else [folder / n for n in names]:
        for kind, clips in EpisodeFile(path).meta["rollout"]["errors"].items():
            for number, pair in enumerate(clips):
                while len(errors[kind]) <= number:
                    errors[kind].append([])
                errors[kind][number].append((pair[0], pair[1]))
    return {kind: [_pooled(pairs) for pairs in clips] for kind, clips in errors.items()}


def _pooled(pairs: list[tuple[float, int]]) -> float:
    total, count = (sum(values) for values in zip(*pairs, strict=True))
    return round(float(-10 * np.log10(max(total / max(count, 1), 1e-9))), 3)


def _play(job: tuple[Path, RolloutsConfig]) -> None:
    path, config = job
    episode = EpisodeFile(path)
    rng = np.random.default_rng([config.seed, int(path.stem) if path.stem.isdigit() else len(path.stem)])
    env = _env(config.model, episode.size[1:])
    arrays, about = play_episode(env, episode, config.depth_share, rng)
    meta = episode.meta | {"rollout": about | {"model": env.checkpoint_id}}
    write_episode(config.out / path.name, arrays, meta)


@functools.lru_cache
def _env(model: str, size: tuple[int, int]) -> SpatiaEnv:
    """The environment that plays, made once a process."""
    env = SpatiaEnv(action="path", size=size, model=model, debug=True)
    if env.shape.num_frames != FRAMES:
        raise ActionError(f"rollouts: episodes have clips of {FRAMES} frames, {model} makes others.")
    return env


def play_episode(
    env: SpatiaEnv, episode: EpisodeFile, depth_share: float, rng: np.random.Generator
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The arrays of one played episode file, and squared errors (sum, pixels) by clip."""
    recorded = {name: episode.get(name) for name in ("frames", "depth", "dynamic", "c2w", "K")}
    with_depth = bool(rng.random() < depth_share)
    _open(env, episode, recorded, with_depth, int(rng.integers(2**31)))
    own = [recorded["frames"][:1]]
    given: dict[str, list[Tensor]] = {name: [] for name in ("render", "known", "map_depth", "references")}
    for number, clip in enumerate(episode.meta["clips"]):
        path = recorded["c2w"][clip_span(number)]
        frames, debug = _step(env, recorded["c2w"][FRAMES * number], path, clip["event_text"])
        given["render"].append(torch.from_numpy(debug["scene_render"]))
        given["known"].append(torch.from_numpy(debug["known"]) > 0)
        given["map_depth"].append(torch.from_numpy(debug["scene_depth"]).half())
        references = torch.from_numpy(debug["references"])
        given["references"].append(frame_indices(references, torch.cat(own), env.num_references))
        own.append(frames)
    played = {name: torch.stack(values) for name, values in given.items()} | {"own": torch.cat(own)}
    determined = shown_by_start(recorded)
    trust = ~played["known"].flatten(0, 1) | determined | dilated(recorded["dynamic"][1:])
    played["trust"] = trust.view_as(played["known"])
    about = {"with_depth": with_depth, "errors": _errors(played["own"], recorded, determined)}
    return recorded | played, about


def _open(
    env: SpatiaEnv, episode: EpisodeFile, recorded: dict[str, Tensor], with_depth: bool, seed: int
) -> None:
    """Begin the episode in the environment, as a reset to its scene would."""
    start = Start(
        recorded["frames"][0],
        recorded["K"],
        recorded["c2w"][0],
        episode.meta["prompt"],
        depth=recorded["depth"][0].float() if with_depth else None,
        # Simulated floors are at 0; in a posed video the ground is not known.
        ground=None if "video" in episode.meta else 0.0,
    )
    state = begin(
        start, start.prompt, seed, env.slam.estimator, env.empty_points, env.shape.num_preceding, True
    )
    env.reset(seed=seed, options={"world": World(state)})


def _step(env: SpatiaEnv, last: Tensor, path: Tensor, event: str) -> tuple[Tensor, dict[str, np.ndarray]]:
    """The environment's clip u8 [8, H, W, 3] along world poses [8, 4, 4], and what the model was given."""
    relative = invert_se3(last.double()) @ path.double()
    rest = (relative - torch.eye(4, dtype=torch.float64)).abs() < STILL
    relative = torch.where(rest, torch.eye(4, dtype=torch.float64), relative)
    observation, _, _, _, info = env.step({"path": relative.float().numpy(), "event": event})
    return torch.from_numpy(observation["frames"]), info["debug"]


def shown_by_start(recorded: dict[str, Tensor]) -> Tensor:
    """Where frames 1... show surface that frame 0 shows too, by their true depth: bool [N - 1, H, W]."""
    depth, c2w, K = recorded["depth"].float(), recorded["c2w"], recorded["K"]
    height, width = depth.shape[1:]
    start, w2c = depth[0], invert_se3(c2w[:1])
    out = []
    for frame, pose in zip(depth[1:], c2w[1:], strict=True):
        uv, z = project(unproject(frame, K, pose).reshape(-1, 3), w2c, K)
        column, row = uv[0].floor().long().unbind(-1)
        inside = (z[0] > 0.05) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        surface = start[row.clamp(0, height - 1), column.clamp(0, width - 1)]
        # Half a pixel's step on a slanted floor is allowed for.
        same = (surface > 0) & ((surface - z[0]).abs() < 0.03 + 0.02 * z[0])
        out.append((inside & same & (frame.flatten() > 0)).view(height, width))
    return torch.stack(out)


def _errors(own: Tensor, recorded: dict[str, Tensor], determined: Tensor) -> dict[str, list[list[float]]]:
    """Sum of squared errors (of 1 for the full range) and number of pixels, by clip and kind of pixel."""
    squared = ((own[1:].float() - recorded["frames"][1:].float()) / 255).square().mean(-1)
    still = determined & ~recorded["dynamic"][1:]
    kinds = {"determined": still, "all": torch.ones_like(still)}
    out: dict[str, list[list[float]]] = {}
    for kind, mask in kinds.items():
        clips = zip(squared.split(FRAMES), mask.split(FRAMES), strict=True)
        out[kind] = [[float((error * inside).sum()), int(inside.sum())] for error, inside in clips]
    return out
