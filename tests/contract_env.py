"""A small, fast environment with the observations and actions of Spatia-v0, for tests of what wraps it.

Its world is a colour that depends on the pose: enough to tell frames, poses and episodes apart.
"""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from spatia_env.actions import EventText, PathBox, decode_action
from twists import path_of_twist

T, H, W = 3, 40, 48


@dataclass(frozen=True)
class ContractState:
    prompt: str = ""


class ContractWorld:
    """What demo and rollout read of a world, and what they told it."""

    def __init__(self) -> None:
        self.state = ContractState()
        self.memory = SimpleNamespace(num_points=7)
        self.prompts: list[str] = []

    def export(self, path: Path) -> None:
        Path(path).write_text("ply")


class ContractEnv(gym.Env):
    metadata: ClassVar[dict] = {"render_modes": ["rgb_array_list"], "render_fps": 8}

    def __init__(self, render_mode: str | None = None, action: str = "camera", debug: bool = False) -> None:
        self.render_mode, self.debug = render_mode, debug
        self.checkpoint_id = "contract"
        self.world = ContractWorld()
        self.kind = action
        self.observation_space = spaces.Dict(
            {
                "frames": spaces.Box(0, 255, (T, H, W, 3), np.uint8),
                "depth": spaces.Box(0, 100, (T, H, W), np.float32),
                "pose": spaces.Box(-100, 100, (T, 4, 4), np.float32),
                "known": spaces.Box(0, 255, (T, H, W), np.uint8),
            }
        )
        move = PathBox(T) if action == "path" else spaces.Box(-1, 1, (6,), np.float32)
        self.action_space = spaces.Dict({action: move, "event": EventText()})
        self.events: list[str] = []

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        # A first pose that is not the identity: poses relative to it must be told apart from absolute ones.
        self.c2w = path_of_twist(np.array([3, -2, 1, 0.1, 0.4, 0]), 1)[0]
        self.options = options or {}
        self.offset = int(self.np_random.integers(0, 100))
        self.events = []
        return self._observe(np.repeat(self.c2w[None], T, axis=0)), {}

    def step(self, action: Any) -> tuple[dict, float, bool, bool, dict]:
        motion, event = decode_action(action, self.kind, num_frames=T)
        path = self.c2w @ (motion if self.kind == "path" else path_of_twist(motion, T))
        self.c2w = path[-1]
        self.events.append(event)
        self.world.prompts.append(self.world.state.prompt)
        observation = self._observe(path)
        info = {"debug": {"scene_render": observation["frames"] // 2}} if self.debug else {}
        return observation, float(len(event)), False, False, info

    def render(self) -> list[np.ndarray]:
        return [frame.copy() for frame in self.frames]

    def _observe(self, path: np.ndarray) -> dict[str, np.ndarray]:
        value = (np.abs(path[:, :3, 3]) * 37 + self.offset) % 256
        self.frames = np.tile(value[:, None, None].astype(np.uint8), (1, H, W, 1))
        depth = np.zeros((T, H, W), dtype=np.float32)
        depth[:, 5:] = np.linspace(0.01, 20, W)
        return {
            "frames": self.frames.copy(),
            "depth": depth,
            "pose": path.astype(np.float32),
            "known": np.full((T, H, W), 255, np.uint8),
        }
