"""Recorded episodes: `spatia record` plays and writes them, `spatia replay` plays them again and compares.

An episode is `{prefix}-{number}.json`: how the environment was made, the reset, and per step the action, the reward,
the flags, what changed in the world, and the SHA-256 of the observation, reward and flags. It grows step by step and
is a whole JSON document after each, so a crash loses nothing. Beside it go

- films and arrays (`wrappers.RecordClips`),
- a Minari dataset (`collector`, `save_minari`): observations, actions, rewards, ends, and in its infos `deltas`,
- WebDataset shards (`RecordShards`): a tar with one sample a clip, `{episode}-{step}.mp4`, `.depth.npy` (float16,
  metres), `.pose.npy`, `.known.npy` and `.json` (prompt, action, events, reward, world).
"""

import base64
import contextlib
import hashlib
import io
import json
import os
import struct
import tarfile
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from tqdm import tqdm

from spatia_env.actions import PRESETS, decode_camera, preset
from spatia_env.errors import ActionError, DependencyError, SpatiaError
from spatia_env.geometry import se3_exp
from spatia_env.io.validation import check_keys, near_miss
from spatia_env.io.video import write_video
from spatia_env.world.reset import check_seed
from spatia_env.wrappers import RecordClips, next_number

FORMAT = "spatia-episode/1"
MAX_FILE = 256 << 20
"""Bytes of an episode that `read_episode` takes."""
DIFFERS = 3
"""Exit code of `spatia replay` if an episode did not repeat; 2 is a bad argument or file, 1 an error in the program."""
DELTAS = {
    "memory": ("points", "bytes", "added", "area"),
    "slam": ("correction_m", "correction_deg", "inlier_ratio"),
}
"""Numbers of `info` that datasets keep of every step."""

_ARRAY = "__npy__"
_HEAD = {
    "format": (str,),
    "id": (str,),
    "kwargs": (dict,),
    "max_episode_steps": (int, NoneType),
    "checkpoint": (str,),
    "seed": (int,),
    "options": (dict, NoneType),
    "prompt": (str,),
    "first": (str,),
    "steps": (list,),
}
_STEP = {
    "action": (dict, list),
    "reward": (float, int),
    "terminated": (bool,),
    "truncated": (bool,),
    "terms": (dict,),
    "world": (dict,),
    "hash": (str,),
}


# ------------------------------------------------------------------------------------------------ writing


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
    """What JSON can hold: paths as text, numbers as Python's own, arrays as .npy bytes in base64 (see `_restored`).

    Raises:
        ActionError: If something cannot be written down, such as a `World` or an open picture.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, np.ndarray) and value.dtype != object:
        return {_ARRAY: base64.b64encode(_npy(value)).decode()}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ActionError(f"recording: a {type(value).__name__} cannot be written down; give a path or numbers.")


def plain_action(action: Any) -> Any:
    """A legal action as text, numbers and lists of numbers: the very values that the environment reads in float64."""
    if isinstance(action, Mapping):
        return {str(key): plain_action(value) for key, value in action.items()}
    if isinstance(action, str):
        return str(action)
    array = np.asarray(action)
    return array.tolist() if array.dtype.kind != "f" else array.astype(np.float64).tolist()


def deltas(info: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What changed in the world, as numbers."""
    return {
        group: {name: float(info.get(group, {}).get(name, 0.0)) for name in names}
        for group, names in DELTAS.items()
    }


class RecordEpisodes(gym.Wrapper, RecordConstructorArgs):
    """Write every episode as JSON, to be played again by `spatia replay`.

    Args:
        env: An environment made by `gym.make`.
        folder: Where to write; it is made. Episodes are numbered on from what it holds.
        prefix: Beginning of the file names.

    Raises:
        ActionError: The environment was not made by `gym.make`, or the prefix is no plain file name.
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
        self.paths: list[Path] = []
        self._episode: _EpisodeFile | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Finish the last episode, if any, and begin a new one. An unseeded reset draws a seed, to be repeatable."""
        written = plain(options)
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        observation, info = self.env.reset(seed=seed, options=options)
        self.finish()
        spec: Any = self.env.spec
        head = {
            "format": FORMAT,
            "id": spec.id,
            "kwargs": plain(spec.kwargs),
            "max_episode_steps": spec.max_episode_steps,
            "checkpoint": getattr(self.env.unwrapped, "checkpoint_id", ""),
            "seed": int(seed),
            "options": written,
            "prompt": info.get("prompt", ""),
            "first": digest(observation),
        }
        self._episode = _EpisodeFile(self.folder, self.prefix, head)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict]:
        """Step, and write it down."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._episode is not None:
            self._episode.append(
                {
                    "action": plain_action(action),
                    "reward": float(reward),
                    "terminated": bool(terminated),
                    "truncated": bool(truncated),
                    "terms": plain(info.get("reward_terms", {})),
                    "world": {key: plain(info[key]) for key in ("memory", "slam", "events") if key in info},
                    "hash": digest(observation, float(reward), terminated, truncated),
                }
            )
            if terminated or truncated:
                self.finish()
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Finish the episode and close the environment."""
        self.finish()
        self.env.close()

    def finish(self) -> None:
        """End the running episode; later steps are not recorded until the next reset."""
        episode, self._episode = self._episode, None
        if episode is not None:
            self.paths.append(episode.path)


class _EpisodeFile:
    """A JSON document that ends with a list of steps, and can be read after every step that is appended."""

    def __init__(self, folder: Path, prefix: str, head: dict[str, Any]) -> None:
        self.path = folder / f"{prefix}-{next_number(folder, prefix):04d}.json"
        self.path.open("x").close()
        self._end, self._separator = 0, ""
        self._write(json.dumps(head, ensure_ascii=False)[:-1] + ', "steps": [\n')

    def append(self, step: dict[str, Any]) -> None:
        """Write a step over the end of the document, and the end again."""
        self._write(self._separator + json.dumps(step, ensure_ascii=False))
        self._separator = ",\n"

    def _write(self, text: str) -> None:
        data = text.encode()
        with self.path.open("r+b") as file:
            file.seek(self._end)
            file.write(data + b"\n]}\n")
        self._end += len(data)


# ------------------------------------------------------------------------------------------------ replay


def read_episode(path: str | Path) -> dict[str, Any]:
    """A recorded episode.

    Raises:
        ActionError: If the file is not one.
    """
    path = Path(path)
    try:
        if not path.is_file():  # a pipe or a device would be read for ever
            raise ActionError(f"{path}: cannot be read (not a file).")
        if path.stat().st_size > MAX_FILE:
            raise ActionError(f"{path}: larger than {MAX_FILE >> 20} MB; not a recorded episode.")
        episode = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise ActionError(f"{path}: cannot be read ({cause.strerror}).") from cause
    except (ValueError, RecursionError) as cause:
        raise ActionError(f"{path}: not JSON ({cause}).") from cause
    if not isinstance(episode, dict) or episode.get("format") != FORMAT:
        raise ActionError(f"{path}: not a recorded episode of format {FORMAT}.")
    _check_types(episode, _HEAD, str(path))
    for number, row in enumerate(episode["steps"], 1):
        _check_types(row, _STEP, f"{path}: step {number}")
    return episode


def _check_types(found: Any, types: dict[str, tuple[type, ...]], what: str) -> None:
    if not isinstance(found, dict):
        raise ActionError(f"{what}: is a {type(found).__name__}, not an object.")
    check_keys(found, required=tuple(types), what=what)
    for key, allowed in types.items():
        if type(found[key]) not in allowed:
            raise ActionError(
                f"{what}: {key!r} is a {type(found[key]).__name__}, not a {allowed[0].__name__}."
            )


def first_difference(episode: Mapping[str, Any], env: gym.Env | None = None) -> int | None:
    """Play an episode again; the first step whose hash differs (0 is the reset), None if all agree.

    Args:
        episode: Of `read_episode`.
        env: Where to play it; None makes the environment that it names.

    Raises:
        ActionError: If it names an environment that is not ours or cannot be made.
        SpatiaError: As the environment refuses its options or actions.
    """
    with contextlib.ExitStack() as stack:
        if env is None:
            env = _remake(episode)
            stack.callback(env.close)
        observation, _ = env.reset(seed=episode["seed"], options=_restored(episode["options"]))
        if digest(observation) != episode["first"]:
            return 0
        for number, row in enumerate(episode["steps"], 1):
            observation, reward, terminated, truncated, _ = env.step(row["action"])
            if digest(observation, float(reward), terminated, truncated) != row["hash"]:
                return number
        return None


def _remake(episode: Mapping[str, Any]) -> gym.Env:
    name, limit = _own_id(episode["id"], "replay"), episode["max_episode_steps"]
    kwargs = _restored(episode["kwargs"])
    try:
        kwargs |= {"size": tuple(kwargs["size"])} if kwargs.get("size") is not None else {}
        return gym.make(name, max_episode_steps=-1 if limit is None else limit, **kwargs)
    except SpatiaError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, AssertionError, gym.error.Error) as cause:
        raise ActionError(f"replay: {name} cannot be made with {kwargs!r:.200} ({cause}).") from cause


def _own_id(name: str, who: str) -> str:
    import spatia_env  # noqa: F401 - registers the ids

    ours = [known for known in gym.registry if known.startswith("Spatia")]
    if name not in ours:
        raise ActionError(f"{who}: {name!r:.60} is none of this package's ids{near_miss(name, ours)}")
    return name


def _restored(value: Any) -> Any:
    """The value of `plain`."""
    if isinstance(value, dict) and set(value) == {_ARRAY}:
        try:
            return np.load(io.BytesIO(base64.b64decode(value[_ARRAY])), allow_pickle=False)
        except (ValueError, TypeError, EOFError, OSError) as cause:
            raise ActionError(f"replay: a damaged array in the file ({cause}).") from cause
    if isinstance(value, dict):
        return {key: _restored(inner) for key, inner in value.items()}
    return [_restored(inner) for inner in value] if isinstance(value, list) else value


# ------------------------------------------------------------------------------------------------ datasets


def collector(env: gym.Env) -> Any:
    """`minari.DataCollector` around an environment, lossless; `save_minari` writes what it collected.

    Raises:
        DependencyError: Minari is missing.
    """
    minari = _import_minari()

    class WorldDeltas(minari.StepDataCallback):  # type: ignore[name-defined]
        """Keeps of `info` what is numbers: the world's changes."""

        def __call__(self, env: gym.Env, **step: Any) -> Any:
            kept = super().__call__(env, **step)
            kept["info"] = deltas(step["info"])
            return kept

    # As JPEG, which is Minari's default, pictures would lose, and depth of one channel cannot be written.
    return minari.DataCollector(env, step_data_callback=WorldDeltas, record_infos=True, jpeg_encoding=False)


def check_minari(name: str) -> None:
    """See before anything is played that a dataset can be written under this name.

    Raises:
        ActionError: If there is one already, or the name is none.
        DependencyError: Minari is missing.
    """
    _import_minari()
    from minari.dataset.minari_dataset import parse_dataset_id
    from minari.storage.datasets_root_dir import get_dataset_path

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


def save_minari(collected: Any, name: str, **about: Any) -> Any:
    """Write a collector's episodes as the dataset `name`, such as "spatia/walk-v0", and return it.

    Raises:
        ActionError: If there is a dataset of this name, or the name is none.
    """
    check_minari(name)
    with warnings.catch_warnings():
        # Minari warns of every part of `about` that is left out.
        warnings.simplefilter("ignore", UserWarning)
        return collected.create_dataset(dataset_id=name, **about)


def _import_minari() -> Any:
    try:
        import jax  # noqa: F401 - Minari builds its episodes with it, and says so only at the first reset
        import minari
    except ImportError as cause:
        raise DependencyError("recording to Minari needs it: pip install 'spatia-env[data]'.") from cause
    return minari


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
        if not (isinstance(space, spaces.Dict) and "frames" in space.spaces):
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
            "prompt": self._prompt, "action": plain_action(action), "reward": float(reward),
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


# ------------------------------------------------------------------------------------------------ commands


@dataclass(frozen=True)
class RecordConfig:
    """Play episodes and write them down: a film and a JSON each, and on request Minari or WebDataset."""

    out: Path
    """Folder to write to; episodes are numbered on from what it holds."""
    id: str = "Spatia-v0"
    """Id of the environment."""
    episodes: int = 1
    """How many."""
    steps: int = 8
    """Clips of an episode."""
    path: str = "random"
    """"random", or the name of a camera path such as "look_around"."""
    scene: str | None = None
    """Scene to open, a seed or a name; drawn from the seed by default."""
    task: str | None = None
    """Task; the id's own by default."""
    size: tuple[int, int] = (128, 128)
    """Height and width of the frames, pixels."""
    model: str = "spatia-tiny"
    """Checkpoint."""
    seed: int = 0
    """Of the first episode; the next has the next."""
    arrays: bool = False
    """Also an npz of depth, poses and known."""
    minari: str | None = None
    """Also a Minari dataset of this name, such as spatia/walk-v0."""
    shards: Path | None = None
    """Also WebDataset shards, in this new folder."""


def run_record(config: RecordConfig) -> list[Path]:
    """Play and record; the JSON files. What was played before an error or Ctrl-C is written.

    Raises:
        ActionError, SeedError: Bad arguments, or a dataset that is there already; nothing is played then.
    """
    _check_config(config)
    task: dict[str, Any] = {} if config.task is None else {"task": config.task}
    with contextlib.ExitStack() as stack:
        # The mode is for ids whose observations hold no clips.
        env: Any = gym.make(
            config.id, size=config.size, model=config.model, max_episode_steps=config.steps,
            render_mode="rgb_array_list", **task,
        )  # fmt: skip
        stack.callback(lambda: env.close())  # of the outermost wrapper
        actions = _path_actions(env, config.path)
        collected = None
        if config.minari is not None:
            # The innermost: a dataset names its environment without the recorders around it.
            env = collected = collector(env)
        env = RecordClips(env, config.out, arrays=config.arrays)
        env = recorder = RecordEpisodes(env, config.out)
        if config.shards is not None:
            env = RecordShards(env, config.shards)
        try:
            _play(config, env, actions)
        finally:
            if collected is not None and recorder.paths:
                save_minari(collected, str(config.minari))
    return recorder.paths


def _check_config(config: RecordConfig) -> None:
    _own_id(config.id, "record --id")
    check_seed(config.seed)
    for name in ("episodes", "steps"):
        if getattr(config, name) < 1:
            raise ActionError(f"record --{name}: is {getattr(config, name)}; give at least 1.")
    if config.path != "random" and config.path not in PRESETS:
        raise ActionError(
            f"record --path: unknown {config.path!r}{near_miss(config.path, ('random', *PRESETS))}"
        )
    if config.minari is not None:
        check_minari(config.minari)


def _play(config: RecordConfig, env: gym.Env, actions: list[Any] | None) -> None:
    options = None
    if config.scene is not None:
        options = {"scene": int(config.scene) if config.scene.isdecimal() else config.scene}
    env.action_space.seed(config.seed)
    for episode in tqdm(range(config.episodes), desc="record", unit="episode"):
        env.reset(seed=config.seed + episode, options=options)
        for step in range(config.steps):
            action = env.action_space.sample() if actions is None else actions[min(step, len(actions) - 1)]
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                break


def _path_actions(env: gym.Env, path: str) -> list[Any] | None:
    """A named camera path, and standing still after it, as actions of the environment; None for "random".

    Raises:
        ActionError: Where moves are numbered.
    """
    if path == "random":
        return None
    motions = [*preset(path), np.zeros(6, np.float32)]
    space: Any = env.action_space
    if isinstance(space, spaces.Box):
        return motions
    if not isinstance(space, spaces.Dict):
        raise ActionError("record --path: this id takes moves by number; use --path random or Spatia-v0.")
    if "path" in space.spaces:
        num_frames = space["path"].num_frames  # type: ignore[attr-defined]
        shares = np.arange(1, num_frames + 1)[:, None] / num_frames
        paths = [se3_exp(shares * decode_camera(motion)).astype(np.float32) for motion in motions]
        return [{"path": path, "event": ""} for path in paths]
    return [{"camera": motion, "event": ""} for motion in motions]


def record_main(argv: list[str]) -> int:
    """Run `spatia record`."""
    config = tyro.cli(RecordConfig, args=argv, prog="spatia record")
    for path in run_record(config):
        print(f"wrote {path}")
    return 0


@dataclass(frozen=True)
class ReplayConfig:
    """Play recorded episodes again and compare every step.

    Exit codes: 0 every step repeats, 3 an episode differs, 2 an argument or a file is bad.
    """

    episodes: tyro.conf.Positional[tuple[Path, ...]]
    """JSON files that `spatia record` wrote."""
    verify: bool = True
    """Compare hashes; without, only say what is in the files."""


def run_replay(config: ReplayConfig) -> int:
    """Print a line an episode; the number of episodes that differ.

    Raises:
        ActionError: No files, or one that is no recorded episode.
    """
    if not config.episodes:
        raise ActionError("replay: give the JSON files of recorded episodes.")
    differing = 0
    for path in config.episodes:
        episode = read_episode(path)
        line = f"{path}: {episode['id']}, {len(episode['steps'])} steps, {episode['checkpoint']}"
        if config.verify:
            step = first_difference(episode)
            differing += step is not None
            line += ": every step repeats" if step is None else f": differs from step {step} on"
        print(line)
    return differing


def replay_main(argv: list[str]) -> int:
    """Run `spatia replay`; see `ReplayConfig` for the exit codes."""
    return DIFFERS if run_replay(tyro.cli(ReplayConfig, args=argv, prog="spatia replay")) else 0
