"""Two processes under `accelerate launch` make the steps of one with batches twice as large."""

import subprocess
import sys

import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
from pathlib import Path
import torch
from torch import nn
from spatia_env.train.loop import LoopConfig, Trainer
from spatia_env.train.parallel import Processes

torch.set_num_threads(1)
out, size, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
generator = torch.Generator().manual_seed(1)
data = torch.randn(4 * steps, 5, generator=generator)


def batches():
    at = 0
    while True:
        yield data[at % len(data) : at % len(data) + size]
        at += size


def loss(batch):
    return (model(batch) - batch[:, :3]).square().mean(), {}


config = LoopConfig(out, minutes=5, max_steps=steps, learning_rate=0.01, warmup=1, log_every=1)
Trainer(model, config).run(batches(), loss, lambda: {"processes": float(Processes().count)})
"""


def run(folder, launcher, size):
    script = folder / "train.py"
    script.write_text(SCRIPT)
    out = folder / f"out{size}"
    command = [sys.executable, *launcher, str(script), str(out), str(size), "6"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return load_file(out / "state.safetensors"), (out / "log.csv").read_text()


def test_two_processes_make_the_steps_of_one(tmp_path):
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
    together, log = run(tmp_path, launch, 2)
    alone, _ = run(tmp_path, [], 4)
    assert "dev_processes,2" in log and log.count("dev_processes") == 1, "one process logs"
    assert log.count(",loss,") == 6, "six steps, not twelve"
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-4, atol=1e-6)
