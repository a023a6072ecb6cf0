"""Does this package compute what the official release computes? `python -m tests.parity DIR`.

DIR holds tensors that the release computed at small random sizes, `config.json` with those sizes and
`MANIFEST.json` with hashes. Every file is run through the classes that also run the official weights; one
line says how far apart the numbers are, and the exit status is 1 if any is beyond its gate.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from spatia_env.errors import CheckpointError

from . import checks
from .fixtures import Fixtures

GATES = {
    "rope": 1e-6,
    "time sinusoid": 1e-6,
    "a transformer": 5e-5,
    "b references, history, control": 5e-5,
    "c first round": 5e-5,
    "d UniPC": 1e-6,
    "e retrieval": 0.0,
    "f autoencoder": 5e-5,
    "g LoRA": 5e-5,
    "h end to end, latents": 1e-4,
    "h end to end, pixels": 1e-3,
    "i release renderer": 5e-3,
}
"""Largest allowed difference; for pixels (h, i) the largest share of values that are off."""

CHECKS: dict[str, Callable[[Fixtures], checks.Measured]] = {
    "rope": checks.rope,
    "time sinusoid": checks.time_sinusoid,
    "a transformer": checks.plain_forward,
    "b references, history, control": checks.full_forward,
    "c first round": checks.first_round,
    "d UniPC": checks.unipc,
    "e retrieval": checks.retrieval,
    "f autoencoder": checks.autoencoder,
    "g LoRA": checks.lora,
    "h end to end, latents": checks.end_to_end_latents,
    "h end to end, pixels": checks.end_to_end_pixels,
    "i release renderer": checks.renderer,
}


@dataclass(frozen=True)
class Result:
    """One fixture: its `name`, the largest `error`, the `gate` it must not exceed, and `detail` in words."""

    name: str
    error: float
    gate: float
    detail: str

    @property
    def passed(self) -> bool:
        """Whether the error is within the gate; NaN is not."""
        return self.error <= self.gate

    def __str__(self) -> str:
        verdict = "pass" if self.passed else "FAIL"
        return f"{verdict}  {self.name:<32} max error {self.error:9.2e}  gate {self.gate:7.0e}  {self.detail}"


def run_parity(folder: str | Path) -> Iterator[Result]:
    """Run every fixture of a folder, in order.

    Raises:
        CheckpointError: If the folder lacks a file, or one differs from its hash in `MANIFEST.json`.
    """
    folder = Path(folder)
    check_manifest(folder)
    fixtures = Fixtures(folder)
    for name, check in CHECKS.items():
        try:
            with torch.inference_mode():
                measured = check(fixtures)
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as cause:
            if isinstance(cause, CheckpointError):
                raise
            # The fixture's tensors or sizes do not fit the models: that is a failure, and the rest still runs.
            measured = checks.Measured(float("inf"), f"does not run: {type(cause).__name__} {cause}"[:160])
        yield Result(name, measured.error, GATES[name], measured.detail)


def check_manifest(folder: Path) -> None:
    """Raise `CheckpointError` unless every file of `MANIFEST.json` is there and has the hash it names."""
    try:
        manifest = json.loads((folder / "MANIFEST.json").read_text())
        for name, entry in manifest.items():
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            if found != entry["sha256"]:
                raise CheckpointError(
                    f"{folder / name}: differs from its hash in MANIFEST.json; copy it again."
                )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        if isinstance(cause, CheckpointError):
            raise
        raise CheckpointError(f"{folder}: is not a folder of parity fixtures ({cause}).") from cause


def main(arguments: list[str] | None = None) -> int:
    """Print one line per fixture; 0 if all are within their gates, 1 if not, 2 if the folder is unusable."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="fixtures, such as tests/data/parity")
    folder = parser.parse_args(arguments).folder
    failed = 0
    try:
        for result in run_parity(folder):
            print(result, flush=True)
            failed += not result.passed
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(CHECKS) - failed} of {len(CHECKS)} within their gates")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
