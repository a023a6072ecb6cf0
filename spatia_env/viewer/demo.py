"""`spatia demo`: open a scene, look around, walk, send two events, walk back to where it began.

It uses the environment as any user would, and writes what it saw: a film, a contact sheet, the point cloud
and the figures.
"""

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import tyro
from tqdm import tqdm

from spatia_env.io.images import contact_sheet, depth_to_rgb, mask_to_rgb, psnr, write_sheet
from spatia_env.io.video import write_video


@dataclass(frozen=True)
class DemoConfig:
    """Walk through a generated world and back.

    Writes walk.mp4, contact_sheet.png, world.ply and summary.json.
    """

    out: Path = Path("out/demo")
    """Folder to write to."""
    scene: str = "10038"
    """Scene to open: a seed or a name."""
    events: tuple[str, ...] = ("a red ball rolls in", "night falls", "day breaks")
    """What happens on the way, one a clip."""
    seed: int = 0
    """Seed of the environment."""
    model: str | None = None
    """Checkpoint: a name or a folder; the embedded one by default."""
    size: tuple[int, int] | None = None
    """Height and width of the frames, pixels; the environment's own by default."""
    fps: float = 8.0
    """Frames a second of the film."""
    scale: int = 3
    """Factor by which the film enlarges the frames."""


@dataclass(frozen=True)
class Move:
    """One step of the walk: a caption, a camera action and an event."""

    caption: str
    camera: tuple[float, ...] = (0, 0, 0, 0, 0, 0)
    event: str = ""


def plan(events: tuple[str, ...]) -> list[Move]:
    """The steps of the demo. Each way out is undone by its opposite, so the last pose is the first."""
    look = [
        Move("look left", (0, 0, 0, 0, -0.8, 0)),
        Move("look back", (0, 0, 0, 0, 0.8, 0)),
        Move("look right", (0, 0, 0, 0, 0.8, 0)),
        Move("look back", (0, 0, 0, 0, -0.8, 0)),
    ]
    out = [Move("walk ahead", (0, 0, 0.9, 0, 0, 0)), Move("step right", (0.7, 0, 0, 0, -0.5, 0))]
    happen = [Move(event, event=event) for event in events]
    back = [
        Move("back: " + move.caption, tuple(0.0 if x == 0 else -x for x in move.camera)) for move in out[::-1]
    ]
    return look + out + happen + back


@dataclass(frozen=True)
class Clip:
    """What a step showed: its observation, `scene_render` (what memory rendered for it), and how long it took."""

    caption: str
    observation: dict[str, np.ndarray]
    scene_render: np.ndarray
    seconds: float


def run_demo(config: DemoConfig) -> dict[str, Any]:
    """Walk, write the files, and return the summary that is also in summary.json."""
    scene = int(config.scene) if config.scene.isdigit() else config.scene
    given = {"model": config.model, "size": config.size}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    env: Any = gym.make("spatia_env:Spatia-v0", debug=True, **options)
    config.out.mkdir(parents=True, exist_ok=True)
    try:
        first, _ = env.reset(seed=config.seed, options={"scene": scene})
        clips = walk(env, plan(config.events))
        summary = _summarise(config, env, first, clips)
        env.unwrapped.world.export(config.out / "world.ply")
    finally:
        env.close()
    film = np.concatenate([first["frames"][-1:], *(clip.observation["frames"] for clip in clips)])
    write_video(config.out / "walk.mp4", film, config.fps, config.scale)
    poses, events = [clip.observation["pose"] for clip in clips], [move.event for move in plan(config.events)]
    truth = simulate(scene, poses, events, film.shape[1:3])
    write_sheet(config.out / "contact_sheet.png", _sheet(first, clips, truth))
    text = json.dumps(summary, indent=2, ensure_ascii=False) + "\n"
    (config.out / "summary.json").write_text(text, encoding="utf-8")
    return summary


def walk(env: gym.Env, moves: list[Move]) -> list[Clip]:
    """Take the steps of a plan."""
    clips = []
    with tqdm(moves, desc="walk", unit="clip") as progress:
        for move in progress:
            progress.set_postfix_str(move.caption)
            began = time.perf_counter()
            action = {"camera": np.array(move.camera, dtype=np.float32), "event": move.event}
            observation, _, _, _, info = env.step(action)
            seconds = time.perf_counter() - began
            clips.append(Clip(move.caption, observation, info["debug"]["scene_render"], seconds))
    return clips


def _summarise(
    config: DemoConfig, env: Any, first: dict[str, np.ndarray], clips: list[Clip]
) -> dict[str, Any]:
    last = clips[-1].observation["frames"]
    return {
        "scene": config.scene,
        "seed": config.seed,
        "checkpoint": env.unwrapped.checkpoint_id,
        "steps": len(clips),
        "frames_per_step": len(last),
        "seconds_per_step": round(statistics.median(clip.seconds for clip in clips), 3),
        "points": int(env.unwrapped.world.memory.num_points),
        "revisit_psnr": round(psnr(last[-1], first["frames"][-1]), 2),
        "events": list(config.events),
        "known_share": [round(float((clip.observation["known"] > 0).mean()), 3) for clip in clips],
    }


def simulate(
    scene: int | str, poses: list[np.ndarray], events: list[str], size: tuple[int, int]
) -> list[np.ndarray]:
    """What the simulator shows along the same path with the same events: clips of frames, u8 [T, H, W, 3].

    It is drawn beside the generated frames for whoever looks at the sheet; the environment never sees it.
    """
    from spatia_env.sim.scenes import SimScene

    rng = np.random.default_rng(0)
    clips = []
    with SimScene(scene) if isinstance(scene, int) else SimScene.from_name(scene) as simulated:
        for path, event in zip(poses, events, strict=True):
            if event:
                simulated.start_event(event, path[0], rng)
            frames = []
            for c2w in path:
                simulated.advance()
                frames.append(simulated.render(c2w, *size).rgb)
            clips.append(np.stack(frames))
    return clips


def _sheet(first: dict[str, np.ndarray], clips: list[Clip], truth: list[np.ndarray]) -> Any:
    """Rows of the last frame of each clip, the first picture before them."""

    def row(name: str) -> np.ndarray:
        return np.stack([observation[name][-1] for observation in (first, *(c.observation for c in clips))])

    start, depth = first["frames"][-1], row("depth")
    rows = [
        ("generated", row("frames")),
        ("depth", depth_to_rgb(depth, float(np.percentile(depth[1:], 98)) or 1.0)),
        ("known", mask_to_rgb(row("known"))),
        ("memory", np.stack([start, *(clip.scene_render[-1] for clip in clips)])),
        ("simulator", np.stack([start, *(frames[-1] for frames in truth)])),
    ]
    return contact_sheet(rows, ["start", *(clip.caption for clip in clips)])


def main(argv: list[str]) -> int:
    """Run `spatia demo`."""
    config = tyro.cli(DemoConfig, args=argv, prog="spatia demo")
    summary = run_demo(config)
    print(
        f"{summary['steps']} steps of {summary['frames_per_step']} frames, "
        f"{summary['seconds_per_step']:.2f} s a step, {summary['points']} points; "
        f"back at the start: {summary['revisit_psnr']:.1f} dB"
    )
    print(f"wrote {config.out}/walk.mp4, contact_sheet.png, world.ply, summary.json")
    return 0
