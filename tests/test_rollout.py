import json

import numpy as np
import pytest
from PIL import Image

from contract_env import ContractEnv, T
from spatia_env import cli
from spatia_env.errors import CaseError
from spatia_env.geometry import invert_se3
from spatia_env.io.images import fit_image
from spatia_env.io.video import read_video
from spatia_env.release import rollout
from spatia_env.release.case import read_case, write_poses
from spatia_env.release.rollout import RolloutConfig, clips_of, run_rollout
from test_cases import write_case
from twists import path_of_twist


@pytest.fixture
def made(monkeypatch):
    """The contract environment in place of the real one, and what it was made with."""
    found = {}

    def make(name, **kwargs):
        found["env"] = ContractEnv(action="path")
        found["call"] = (name, kwargs)
        return found["env"]

    monkeypatch.setattr(rollout.gym, "make", make)
    return found


@pytest.mark.parametrize(("num_poses", "num_clips"), [(2, 1), (4, 1), (5, 2), (7, 2), (8, 3)])
def test_clips_chain_to_the_path(num_poses, num_clips):
    path = np.concatenate([np.eye(4)[None], path_of_twist(np.array([1, 0, 2, 0.1, 1, 0]), num_poses - 1)])
    clips = clips_of(path, 3)
    assert len(clips) == num_clips and all(clip.shape == (3, 4, 4) for clip in clips)
    pose, seen = np.eye(4), [np.eye(4)[None]]
    for clip in clips:
        seen.append(pose @ clip)
        pose = seen[-1][-1]
    seen = np.concatenate(seen)
    np.testing.assert_allclose(seen[:num_poses], path, atol=1e-9)
    np.testing.assert_allclose(seen[num_poses:], np.repeat(path[-1:], len(seen) - num_poses, 0), atol=1e-9)


def test_rollout_follows_the_case(tmp_path, made):
    c2w = write_case(tmp_path / "case", 9)
    summary = run_rollout(RolloutConfig(tmp_path / "case", tmp_path / "out", model="m"))
    name, kwargs = made["call"]
    assert name == "spatia_env:SpatiaPath-v0" and kwargs == {"max_episode_steps": -1, "model": "m"}
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["poses.txt", "rollout.mp4", "summary.json", "world.ply"]
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary["frames"] == 9 and summary["steps"] == 3 and summary["points"] == 7
    # The executed poses are those of the case, padding cut off, wherever the environment's world begins.
    poses = np.array([json.loads(line) for line in (out / "poses.txt").read_text().splitlines()])
    np.testing.assert_allclose(poses, invert_se3(c2w[0]) @ c2w, atol=1e-5)
    assert len(read_video(out / "rollout.mp4")) == 9
    assert made["env"].world.prompts == ["A bright kitchen."] + ["The camera turns to the window."] * 2
    case = read_case(tmp_path / "case")
    assert np.array_equal(made["env"].options["image"], case.image)
    assert made["env"].options["prompt"] == "A bright kitchen."
    np.testing.assert_allclose(made["env"].options["intrinsics"], case.intrinsics)
    assert "mask" not in made["env"].options


def test_max_frames_cuts_the_path(tmp_path, made):
    write_case(tmp_path / "case", 9)
    summary = run_rollout(RolloutConfig(tmp_path / "case", tmp_path / "out", max_frames=1 + T))
    assert summary["frames"] == 1 + T and summary["steps"] == 1


def test_one_camera_is_no_path(tmp_path, made):
    write_case(tmp_path / "case", 9)
    write_poses(tmp_path / "case" / "w2c.txt", np.eye(4)[None])
    with pytest.raises(CaseError, match="no pose to go to"):
        run_rollout(RolloutConfig(tmp_path / "case", tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with pytest.raises(CaseError):
        clips_of(np.eye(4)[None], T)


def test_a_failed_rollout_leaves_no_film(tmp_path, made, monkeypatch):
    write_case(tmp_path / "case", 9)

    def fail(self, action):
        raise KeyboardInterrupt

    monkeypatch.setattr(ContractEnv, "step", fail)
    with pytest.raises(KeyboardInterrupt):
        run_rollout(RolloutConfig(tmp_path / "case", tmp_path / "out"))
    assert not list((tmp_path / "out").glob("*")) and not list((tmp_path / "out").glob(".*"))


def test_rollout_for_real(tmp_path, capsys):
    c2w = write_case(tmp_path / "case", 11)
    mask = np.zeros((60, 96), np.uint8)
    mask[:, :30] = 255
    Image.fromarray(mask).save(tmp_path / "case" / "mask.png")
    arguments = ["--case", str(tmp_path / "case"), "--out", str(tmp_path / "out"), "--size", "64", "96"]
    assert cli.main(["rollout", *arguments]) == 0
    assert "11 frames in 2 clips" in capsys.readouterr().out
    poses = [json.loads(line) for line in (tmp_path / "out" / "poses.txt").read_text().splitlines()]
    np.testing.assert_allclose(poses, invert_se3(c2w[0]) @ c2w, atol=1e-4)
    film = read_video(tmp_path / "out" / "rollout.mp4")
    assert film.shape == (11, 64, 96, 3)
    # The film begins with the picture of the case.
    first, _ = fit_image(read_case(tmp_path / "case").image, 64, 96)
    assert np.abs(film[0].astype(int) - first).mean() < 12
    assert (tmp_path / "out" / "world.ply").read_bytes().startswith(b"ply")
