"""Episodes as data for others' tools: Minari datasets, and WebDataset shards for training.

Minari keeps observations (frames, depth, pose, known), actions with their events, rewards and ends, and in its infos
what changed in the world. A shard is a tar with one sample a clip: `{episode}-{step}.mp4`, `.depth.npy` (float16,
metres), `.pose.npy`, `.known.npy` and `.json` (prompt, action, event, reward, world).
"""

import io
import json
import os
import tarfile
import tempfile
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs

from spatia_env.errors import ActionError, DependencyError
from spatia_env.io.video import write_video
from spatia_env.recording import plain

DELTAS = {
    "memory": ("points", "bytes", "added", "area"),
    "slam": ("correction_m", "correction_deg", "inlier_ratio"),
}
"""Numbers of `info` that a Minari dataset keeps of every step."""


def collector(env: gym.Env) -> Any:
    """`minari.DataCollector` around an environment; `save_minari` writes what it collected.

    Raises:
        DependencyError: Minari is missing.
    """
    try:
        import jax  # noqa: F401 - Minari builds its episodes with it, and says so only at the first reset
        from minari import DataCollector, StepDataCallback
    except ImportError as cause:
        raise DependencyError("recording to Minari needs it: pip install 'spatia-env[data]'.") from cause

    class WorldDeltas(StepDataCallback):
        """Keeps of `info` what is numbers: the world's changes."""

        def __call__(self, env: gym.Env, **step: Any) -> Any:
            kept = super().__call__(env, **step)
            kept["info"] = deltas(step["info"])
            return kept

    return DataCollector(env, step_data_callback=WorldDeltas, record_infos=True)


def check_minari(name: str) -> None:
    """See before anything is played that a dataset can be written under this name.

    Raises:
        ActionError: If there is one already, or the name is none.
        DependencyError: Minari is missing.
    """
    try:
        from minari.dataset.minari_dataset import parse_dataset_id
        from minari.storage.datasets_root_dir import get_dataset_path
    except ImportError as cause:
        raise DependencyError("recording to Minari needs it: pip install 'spatia-env[data]'.") from cause
    try:
        parse_dataset_id(name)
    except ValueError as cause:
        raise ActionError(
            f"minari: {name!r} names no dataset; give a name and a version, such as 'spatia/walk-v0'."
        ) from cause
    if get_dataset_path(name).exists():
        raise ActionError(
            f"minari: there is a dataset {name!r} already; give another name, or remove it with `minari delete`."
        )


def deltas(info: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What changed in the world, as numbers."""
    return {
        group: {name: float(info.get(group, {}).get(name, 0.0)) for name in names}
        for group, names in DELTAS.items()
    }


def save_minari(collected: Any, name: str, **about: Any) -> Any:
    """Write a collector's episodes as the dataset `name`, such as "spatia/walk-v0", and return it.

    Raises:
        ActionError: If there is a dataset of this name, or the name is none.
    """
    try:
        with warnings.catch_warnings():
            # Minari warns of every part of `about` that is left out.
            warnings.simplefilter("ignore", UserWarning)
            return collected.create_dataset(dataset_id=name, **about)
    except ValueError as cause:
        raise ActionError(
            f"minari: {name!r} cannot be written ({cause}); give another name such as 'spatia/walk-v1', or remove it "
            "with `minari delete`."
        ) from cause


class RecordShards(gym.Wrapper, RecordConstructorArgs):
    """Write every clip into WebDataset shards.

    Args:
        env: With the full observation of `Spatia-v0`.
        folder: A new or empty folder.
        per_shard: Clips a tar.
        fps: Frames a second of the films.

    Raises:
        ActionError: If the folder holds something, or the observation has no clips.
    """

    def __init__(self, env: gym.Env, folder: str | Path, per_shard: int = 256, fps: float = 8) -> None:
        RecordConstructorArgs.__init__(self, folder=str(folder), per_shard=per_shard, fps=fps)
        gym.Wrapper.__init__(self, env)
        space = env.observation_space
        if not (isinstance(space, gym.spaces.Dict) and "frames" in space.spaces):
            raise ActionError(
                "RecordShards: needs the observation Dict(frames, depth, pose, known) of Spatia-v0."
            )
        if per_shard < 1:
            raise ActionError(f"RecordShards: per_shard={per_shard}; use at least 1.")
        self.folder, self.per_shard, self.fps = Path(folder), per_shard, fps
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise ActionError(f"{self.folder}: holds something already; give a new folder, or empty it.")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._tar: tarfile.TarFile | None = None
        self._clips, self._episode, self._step, self._prompt = 0, -1, 0, ""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._episode, self._step, self._prompt = self._episode + 1, 0, info.get("prompt", "")
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """Step, and write the clip."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._write(observation, {
            "prompt": self._prompt, "action": plain(action), "reward": float(reward),
            "terminated": bool(terminated), "truncated": bool(truncated),
            "events": plain(info.get("events", [])), "world": deltas(info),
        })  # fmt: skip
        self._step += 1
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Complete the last shard and close the environment."""
        self._finish()
        self.env.close()

    def _write(self, observation: dict[str, np.ndarray], about: dict[str, Any]) -> None:
        if self._tar is None or self._clips % self.per_shard == 0:
            self._finish()
            self._part = self.folder / f".{os.getpid()}.part.tar"
            self._tar = tarfile.open(self._part, "w")  # noqa: SIM115 - closed by _finish
        key = f"{self._episode:06d}-{self._step:04d}"
        with tempfile.TemporaryDirectory() as folder:
            film = write_video(Path(folder) / "clip.mp4", observation["frames"], self.fps).read_bytes()
        parts = {
            "mp4": film,
            "depth.npy": _npy(observation["depth"].astype(np.float16)),
            "pose.npy": _npy(observation["pose"]),
            "known.npy": _npy(observation["known"] > 0),
            "json": json.dumps(about, ensure_ascii=False).encode(),
        }
        for suffix, data in parts.items():
            entry = tarfile.TarInfo(f"{key}.{suffix}")
            entry.size = len(data)
            self._tar.addfile(entry, io.BytesIO(data))
        self._clips += 1

    def _finish(self) -> None:
        tar, self._tar = self._tar, None
        if tar is not None:
            tar.close()
            number = len(list(self.folder.glob("shard-*.tar")))
            os.replace(self._part, self.folder / f"shard-{number:06d}.tar")


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
