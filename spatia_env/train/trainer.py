"""One training loop for every network: resume, EMA, CSV log, fixed dev evaluation, atomic checkpoints.

It knows nothing about what it trains: a stage hands in modules, a loss and an evaluation.
"""

import csv
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from spatia_env.io.weights import write_tensors
from spatia_env.train.devices import to_device
from spatia_env.train.parallel import Processes


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train."""

    out: Path
    """folder of the run: state.safetensors, optimizer.safetensors, log.csv, progress.json"""
    minutes: float = 30.0
    """wall-clock minutes of this call; a later call with the same folder goes on"""
    max_steps: int = 1_000_000
    """total steps over all calls"""
    learning_rate: float = 5e-4
    """peak learning rate, after `warmup` steps"""
    muon: float = 0.0
    """learning rate of Muon for the matrices of the blocks, as a multiple of `learning_rate`; 0 for AdamW"""
    warmup: int = 100
    """steps of linear warm-up"""
    decay: bool = False
    """lower the rate to 5 % along a cosine over this call's minutes (the last call of a run)"""
    weight_decay: float = 0.01
    """AdamW weight decay"""
    clip: float = 1.0
    """largest gradient norm"""
    ema: float = 0.998
    """decay of the averaged weights that are evaluated and shipped"""
    save_minutes: float = 3.0
    """minutes between checkpoints"""
    eval_minutes: float = 6.0
    """minutes between dev evaluations"""
    log_every: int = 25
    """steps between rows of the log"""
    bf16: bool = False
    """compute losses under bfloat16 autocast (worth it on a GPU; convolutions on a CPU get slower)"""
    device: str = "cpu"
    """where networks and batches go: "cpu", "cuda", "cuda:1" """


Loss = Callable[[Any], tuple[Tensor, dict[str, float]]]
Pace = Callable[[str], float]
"""Of a parameter's name: the multiple of the learning rate that it takes."""


class Trainer:
    """Trains `model` on `batches`; see `LoopConfig`. `evaluate` is called with the averaged weights in place."""

    def __init__(self, model: nn.Module, config: LoopConfig, pace: Pace = lambda name: 1.0) -> None:
        self.model, self.config, self.device = model.to(config.device), config, torch.device(config.device)
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.optimizers = _optimizers(self.parameters, config, pace)
        self.step, self.seconds, self.fresh_from = 0, 0.0, 0
        self.processes = Processes()
        config.out.mkdir(parents=True, exist_ok=True)
        self._resume()

    def run(
        self, batches: Iterator, loss: Loss, evaluate: Callable[[], dict[str, float]]
    ) -> dict[str, float]:
        """Train until the minutes or the steps are used up; returns the last evaluation."""
        config = self.config
        start = last_save = last_eval = time.monotonic()
        base = self.seconds
        figures: dict[str, float] = {}
        sums: dict[str, float] = {}
        bar = tqdm(initial=self.step, desc=config.out.name, unit="step", mininterval=5)
        batches = self.processes.share(batches)
        while self.processes.all_agree(
            self.step < config.max_steps and time.monotonic() - start < config.minutes * 60
        ):
            self._set_rate((time.monotonic() - start) / (config.minutes * 60))
            batch = to_device(next(batches), self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bf16):
                value, parts = loss(batch)
            self._descend(value)
            for name, part in {"loss": value.item(), **parts}.items():
                sums[name] = sums.get(name, 0.0) + part
            bar.update()
            now = time.monotonic()
            self.seconds = base + now - start
            if self.step % config.log_every == 0:
                self._log({name: total / config.log_every for name, total in sums.items()})
                bar.set_postfix_str(" ".join(f"{n}={t / config.log_every:.4f}" for n, t in sums.items()))
                sums = {}
            if now - last_save > config.save_minutes * 60:
                self.save()
                last_save = now
            if now - last_eval > config.eval_minutes * 60:
                figures = self._evaluate(evaluate)
                last_eval = time.monotonic()
        figures = self._evaluate(evaluate)
        self.save()
        self.processes.wait_for_all()
        bar.close()
        return figures

    def save(self) -> None:
        """Write weights, averages, optimiser state and progress; a reader sees the old or the new files."""
        if not self.processes.is_main:
            return
        state = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        state |= {f"average.{n}": t for n, t in self.average.items()}
        moments = {}
        for name, parameter in self.parameters.items():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(parameter, {}).items():
                    moments[f"{name}|{key}"] = value
        write_tensors(self.config.out / "state.safetensors", state)
        write_tensors(self.config.out / "optimizer.safetensors", moments)
        progress = {"step": self.step, "seconds": round(self.seconds, 1)}
        (self.config.out / "progress.json").write_text(json.dumps(progress))

    def averaged(self) -> "_Averaged":
        """Context in which the model holds the averaged weights."""
        return _Averaged(self.parameters, self.average)

    def _descend(self, value: Tensor) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None
        value.backward()
        self.processes.average(self.parameters.values())
        norm = nn.utils.clip_grad_norm_(list(self.parameters.values()), self.config.clip)
        if torch.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
        self.step += 1
        # A short memory at first: early weights are not worth averaging.
        young = self.step - self.fresh_from
        decay = min(self.config.ema, young / (young + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)

    def _set_rate(self, elapsed: float) -> None:
        rate = self.config.learning_rate * min(1.0, (self.step - self.fresh_from + 1) / self.config.warmup)
        if self.config.decay:
            cosine = 0.5 + 0.5 * float(torch.cos(torch.tensor(min(elapsed, 1.0) * torch.pi)))
            rate *= 0.05 + 0.95 * cosine
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["pace"]

    def _evaluate(self, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
        if not self.processes.is_main:
            return {}
        with self.averaged(), torch.no_grad():
            figures = evaluate()
        self._log({f"dev_{name}": value for name, value in figures.items()})
        tqdm.write(f"{self.config.out.name} step {self.step} ({self.seconds / 60:.1f} min): {figures}")
        return figures

    def _log(self, values: dict[str, float]) -> None:
        if not self.processes.is_main:
            return
        with open(self.config.out / "log.csv", "a", newline="") as file:
            writer = csv.writer(file)
            for name, value in values.items():
                writer.writerow([self.step, round(self.seconds, 1), name, f"{value:.6g}"])

    def _resume(self) -> None:
        path = self.config.out / "state.safetensors"
        if not path.exists():
            return
        state = load_file(path)
        self.model.load_state_dict({n[6:]: t for n, t in state.items() if n.startswith("model.")})
        for name, average in self.average.items():
            average.copy_(state.get(f"average.{name}", self.parameters[name].detach()))
        progress = json.loads((self.config.out / "progress.json").read_text())
        self.step, self.seconds = progress["step"], progress["seconds"]
        self._resume_moments()

    def _resume_moments(self) -> None:
        path = self.config.out / "optimizer.safetensors"
        if not path.exists():  # of a run that was unpacked from a checkpoint: the optimisers warm up again
            self.fresh_from = self.step
            return
        moments = load_file(path)
        names = {id(parameter): name for name, parameter in self.parameters.items()}
        for optimizer in self.optimizers:
            wanted = MOMENTS[type(optimizer)]
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                found = {key: moments.get(f"{names[id(parameter)]}|{key}") for key in wanted}
                whole = {key: value for key, value in found.items() if value is not None}
                if len(whole) == len(wanted):
                    # AdamW counts its steps on the CPU.
                    optimizer.state[parameter] = {
                        key: value if key == "step" else value.to(self.device) for key, value in whole.items()
                    }


MOMENTS: dict[type, tuple[str, ...]] = {
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.Muon: ("momentum_buffer",),
}
"""What each optimiser remembers of a parameter; a run may go on with the other one."""


def _optimizers(
    parameters: dict[str, nn.Parameter], config: LoopConfig, pace: Pace
) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon where it is asked for; every group knows its multiple of the learning rate, `pace`."""
    hidden = {n: p for n, p in parameters.items() if config.muon and p.ndim == 2 and "blocks." in n}
    paces: dict[float, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        if name not in hidden:
            paces.setdefault(pace(name), []).append(parameter)
    groups = [{"params": chosen, "pace": multiple} for multiple, chosen in paces.items()]
    adam = torch.optim.AdamW(groups, config.learning_rate, (0.9, 0.98), weight_decay=config.weight_decay)
    if not hidden:
        return [adam]
    muon = torch.optim.Muon(
        [{"params": list(hidden.values()), "pace": config.muon}],
        config.learning_rate,
        config.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [adam, muon]


class _Averaged:
    """Swaps averaged weights in on entry and the trained ones back on exit."""

    def __init__(self, parameters: dict[str, nn.Parameter], average: dict[str, Tensor]) -> None:
        self.parameters, self.average = parameters, average

    def __enter__(self) -> None:
        self.trained = {n: p.detach().clone() for n, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            parameter.data.copy_(self.average[name])

    def __exit__(self, *_: object) -> None:
        for name, parameter in self.parameters.items():
            parameter.data.copy_(self.trained[name])


def averaged_state(run: Path) -> dict[str, Tensor]:
    """The weights of a run with their averages in place of the last ones."""
    state = load_file(run / "state.safetensors")
    weights = {name[6:]: tensor for name, tensor in state.items() if name.startswith("model.")}
    return weights | {name[8:]: tensor for name, tensor in state.items() if name.startswith("average.")}
