"""`spatia bench cost`: seconds, memory and floating-point operations of the official size, with random weights.

Operations and memory are counted everywhere. Where there is a GPU that holds the model, it is also run and timed.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from spatia_env.errors import ActionError
from spatia_env.models.wan.cost import CLIPS, Clip, ClipCost, Network, count_clip, time_clip
from spatia_env.models.wan.pipeline import compute_device


@dataclass(frozen=True)
class CostConfig:
    """What `spatia bench cost` takes."""

    out: Path | None = None
    """folder for results.json and table.md"""
    model_size: Literal["wan"] = "wan"
    """the official size is the one there is"""
    random_weights: bool = True
    """weights are random: the cost does not depend on them"""
    device: str | None = None
    """where to run; by default a GPU if there is one, else nothing runs and operations are counted"""
    steps: int = 40
    """sampling steps of a round"""
    guidance: bool = True
    """two forward passes per step"""
    clips: tuple[str, ...] = ()
    """only these, such as 832x480x81+7; by default the four of the table"""


def run_cost(
    config: CostConfig, network: Network | None = None, progress: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Count, time where there is a device, and return the content of results.json.

    Raises:
        ActionError: If a clip or the device is not known.
    """
    chosen = _chosen(config.clips)
    runs = config.device is not None or torch.cuda.is_available()
    device = compute_device(config.device) if runs else None
    forwards = config.steps * (2 if config.guidance else 1)
    rows = []
    for clip in chosen:
        progress(f"counting {clip.name}")
        cost = count_clip(clip, network)
        if device is not None and (device.type == "cpu" or cost.peak_bytes() < _free_bytes(device)):
            progress(f"timing {clip.name} on {device}")
            cost = dataclasses.replace(cost, timed=time_clip(clip, device, network))
        rows.append(cost)
    command = "spatia bench cost --model-size wan --random-weights"
    content = {
        "schema": "spatia-cost/1",
        "device": _device_name(device),
        "torch": torch.__version__,
        "forwards_per_round": forwards,
        "rows": [_row(cost, forwards) for cost in rows],
        "figures": figures(rows, forwards, command),
    }
    if config.out is not None:
        config.out.mkdir(parents=True, exist_ok=True)
        (config.out / "results.json").write_text(json.dumps(content, indent=2) + "\n")
        (config.out / "table.md").write_text(cost_table(content))
    return content


def figures(rows: Sequence[ClipCost], forwards: int, command: str) -> dict[str, dict[str, Any]]:
    """The numbers by id; counted ones are exact, so their interval is themselves."""
    found = {}
    for cost in rows:
        row = _row(cost, forwards)
        for key, title, unit in _COLUMNS:
            if row[key] is not None:
                value = round(row[key], 4)
                found[f"cost/{cost.clip.name}/{key}"] = {
                    "title": f"{cost.clip.name}: {title}",
                    "unit": unit,
                    "value": value,
                    "ci": [value, value],
                    "n": 1,
                    "reach": None,
                    "holds": None,
                    "command": command,
                }
    return found


_COLUMNS = (
    ("tflop_forward", "one forward pass of the transformer", "TFLOP"),
    ("tflop_attention", "of it self- and cross-attention", "TFLOP"),
    ("tflop_encode", "encoding what the clip is conditioned on", "TFLOP"),
    ("tflop_decode", "decoding the clip", "TFLOP"),
    ("tflop_round", "a whole round", "TFLOP"),
    ("gb_counted", "weights and tensors alive at once, both networks in memory", "GB"),
    ("gb_counted_stages", "the same with only the working network in memory", "GB"),
    ("seconds_forward", "one forward pass, measured", "s"),
    ("seconds_round", "a whole round, from the measured parts", "s"),
    ("gb_measured", "peak memory, measured", "GB"),
)


def cost_table(content: dict[str, Any]) -> str:
    """The results as Markdown."""
    names = {"tflop": "TFLOP", "gb": "GB", "seconds": "s"}
    head = [
        " ".join(part if i else names[part] for i, part in enumerate(key.split("_"))) for key, *_ in _COLUMNS
    ]
    lines = [
        f"Device: {content['device']}; a round is {content['forwards_per_round']} forward passes. "
        "GB counted: tensors that the computation itself keeps, in bfloat16.",
        "",
        f"| clip | {' | '.join(head)} |",
        f"|---|{'---:|' * len(head)}",
    ]
    for row in content["rows"]:
        cells = ["" if row[key] is None else f"{row[key]:,.1f}" for key, *_ in _COLUMNS]
        lines.append(f"| {row['clip']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _row(cost: ClipCost, forwards: int) -> dict[str, Any]:
    timed = cost.timed
    seconds = timed.get("seconds_forward")
    sides = timed.get("seconds_encode", 0.0) + timed.get("seconds_decode", 0.0)
    measured = [value for key, value in timed.items() if key.startswith("bytes_")]
    return {
        "clip": cost.clip.name,
        "tflop_forward": cost.forward.flops / 1e12,
        "tflop_attention": cost.forward.attention / 1e12,
        "tflop_encode": cost.encode.flops / 1e12,
        "tflop_decode": cost.decode.flops / 1e12,
        "tflop_round": cost.round_flops(forwards) / 1e12,
        "gb_counted": cost.peak_bytes() / 1e9,
        "gb_counted_stages": cost.peak_bytes(stages=True) / 1e9,
        "seconds_forward": seconds,
        "seconds_round": None if seconds is None else forwards * seconds + sides,
        "gb_measured": max(measured) / 1e9 if measured else None,
    }


def _chosen(names: tuple[str, ...]) -> list[Clip]:
    known = {clip.name: clip for clip in CLIPS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ActionError(f"clip {unknown[0]!r}: there are {', '.join(known)}.")
    return [known[name] for name in names] or list(CLIPS)


def _device_name(device: torch.device | None) -> str:
    if device is None:
        return "none (operations and memory counted, nothing timed)"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0]


def main(argv: list[str]) -> int:
    """Run `spatia bench cost` and print the table."""
    import tyro

    config = tyro.cli(CostConfig, args=argv, prog="spatia bench cost")
    print(cost_table(run_cost(config, progress=print)))
    return 0
