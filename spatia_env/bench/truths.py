"""The truth of episodes, made once: suites and rows of a scene share it, and a folder keeps it for later runs."""

import dataclasses
import hashlib
import zipfile
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np

from spatia_env.bench.episodes import Truth, film
from spatia_env.bench.provenance import source_hash
from spatia_env.sim.scenes import SimScene

_SOURCES = ("sim", "falling.py", "bench/episodes.py", "bench/paths.py", "bench/ws_cameras.py", "cameras.py")
"""What decides an episode's truth."""
_ARRAYS = tuple(field.name for field in dataclasses.fields(Truth) if field.name not in ("scene", "prompt"))


class Truths:
    """Truths of the scene that was asked for last; a context manager that closes it.

    Args:
        size: (height, width) in pixels.
        folder: Where truths are kept between runs; None keeps them in memory only.
    """

    def __init__(self, size: tuple[int, int], folder: Path | None = None) -> None:
        self.size, self.folder = size, folder
        self._known: dict[tuple[int, str, int], Truth] = {}
        self._scene: SimScene | None = None
        self._kept: dict[Hashable, Any] = {}
        self._seed: int | None = None

    def __enter__(self) -> "Truths":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the open scene and of what was made in it."""
        if self._scene is not None:
            self._scene.close()
        self._scene = None
        self._known.clear()
        self._kept.clear()

    def scene(self, seed: int) -> SimScene:
        """The scene, open; nobody may let anything happen in it."""
        self._turn_to(seed)
        if self._scene is None:
            self._scene = SimScene(seed)
        return self._scene

    def kept(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What `make` returned for this key when it was first asked for in this scene."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def _turn_to(self, seed: int) -> None:
        if self._seed != seed:
            self.close()
        self._seed = seed

    def get(self, seed: int, kind: str, clips: int) -> Truth:
        """The truth of an episode; raises as `episodes.record` does."""
        self._turn_to(seed)
        key = (seed, kind, clips)
        if key not in self._known:
            self._known[key] = self._read(*key) or self._made(*key)
        return self._known[key]

    def _made(self, seed: int, kind: str, clips: int) -> Truth:
        truth = film(self.scene(seed), kind, self.size, clips)
        if self.folder is not None:
            path = self._path(seed, kind, clips)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npz")
            np.savez_compressed(
                part, prompt=np.array(truth.prompt), **{name: getattr(truth, name) for name in _ARRAYS}
            )
            part.replace(path)
        return truth

    def _read(self, seed: int, kind: str, clips: int) -> Truth | None:
        if self.folder is None:
            return None
        try:
            # A damaged file must not leave its handle to the garbage collector.
            with (
                open(self._path(seed, kind, clips), "rb") as handle,
                np.load(handle, allow_pickle=False) as file,
            ):
                arrays = {name: file[name] for name in _ARRAYS}
                return Truth(scene=seed, prompt=str(file["prompt"]), **arrays)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def _path(self, seed: int, kind: str, clips: int) -> Path:
        assert self.folder is not None
        name = hashlib.sha256(repr((kind, clips, self.size, source_hash(_SOURCES))).encode()).hexdigest()[:16]
        return self.folder / f"{seed}-{name}.npz"
