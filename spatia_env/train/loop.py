"""One training loop for every network: resume, exponential moving average, CSV log, dev evaluation, atomic checkpoints.

A stage hands in modules, a loss and an evaluation. Several processes train one network under
`accelerate launch --multi_gpu --num_processes 2 -m spatia_env.cli train`: each holds the whole network, takes its share
of the batches and averages its gradients with the others', so two processes with batches of 8 make the steps of one
with batches of 16. Only the main process evaluates, logs and saves.
"""

import atexit
import csv
import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from spatia_env.errors import DependencyError
from spatia_env.io.weights import write_tensors


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
    """Trains `model` on `batches`; see `LoopConfig`. `evaluate` is called with the averaged weights in place.

    Attributes:
        step: Optimiser steps over all calls.
        fresh_from: The step at which the optimisers began without moments: warm-up and averaging count from there.
        average: `diffusers.training_utils.EMAModel` of the parameters that learn.
        processes: `accelerate.PartialState`.

    Raises:
        DependencyError: Accelerate is not installed.
    """

    def __init__(self, model: nn.Module, config: LoopConfig, pace: Pace = lambda name: 1.0) -> None:
        from diffusers.training_utils import EMAModel

        self.processes = open_processes()
        self.model, self.config, self.device = model.to(config.device), config, torch.device(config.device)
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.average = EMAModel(self.parameters.values(), decay=config.ema)
        self.optimizers = _optimizers(self.parameters, config, pace)
        self.step, self.seconds, self.fresh_from = 0, 0.0, 0
        config.out.mkdir(parents=True, exist_ok=True)
        self._resume()

    def run(
        self, batches: Iterator, loss: Loss, evaluate: Callable[[], dict[str, float]]
    ) -> dict[str, float]:
        """Train until the minutes or the steps are used up; returns the last evaluation."""
        config, processes = self.config, self.processes
        start = last_save = last_eval = time.monotonic()
        base = self.seconds
        sums: dict[str, float] = {}
        bar = tqdm(initial=self.step, desc=config.out.name, unit="step", mininterval=5)
        batches = itertools.islice(batches, processes.process_index, None, processes.num_processes)
        while self._all_go_on(time.monotonic() - start < config.minutes * 60):
            self._set_rate((time.monotonic() - start) / (config.minutes * 60))
            batch = to_device(next(batches), self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bf16):
                value, parts = loss(batch)
            self._descend(value)
            for name, part in {"loss": value.item(), **parts}.items():
                sums[name] = sums.get(name, 0.0) + part / config.log_every
            bar.update()
            now = time.monotonic()
            self.seconds = base + now - start
            if self.step % config.log_every == 0:
                self._log(sums)
                bar.set_postfix_str(" ".join(f"{name}={mean:.4f}" for name, mean in sums.items()))
                sums = {}
            if now - last_save > config.save_minutes * 60:
                self.save()
                last_save = now
            if now - last_eval > config.eval_minutes * 60:
                self._evaluate(evaluate)
                last_eval = time.monotonic()
        figures = self._evaluate(evaluate)
        self.save()
        # Whoever leaves earlier takes its connections along.
        processes.wait_for_everyone()
        bar.close()
        return figures

    def save(self) -> None:
        """Write weights, averages, optimiser state and progress; a reader sees the old or the new files."""
        if not self.processes.is_main_process:
            return
        state = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        averages = zip(self.parameters, self.average.shadow_params, strict=True)
        state |= {f"average.{name}": tensor for name, tensor in averages}
        moments = {
            f"{type(optimizer).__name__}|{name}|{key}": value
            for optimizer in self.optimizers
            for name, parameter in self.parameters.items()
            for key, value in optimizer.state.get(parameter, {}).items()
        }
        write_tensors(self.config.out / "state.safetensors", state)
        write_tensors(self.config.out / "optimizer.safetensors", moments)
        progress = {"step": self.step, "seconds": round(self.seconds, 1)}
        (self.config.out / "progress.json").write_text(json.dumps(progress))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Context in which the model holds the averaged weights."""
        parameters = list(self.parameters.values())
        self.average.store(parameters)
        self.average.copy_to(parameters)
        try:
            yield
        finally:
            self.average.restore(parameters)

    def _descend(self, value: Tensor) -> None:
        parameters = list(self.parameters.values())
        for parameter in parameters:
            parameter.grad = None
        value.backward()
        if self.processes.num_processes > 1:
            _average_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip)
        if torch.isfinite(norm):
            for optimizer in self.optimizers:
                optimizer.step()
        self.step += 1
        self.average.step(parameters)

    def _set_rate(self, elapsed: float) -> None:
        rate = self.config.learning_rate * min(1.0, (self.step - self.fresh_from + 1) / self.config.warmup)
        if self.config.decay:
            cosine = 0.5 + 0.5 * float(torch.cos(torch.tensor(min(elapsed, 1.0) * torch.pi)))
            rate *= 0.05 + 0.95 * cosine
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["pace"]

    def _all_go_on(self, in_time: bool) -> bool:
        """Whether every process has steps and minutes left: their clocks differ, their steps must not."""
        go_on = self.step < self.config.max_steps and in_time
        if self.processes.num_processes == 1:
            return go_on
        from accelerate.utils import gather

        return bool(gather(torch.tensor([go_on], device=self.processes.device)).all())

    def _evaluate(self, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
        if not self.processes.is_main_process:
            return {}
        with self.averaged(), torch.no_grad():
            figures = evaluate()
        self._log({f"dev_{name}": value for name, value in figures.items()})
        tqdm.write(f"{self.config.out.name} step {self.step} ({self.seconds / 60:.1f} min): {figures}")
        return figures

    def _log(self, values: dict[str, float]) -> None:
        if not self.processes.is_main_process:
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
        for (name, parameter), shadow in zip(
            self.parameters.items(), self.average.shadow_params, strict=True
        ):
            shadow.copy_(state.get(f"average.{name}", parameter.detach()))
        progress = json.loads((self.config.out / "progress.json").read_text())
        self.step, self.seconds = progress["step"], progress["seconds"]
        moments = self.config.out / "optimizer.safetensors"
        if moments.exists():
            self.average.optimization_step = self.step
            self._resume_moments(load_file(moments))
        else:  # of a run that was unpacked from a checkpoint: the optimisers warm up again
            self.fresh_from = self.step

    def _resume_moments(self, moments: dict[str, Tensor]) -> None:
        """Give every optimiser what one of its kind remembered; a run may go on with or without Muon."""
        for optimizer in self.optimizers:
            learns = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for label, value in moments.items():
                kind, name, key = label.split("|")
                parameter = self.parameters.get(name)
                if parameter is not None and id(parameter) in learns and kind == type(optimizer).__name__:
                    # AdamW counts its steps on the CPU.
                    kept = value if key == "step" else value.to(self.device)
                    optimizer.state[parameter][key] = kept


def open_processes() -> Any:
    """The processes of this run, an `accelerate.PartialState`; one alone unless a launcher says otherwise.

    Raises:
        DependencyError: Accelerate is not installed.
    """
    try:
        from accelerate import PartialState
    except ImportError as cause:
        raise DependencyError("training needs accelerate: pip install 'spatia-env[train]'.") from cause
    # With GPUs it takes one a process, else gloo on the CPU.
    state = PartialState(cpu=not torch.cuda.is_available())
    if state.num_processes > 1:
        # Left open, its threads may outlive the interpreter and abort the process at its very end.
        atexit.register(state.destroy_process_group)
    return state


def device_of(module: nn.Module) -> torch.device:
    """Where a network's weights are."""
    return next(module.parameters()).device


def to_device(value: Any, device: torch.device) -> Any:
    """A tensor, or a dataclass, tuple, list or dictionary of such, on `device`; all else as it is."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: to_device(getattr(value, f.name), device) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **parts)
    if isinstance(value, (tuple, list)):
        return type(value)(to_device(part, device) for part in value)
    if isinstance(value, dict):
        return {name: to_device(part, device) for name, part in value.items()}
    return value


def averaged_state(run: Path) -> dict[str, Tensor]:
    """The weights of a run with their averages in place of the last ones."""
    state = load_file(run / "state.safetensors")
    weights = {name[6:]: tensor for name, tensor in state.items() if name.startswith("model.")}
    return weights | {name[8:]: tensor for name, tensor in state.items() if name.startswith("average.")}


def half(tensor: Tensor) -> Tensor:
    """A tensor to be written: float16 where it holds fractions."""
    return tensor.detach().to(torch.float16 if tensor.is_floating_point() else tensor.dtype).contiguous()


def _average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace gradients by their mean over the processes."""
    from accelerate.utils import reduce

    for parameter in parameters:
        # A process whose batch did not touch a weight still takes part.
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad = reduce(gradient, "mean")


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
