import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from spatia_env import __version__, cli
from spatia_env.errors import ActionError, PromptError


def spatia(*args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "spatia_env.cli", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_help_lists_every_command():
    result = spatia("--help")
    assert result.returncode == 0 and not result.stderr
    for name in cli.COMMANDS:
        assert f"\n  {name}" in result.stdout


def test_help_loads_nothing_heavy():
    code = (
        "import sys; from spatia_env.cli import main; main(['--help']); main(['--version']); "
        "heavy = {'torch', 'open3d', 'pybullet', 'diffusers', 'tyro'}; "
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stderr.strip() == "[]"


def test_version_and_no_command(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"spatia {__version__}\n"
    assert cli.main([]) == 2
    assert "usage" in capsys.readouterr().out


def test_unknown_command_names_the_near_miss(capsys):
    assert cli.main(["rolout"]) == 2
    out = capsys.readouterr()
    assert "did you mean 'rollout'?" in out.err and not out.out


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ActionError("scene: use a seed."), "spatia info: scene: use a seed.\n"),
        (PromptError("event: \x1b[31mred\nblue"), "spatia info: event:  [31mred blue\n"),
        (
            PermissionError(13, "Permission denied", "out"),
            "spatia info: [Errno 13] Permission denied: 'out'\n",
        ),
    ],
)
def test_errors_are_one_line_and_exit_code_two(monkeypatch, capsys, error, line):
    def fail(argv):
        raise error

    monkeypatch.setattr("spatia_env.cli.info", fail)
    assert cli.main(["info"]) == 2
    assert capsys.readouterr().err == line
    with pytest.raises(type(error)):
        cli.main(["info", "--debug"])


def test_faults_of_ours_are_not_hidden(monkeypatch):
    def fail(argv):
        raise ZeroDivisionError

    monkeypatch.setattr("spatia_env.cli.info", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["info"])


def test_interrupt(monkeypatch, capsys):
    def fail(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("spatia_env.cli.info", fail)
    assert cli.main(["info"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_info(capsys):
    assert cli.main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["spatia_env"] == __version__
    assert set(found["ids"]) >= {"Spatia-v0", "SpatiaPath-v0", "SpatiaDiscrete-v0", "SpatiaRL-v0"}
    assert cli.main(["info"]) == 0
    assert "spatia_env:Spatia-v0" in capsys.readouterr().out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_leads_to_a_main(name):
    """Read, not imported: some of the modules behind the verbs take seconds to load."""
    place = Path(cli.__file__).parent.parent.joinpath(*cli.COMMANDS[name].module.split("."))
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    (main,) = [function for function in functions if function.name == cli.COMMANDS[name].function]
    assert [argument.arg for argument in main.args.args] == ["argv"]


@pytest.mark.parametrize("name", ["demo", "rollout", "info"])
def test_every_command_has_help_and_refuses_unknown_options(name, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    assert f"spatia {name}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--nonsense"])
    assert stop.value.code == 2


def test_rollout_without_a_case_is_one_line(tmp_path):
    result = spatia("rollout", "--case", str(tmp_path / "none"), "--out", str(tmp_path / "out"))
    assert result.returncode == 2 and not result.stdout
    assert result.stderr.startswith("spatia rollout:") and "is not a folder" in result.stderr
    assert result.stderr.count("\n") == 1
