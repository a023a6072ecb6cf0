"""Recorded episodes: what was done, what came of it, and a hash a step, so that it can be played again.

An episode is `{prefix}-{number}.json`: how the environment was made, the reset, and per step the action, the reward,
the flags, what changed in the world, and the SHA-256 of all that the step returned. Frames go beside it
(`RecordClips`), into a Minari dataset or into WebDataset shards; see `datasets`.
"""

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from spatia_env.errors import ActionError
from spatia_env.io.atomic import write_text
from spatia_env.io.validation import check_keys

FORMAT = "spatia-episode/1"
_DELTAS = ("memory", "slam", "events")
MAX_FILE = 256 << 20


def digest(observation: Any, reward: float = 0.0, terminated: bool = False, truncated: bool = False) -> str:
    """SHA-256 of what a step returned: names, dtypes, shapes and bytes of the arrays, reward and flags."""
    found = hashlib.sha256()
    for name, array in _arrays(observation):
        head = f"{name}:{array.dtype.str}:{array.shape}".encode()
        found.update(struct.pack("<Q", len(head)) + head + np.ascontiguousarray(array).tobytes())
    found.update(struct.pack("<d??", float(reward), bool(terminated), bool(truncated)))
    return found.hexdigest()


def _arrays(observation: Any, name: str = "") -> list[tuple[str, np.ndarray]]:
    if isinstance(observation, Mapping):
        return [pair for key in sorted(observation) for pair in _arrays(observation[key], f"{name}.{key}")]
    return [(name, np.asarray(observation))]


def plain(value: Any) -> Any:
    """Arrays as lists, numbers as Python's own, paths and worlds refused: what JSON can hold.

    Raises:
        ActionError: If something cannot be written down.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ActionError(f"recording: a {type(value).__name__} cannot be written down; give a path or numbers.")


class RecordEpisodes(gym.Wrapper, RecordConstructorArgs):
    """Write every episode as JSON, to be played again by `spatia replay`.

    Args:
        env: An environment made by `gym.make`.
        folder: Where to write; it is made. Episodes are numbered on from what it holds.
        prefix: Beginning of the file names.
    """

    def __init__(self, env: gym.Env, folder: str | Path, prefix: str = "episode") -> None:
        RecordConstructorArgs.__init__(self, folder=str(folder), prefix=prefix)
        gym.Wrapper.__init__(self, env)
        if env.spec is None:
            raise ActionError(
                "RecordEpisodes: make the environment with gym.make, so that it can be made again."
            )
        if Path(prefix).name != prefix or not prefix:
            raise ActionError(f"RecordEpisodes: prefix {prefix!r} is not a plain file name.")
        self.folder, self.prefix = Path(folder), prefix
        self.folder.mkdir(parents=True, exist_ok=True)
        self._episode: dict[str, Any] | None = None
        self.paths: list[Path] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Finish the last episode, if any, and begin a new one. An unseeded reset draws a seed, to be repeatable."""
        written = plain(options)
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        observation, info = self.env.reset(seed=seed, options=options)
        self.finish()
        spec: Any = self.env.spec
        self._episode = {
            "format": FORMAT,
            "id": spec.id,
            "kwargs": plain(spec.kwargs),
            "max_episode_steps": spec.max_episode_steps,
            "checkpoint": getattr(self.env.unwrapped, "checkpoint_id", ""),
            "seed": int(seed),
            "options": written,
            "prompt": info.get("prompt", ""),
            "first": digest(observation),
            "steps": [],
        }
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """Step, and write it down; the file is complete when the episode has ended."""
        written = plain(action)
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._episode is not None:
            row = {
                "action": written,
                "reward": float(reward),
                "terminated": bool(terminated),
                "truncated": bool(truncated),
                "terms": plain(info.get("reward_terms", {})),
                "world": {key: plain(info[key]) for key in _DELTAS if key in info},
                "hash": digest(observation, float(reward), terminated, truncated),
            }
            self._episode["steps"].append(row)
            if terminated or truncated:
                self.finish()
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Finish the episode and close the environment."""
        self.finish()
        self.env.close()

    def finish(self) -> None:
        """Complete the file of the running episode; later steps are not recorded until the next reset."""
        episode, self._episode = self._episode, None
        if episode is None:
            return
        taken = [
            path.stem.removeprefix(f"{self.prefix}-") for path in self.folder.glob(f"{self.prefix}-*.json")
        ]
        number = max((int(stem) + 1 for stem in taken if stem.isdigit()), default=0)
        path = self.folder / f"{self.prefix}-{number:04d}.json"
        write_text(path, json.dumps(episode, indent=1, ensure_ascii=False), "episode")
        self.paths.append(path)


def read_episode(path: str | Path) -> dict[str, Any]:
    """A recorded episode.

    Raises:
        ActionError: If the file is not one.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE:
            raise ActionError(f"{path}: larger than {MAX_FILE >> 20} MB; not a recorded episode.")
        episode = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise ActionError(f"{path}: cannot be read ({cause.strerror}).") from cause
    except (UnicodeDecodeError, json.JSONDecodeError) as cause:
        raise ActionError(f"{path}: not JSON ({cause}).") from cause
    if not isinstance(episode, dict) or episode.get("format") != FORMAT:
        raise ActionError(f"{path}: not a recorded episode of format {FORMAT}.")
    keys = (
        "format",
        "id",
        "kwargs",
        "max_episode_steps",
        "checkpoint",
        "seed",
        "options",
        "prompt",
        "first",
        "steps",
    )
    check_keys(episode, required=keys, what=str(path))
    return episode


def first_difference(episode: Mapping[str, Any], env: gym.Env | None = None) -> int | None:
    """Play an episode again; the first step whose hash differs (0 is the reset), None if all agree.

    Args:
        episode: Of `read_episode`.
        env: Where to play it; None makes the environment that it names.

    Raises:
        ActionError: If it names an environment that is not ours, or its actions are none.
    """
    own = env is None
    env = _remake(episode) if env is None else env
    try:
        observation, _ = env.reset(seed=episode["seed"], options=episode["options"])
        if digest(observation) != episode["first"]:
            return 0
        for number, row in enumerate(episode["steps"], 1):
            observation, reward, terminated, truncated, _ = env.step(_action(row["action"]))
            if digest(observation, float(reward), terminated, truncated) != row["hash"]:
                return number
        return None
    finally:
        if own:
            env.close()


def _remake(episode: Mapping[str, Any]) -> gym.Env:
    if not str(episode["id"]).startswith("Spatia"):
        raise ActionError(f"replay: {episode['id']!r} is none of this package's ids.")
    kwargs: dict[str, Any] = {k: tuple(v) if k == "size" else v for k, v in episode["kwargs"].items()}
    limit = episode["max_episode_steps"]
    return gym.make(f"spatia_env:{episode['id']}", max_episode_steps=-1 if limit is None else limit, **kwargs)


def _action(written: Any) -> Any:
    if isinstance(written, Mapping):
        return {key: np.array(v, np.float32) if isinstance(v, list) else v for key, v in written.items()}
    array = np.array(written)
    return array if array.dtype.kind == "i" else array.astype(np.float32)
