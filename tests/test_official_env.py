"""A folder of official weights in miniature, written by `spatia convert`, behind gym.make and the command line."""

import ast
import re
import shlex
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import tyro
from PIL import Image

import official_models as tiny
from spatia_env import cli
from spatia_env.errors import ActionError, CheckpointError, DependencyError
from spatia_env.models.loading import load_checkpoint
from spatia_env.models.wan.convert import ConvertConfig
from spatia_env.models.wan.cost_bench import CostConfig
from spatia_env.models.wan.options import LEVERS, read_options
from spatia_env.models.wan.pipeline import SpatiaWanPipeline, official_id
from spatia_env.release.pipeline import ReleaseConfig
from spatia_env.slam.mapanything import MapAnythingGeometry
from spatia_env.train.cli import parse
from test_release import Wall, case  # noqa: F401 - a fixture

pytest.importorskip("peft")
pytest.importorskip("transformers")
pytest.importorskip("ftfy")

ROOT = Path(__file__).parent.parent
HEIGHT, WIDTH = 32, 64
FAST = {"device": "cpu", "dtype": "float32", "num_inference_steps": 1, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The released files in miniature, through the converter."""
    return tiny.converted(tmp_path_factory.mktemp("official"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture():
    return np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["Spatia-v0", "SpatiaPath-v0"])
def test_official_spaces_and_size_are_the_default(folder, name):
    env = gym.make(f"spatia_env:{name}", model=str(folder), model_options=FAST)
    assert env.observation_space["frames"].shape == (72, 704, 1248, 3)
    if name == "SpatiaPath-v0":
        assert env.action_space["path"].shape == (72, 4, 4)
    env.close()


def test_a_step_makes_72_frames_from_the_picture_and_then_from_nine(folder, monkeypatch):
    env = gym.make("spatia_env:Spatia-v0", model=str(folder), size=(HEIGHT, WIDTH), model_options=FAST)
    inner = env.unwrapped
    assert isinstance(inner.clip_source.generator, SpatiaWanPipeline) and inner.checkpoint_id == official_id(
        folder
    )
    observation, _ = env.reset(seed=0, options={"image": picture(), "prompt": "a room"})
    assert observation in env.observation_space and len(observation["frames"]) == 72
    seen, generate = [], inner.clip_source.generator.generate

    def spy(prompt, render, unknown, **given):
        clip = generate(prompt, render, unknown, **given)
        references = given["reference_frames"]
        count = None if references is None else references.shape[2]
        seen.append(
            (
                given["given_frames"].shape[2],
                count,
                clip.frames.shape[2],
                inner.clip_source.generator.adapters.active,
            )
        )
        return clip

    monkeypatch.setattr(inner.clip_source.generator, "generate", spy)
    frames = []
    for event in ("a ball rolls", ""):
        action = {"camera": np.array([0, 0, 0.3, 0, 0.2, 0], np.float32), "event": event}
        observation, *_, info = env.step(action)
        assert observation in env.observation_space and observation["frames"].shape == (72, HEIGHT, WIDTH, 3)
        frames.append(observation["frames"])
    # 1 + 72 without references and LoRA, then 9 + 72 with both.
    assert seen == [(1, None, 73, ()), (9, 7, 81, ("autoregressive",))]
    assert info["memory"]["points"] > 0 and not np.array_equal(*frames)
    env.close()


def test_the_same_options_load_one_pipeline(folder):
    first = load_checkpoint(folder, FAST)
    assert load_checkpoint(str(folder), dict(FAST)).pipeline is first.pipeline
    assert first.options.levers.dtype == "float32" and first.options.settings.num_inference_steps == 1
    assert (first.geometry / "geometry.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ofload": "stages"}, "did you mean 'offload'"),
        ({"offload": "disk"}, "offload='disk'"),
        ({"dtype": "int3"}, "dtype='int3'"),
        ({"num_inference_steps": 51}, "num_inference_steps"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"first_block_cache": 2}, "first_block_cache"),
        ({"device": "moon"}, "device 'moon'"),
        ({"moving": ["person"]}, "mapanything"),
        ({"moving": ["person"], "mapanything": "x"}, "detector and a segmenter"),
    ],
)
def test_options_that_cannot_be_are_named(folder, options, words):
    with pytest.raises(ActionError, match=words):
        gym.make("spatia_env:Spatia-v0", model=str(folder), model_options={"device": "cpu", **options})


def test_the_tiny_size_takes_no_options():
    with pytest.raises(ActionError, match="takes none"):
        load_checkpoint("spatia-tiny", {"offload": "stages"})
    assert read_options({"few_step_sigmas": [1.0, 0.5]}).levers.few_step_sigmas == (1.0, 0.5)


def test_geometry_by_mapanything_when_asked(folder, tmp_path):
    with pytest.raises((DependencyError, CheckpointError), match=r"git\+https|model\.safetensors"):
        gym.make(
            "spatia_env:Spatia-v0", model=str(folder), model_options={**FAST, "mapanything": str(tmp_path)}
        )


@pytest.mark.parametrize("change", ["cut", "code", "class", "gone"])
def test_damaged_folders_are_refused(folder, tmp_path, change):
    import json
    import shutil

    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    if change == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif change == "code":
        (copy / "pipeline.py").write_text("")
    elif change == "class":
        index = json.loads((copy / "model_index.json").read_text())
        (copy / "model_index.json").write_text(json.dumps({**index, "vae": ["diffusers", "AutoencoderTiny"]}))
    else:
        weights.unlink()
    with pytest.raises(CheckpointError):
        gym.make("spatia_env:Spatia-v0", model=str(copy), model_options=FAST)


# -- spatia rollout --------------------------------------------------------------------------------------------------

SMALL = [
    "--width",
    str(WIDTH),
    "--height",
    str(HEIGHT),
    "--num-inference-steps",
    "1",
    "--guidance-scale",
    "1",
]


def test_rollout_follows_the_release_for_official_weights(folder, case, tmp_path, monkeypatch, capsys):  # noqa: F811
    """MapAnything is the one part that has no package here: a wall stands in for what it would see."""
    monkeypatch.setattr(MapAnythingGeometry, "from_pretrained", classmethod(lambda cls, *a: Wall()))
    arguments = [
        "--case",
        str(case),
        f"--model={folder}",
        "--out",
        str(tmp_path / "out"),
        "--dtype",
        "float32",
    ]
    assert cli.main(["rollout", *arguments, *SMALL, "--device", "cpu"]) == 0
    # 16 cameras fit into the first round, whose padding to 121 frames is cut off.
    assert "16 frames in 1 rounds" in capsys.readouterr().out
    assert (tmp_path / "out" / "video.mp4").stat().st_size > 0


def test_rollout_names_what_is_missing(folder, case, tmp_path, capsys):  # noqa: F811
    arguments = [
        "rollout",
        "--case",
        str(case),
        "--model",
        str(folder),
        "--out",
        str(tmp_path / "out"),
        *SMALL,
    ]
    assert cli.main([*arguments, "--mapanything", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and ("git+https" in said or "model.safetensors" in said)
    assert cli.main([*arguments, "--height", "90"]) == 2
    assert "multiples of 32" in capsys.readouterr().err


# -- what the documentation says to type -----------------------------------------------------------------------------

PAGE = ROOT / "docs" / "official.md"
MODELS = ("weights/spatia-wan", "weights/spatia-own", "weights/spatia-tuned")


def commands():
    """Shell lines of the page's bash blocks, joined where they go on, without comments."""
    for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def test_documented_commands_have_these_options():
    parsers = {"convert": ConvertConfig, "rollout": ReleaseConfig, "cost": CostConfig}
    checked = set()
    for command, *arguments in commands():
        if command == "spatia" and arguments[0] == "doctor":
            assert arguments == ["doctor"] and "doctor" in cli.COMMANDS
            checked.add("doctor")
        elif command == "spatia" and arguments[0] == "train":
            parse(arguments[1:])
            checked.add("train")
        elif command == "spatia":
            verb = arguments[0]
            assert verb in cli.COMMANDS
            parsed = tyro.cli(parsers[verb], args=arguments[1:], config=(tyro.conf.OmitArgPrefixes,))
            assert str(getattr(parsed, "model", parsed.out)) in MODELS
            checked.add(verb)
        elif command == "python":
            assert arguments[:2] == ["-m", "tests.parity"] and (ROOT / arguments[2]).is_dir()
        else:
            assert command in ("pip", "hf")
    assert checked == {"doctor", "convert", "rollout", "train"}


def test_documented_python_runs(folder, tmp_path, monkeypatch):
    """The block as it stands, but for the folder, the size and the sampler."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_case").mkdir()
    Image.fromarray(picture()).save("my_case/img.jpg")
    blocks = re.findall(r"```py\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (block,) = (b for b in blocks if "gym.make" in b)
    replaced = {
        '"weights/spatia-wan"': repr(str(folder)),
        ', "mapanything": "weights/mapanything"}': f", **{FAST}}}",
        "model_options=options": f"model_options=options, size=({HEIGHT}, {WIDTH})",
    }
    for old, new in replaced.items():
        assert old in block
        block = block.replace(old, new)
    namespace = {}
    exec(compile(block, PAGE.name, "exec"), namespace)
    assert namespace["observation"]["frames"].shape == (72, HEIGHT, WIDTH, 3)
    namespace["env"].close()


def test_options_of_the_command_line_and_of_python_are_the_same():
    """Every lever of the table is an option of `spatia rollout` and of `model_options`."""
    for lever in LEVERS:
        name, _, value = lever.option.split(" ")[0].partition("=")
        if not value:
            continue
        given = ast.literal_eval(value) if value != "FILE" else Path("lora.safetensors")
        flag = [f"--{name.replace('_', '-')}"] + ([] if given is True else [str(given)])
        base = ["--case", "c", "--model", "m", "--out", "o", *flag]
        parsed = tyro.cli(ReleaseConfig, args=base, config=(tyro.conf.OmitArgPrefixes,))
        options = read_options({name: given})
        found = getattr(options.levers, name, None) or getattr(options.settings, name, None)
        expected = getattr(parsed.levers, name, None) or getattr(parsed, name, None)
        assert (
            (str(found) == str(expected) == str(given)) if value == "FILE" else (found == expected == given)
        )
