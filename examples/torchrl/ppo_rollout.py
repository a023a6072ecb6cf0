"""TorchRL on a generated world: its specs, a rollout, and a loss that trains on it.

    pip install torchrl
    python examples/torchrl/ppo_rollout.py

TorchRL reads `SpatiaRL-v0` as it comes; its `GymEnv` also takes the Dict actions of `Spatia-v0`, text included.
"""

import sys

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch import nn
from torchrl.envs import GymEnv, TransformedEnv
from torchrl.envs.transforms import RewardSum, ToTensorImage
from torchrl.modules import NormalParamExtractor, ProbabilisticActor, TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE


class Trunk(nn.Module):
    """Picture [..., 3, H, W] to features [..., 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 8, stride=4), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 128), nn.ReLU(),
        )  # fmt: skip

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Any leading axes are a batch."""
        flat = self.layers(image.reshape(-1, *image.shape[-3:]))
        return flat.reshape(*image.shape[:-3], 128)


def main(steps: int = 8, model: str = "spatia-tiny") -> float:
    """One rollout and one update; the loss."""
    base = GymEnv("spatia_env:SpatiaRL-v0", task="explore", size=(64, 64), model=model)
    env = TransformedEnv(base)
    env.append_transform(ToTensorImage(in_keys=["image"], out_keys=["pixels"]))
    env.append_transform(RewardSum())
    features = TensorDictModule(Trunk(), in_keys=["pixels"], out_keys=["features"])
    head = TensorDictModule(
        nn.Sequential(nn.Linear(128, 12), NormalParamExtractor()),
        in_keys=["features"],
        out_keys=["loc", "scale"],
    )
    actor = ProbabilisticActor(
        TensorDictSequential(features, head), in_keys=["loc", "scale"], spec=env.action_spec,
        distribution_class=TanhNormal, distribution_kwargs={"low": -1.0, "high": 1.0}, return_log_prob=True,
    )  # fmt: skip
    critic = TensorDictSequential(
        TensorDictModule(Trunk(), in_keys=["pixels"], out_keys=["value_features"]),
        ValueOperator(nn.Linear(128, 1), in_keys=["value_features"]),
    )
    with torch.no_grad():  # what is collected is data; the loss looks at the networks afresh
        data = env.rollout(steps, actor)
        GAE(gamma=0.95, lmbda=0.95, value_network=critic)(data)
    loss = ClipPPOLoss(actor, critic)(data)
    total = loss["loss_objective"] + loss["loss_critic"] + loss["loss_entropy"]
    total.backward()
    print(
        f"{len(data)} steps, return {float(data['next', 'episode_reward'][-1]):.3f}, loss {float(total.detach()):.3f}"
    )
    env.close()
    return float(total.detach())


if __name__ == "__main__":
    main(model=sys.argv[1] if len(sys.argv) > 1 else "spatia-tiny")
