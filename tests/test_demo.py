import json

import numpy as np
import pytest
from PIL import Image

from contract_env import ContractEnv, H, T, W
from spatia_env import cli
from spatia_env.actions import EventText, decode_camera
from spatia_env.geometry import rigid_problem, se3_exp
from spatia_env.io.video import read_video
from spatia_env.viewer import demo
from spatia_env.viewer.demo import DemoConfig, plan, run_demo, simulate


def test_the_walk_ends_where_it_began_and_goes_somewhere_between():
    pose, farthest, widest = np.eye(4), 0.0, 0.0
    for move in plan(("a", "b")):
        pose = pose @ se3_exp(decode_camera(move.camera))
        farthest = max(farthest, float(np.linalg.norm(pose[:3, 3])))
        widest = max(widest, float(np.degrees(np.arccos(np.clip((np.trace(pose[:3, :3]) - 1) / 2, -1, 1)))))
    np.testing.assert_allclose(pose, np.eye(4), atol=1e-9)
    assert rigid_problem(pose) == "" and farthest > 0.4 and widest > 20


def test_the_walk_sends_the_events_once_each():
    assert [move.event for move in plan(("rain", "fog")) if move.event] == ["rain", "fog"]
    assert all(event in EventText() for event in DemoConfig().events)


def test_demo_writes_its_files(tmp_path, monkeypatch):
    def simulated(scene, poses, events, size):
        assert scene == 5 and size == (H, W) and len(events) == len(poses)
        return [np.zeros((len(path), *size, 3), np.uint8) for path in poses]

    monkeypatch.setattr(demo.gym, "make", lambda name, **kwargs: ContractEnv(**kwargs))
    monkeypatch.setattr(demo, "simulate", simulated)
    summary = run_demo(DemoConfig(out=tmp_path / "out", scene="5", events=("rain", "fog"), scale=2))
    out = tmp_path / "out"
    names = ["contact_sheet.png", "summary.json", "walk.mp4", "world.ply"]
    assert sorted(p.name for p in out.iterdir()) == names
    assert json.loads((out / "summary.json").read_text()) == summary
    steps = len(plan(("rain", "fog")))
    assert summary["steps"] == steps and summary["points"] == 7 and summary["checkpoint"] == "contract"
    # The contract world's colour depends on the pose alone, so the return is perfect.
    assert summary["revisit_psnr"] == 99
    assert read_video(out / "walk.mp4").shape == (1 + steps * T, 2 * H, 2 * W, 3)
    with Image.open(out / "contact_sheet.png") as sheet:
        width, height = sheet.size
    assert height == 22 + 5 * 132 and width > (steps + 1) * 128


def test_the_simulator_is_drawn_along_the_same_path():
    pytest.importorskip("pybullet")
    from spatia_env.sim.scenes import SimScene

    with SimScene(3) as scene:
        start = np.array(scene.initial_c2w)
        expected = scene.render(start, 48, 64).rgb
    clips = simulate(3, [np.stack([start] * 2), np.stack([start] * 3)], ["", ""], (48, 64))
    assert [clip.shape for clip in clips] == [(2, 48, 64, 3), (3, 48, 64, 3)]
    assert all(np.array_equal(frame, expected) for clip in clips for frame in clip)


@pytest.mark.slow
def test_demo_for_real(tmp_path):
    assert cli.main(["demo", "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["steps"] == len(plan(DemoConfig().events)) and summary["points"] > 1000
    assert summary["checkpoint"].startswith("spatia-tiny")
    assert (tmp_path / "world.ply").read_bytes().startswith(b"ply")
    assert read_video(tmp_path / "walk.mp4").shape[0] == 1 + 8 * summary["steps"]
