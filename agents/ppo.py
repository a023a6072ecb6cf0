"""PPO (Schulman et al., 2017) in one file, for SpatiaRL-v0 and SpatiaDiscrete-v0.

    python agents/ppo.py --total-steps 20000
    python agents/ppo.py --env-id spatia_env:SpatiaDiscrete-v0 --num-events 1
    python agents/ppo.py --env-id spatia_env:SpatiaSim-v0       # trained in the true simulator

Logged: `charts/episodic_return`, `charts/SPS`, `losses/policy_loss`, `losses/value_loss`, `losses/entropy`,
`losses/approx_kl`. Autoreset is SameStep: the observation that follows an end is the next episode's first, and
the value of the last one is added to the reward where the end was a truncation.
"""

import json
import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.vector import AutoresetMode
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.nn import functional as F


@dataclass(frozen=True)
class Args:
    """What to train, where, and how."""

    env_id: str = "spatia_env:SpatiaRL-v0"
    """SpatiaRL-v0, SpatiaDiscrete-v0 or SpatiaSim-v0."""
    task: str = "explore"
    """Task."""
    num_envs: int = 4
    """Worlds side by side."""
    total_steps: int = 20_000
    """Steps of all worlds together."""
    num_steps: int = 32
    """Steps of each world between updates."""
    horizon: int = 16
    """Clips of an episode."""
    size: tuple[int, int] = (64, 64)
    """Height and width of the frames, pixels."""
    model: str = "spatia-tiny"
    """Checkpoint of the world."""
    num_events: int = 1
    """Events offered in SpatiaDiscrete-v0; 1 offers none."""
    learning_rate: float = 2.5e-4
    """Of Adam, falling to 0."""
    gamma: float = 0.95
    """Discount."""
    gae_lambda: float = 0.95
    """Of generalised advantage estimation."""
    epochs: int = 4
    """Passes over a batch."""
    minibatches: int = 4
    """Parts of a batch."""
    clip: float = 0.2
    """Of the ratio."""
    entropy: float = 0.01
    """Weight of the entropy bonus."""
    value: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Of the gradient."""
    seed: int = 1
    """Of everything."""
    save: str = ""
    """File for the trained policy, safetensors; none by default."""
    eval_scenes: int = 0
    """Evaluate in the true simulator on so many dev scenes."""


def make_envs(args: Args) -> gym.vector.VectorEnv:
    """Worlds side by side; the generated ones share one model call a step."""
    options: dict[str, Any] = {"task": args.task, "size": args.size, "model": args.model}
    if "Discrete" in args.env_id:
        options["num_events"] = args.num_events
    if "Sim" in args.env_id:
        return gym.make_vec(
            args.env_id, args.num_envs, "sync", max_episode_steps=args.horizon, view="rl",
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP}, **options,
        )  # fmt: skip
    return gym.make_vec(
        args.env_id, args.num_envs, max_episode_steps=args.horizon, autoreset_mode="SameStep", **options
    )


class Agent(nn.Module):
    """A small convolutional network over picture and depth, with a policy and a value."""

    def __init__(self, observation: gym.spaces.Dict, action: gym.Space) -> None:
        super().__init__()
        height, width = observation["image"].shape[:2]
        self.trunk = nn.Sequential(
            nn.Conv2d(4, 32, 8, stride=4), nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2), nn.ReLU(),
            nn.Conv2d(64, 32, 3), nn.ReLU(), nn.Flatten(),
        )  # fmt: skip
        with torch.no_grad():
            features = self.trunk(torch.zeros(1, 4, height, width)).shape[1]
        self.mix = nn.Sequential(nn.Linear(features + 16, 256), nn.ReLU())
        self.sizes = [] if isinstance(action, gym.spaces.Box) else [int(n) for n in action.nvec]
        self.policy = nn.Linear(256, sum(self.sizes) or int(np.prod(action.shape)))
        self.log_std = nn.Parameter(torch.full((int(np.prod(action.shape)),), -0.5))
        self.value = nn.Linear(256, 1)
        nn.init.orthogonal_(self.policy.weight, 0.01)
        nn.init.zeros_(self.policy.bias)

    def features(self, observation: dict[str, Tensor]) -> Tensor:
        """[N, 256]."""
        picture = torch.cat([observation["image"], observation["depth"]], dim=-1).float() / 255
        return self.mix(torch.cat([self.trunk(picture.movedim(-1, 1)), observation["pose"] / 4], dim=1))

    def forward(self, observation: dict[str, Tensor]) -> tuple[Any, Tensor]:
        """Distributions of the action's parts, and values [N]."""
        features = self.features(observation)
        out = self.policy(features)
        if self.sizes:
            parts = [Categorical(logits=logits) for logits in out.split(self.sizes, dim=1)]
        else:
            parts = [Normal(out, self.log_std.exp().expand_as(out))]
        return parts, self.value(features)[:, 0]

    def sample(self, parts: Any, generator: torch.Generator) -> Tensor:
        """Actions [N, A], drawn with a generator of our own."""
        if self.sizes:
            return torch.stack(
                [torch.multinomial(p.probs, 1, generator=generator)[:, 0] for p in parts], dim=1
            )
        return parts[0].mean + parts[0].stddev * torch.randn(parts[0].mean.shape, generator=generator)

    def log_prob(self, parts: Any, actions: Tensor) -> Tensor:
        """Of actions [N, A]."""
        if self.sizes:
            return torch.stack([p.log_prob(actions[:, i]) for i, p in enumerate(parts)]).sum(0)
        return parts[0].log_prob(actions).sum(1)

    def to_env(self, actions: Tensor) -> np.ndarray:
        """What the environment takes."""
        return actions.numpy() if self.sizes else actions.clamp(-1, 1).numpy().astype(np.float32)


def tensors(observation: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """An observation as tensors."""
    return {key: torch.from_numpy(np.asarray(value)) for key, value in observation.items()}


def final_values(agent: Agent, infos: dict[str, Any], truncated: np.ndarray) -> Tensor:
    """Values [N] of the last observations of truncated episodes; 0 for the rest."""
    out = torch.zeros(len(truncated))
    for index in np.flatnonzero(truncated):
        last = {key: value[None] for key, value in infos["final_obs"][index].items()}
        with torch.no_grad():
            out[index] = agent(tensors(last))[1][0]
    return out


def advantages(rewards: Tensor, values: Tensor, ends: Tensor, last: Tensor, args: Args) -> Tensor:
    """Generalised advantage estimates [T, N]."""
    out, carried = torch.zeros_like(rewards), torch.zeros_like(last)
    for t in reversed(range(len(rewards))):
        after = last if t == len(rewards) - 1 else values[t + 1]
        delta = rewards[t] + args.gamma * after * (1 - ends[t]) - values[t]
        carried = delta + args.gamma * args.gae_lambda * (1 - ends[t]) * carried
        out[t] = carried
    return out


def update(
    agent: Agent, optimiser: Any, batch: dict[str, Any], args: Args, rng: np.random.Generator
) -> dict[str, float]:
    """One PPO update over a flattened batch; returns the last losses."""
    count, logged = len(batch["actions"]), {}
    for _ in range(args.epochs):
        for rows in np.array_split(rng.permutation(count), args.minibatches):
            observation = {key: value[rows] for key, value in batch["observation"].items()}
            parts, values = agent(observation)
            log_ratio = agent.log_prob(parts, batch["actions"][rows]) - batch["log_probs"][rows]
            gain = batch["advantages"][rows]
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            ratio = log_ratio.exp()
            policy_loss = -torch.min(gain * ratio, gain * ratio.clamp(1 - args.clip, 1 + args.clip)).mean()
            value_loss = F.mse_loss(values, batch["returns"][rows])
            entropy = torch.stack([p.entropy().reshape(len(rows), -1).sum(1) for p in parts]).sum(0).mean()
            optimiser.zero_grad()
            (policy_loss + args.value * value_loss - args.entropy * entropy).backward()
            nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
            optimiser.step()
            logged = {
                "losses/policy_loss": float(policy_loss.detach()),
                "losses/value_loss": float(value_loss.detach()),
                "losses/entropy": float(entropy.detach()),
                "losses/approx_kl": float((ratio - 1 - log_ratio).mean().detach()),
            }
    return logged


def train(args: Args) -> tuple[Agent, list[dict[str, float]]]:
    """The trained agent, and what was logged, a row an update."""
    envs = make_envs(args)
    rng, generator = np.random.default_rng(args.seed), torch.Generator().manual_seed(args.seed)
    with torch.random.fork_rng(devices=[]):  # the weights are drawn from torch's own generator
        torch.manual_seed(args.seed)
        agent = Agent(envs.single_observation_space, envs.single_action_space)
    optimiser = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    updates = max(1, args.total_steps // (args.num_envs * args.num_steps))
    observation, _ = envs.reset(seed=args.seed)
    running, finished, log, begin = np.zeros(args.num_envs), [], [], time.perf_counter()
    for number in range(updates):
        for group in optimiser.param_groups:
            group["lr"] = args.learning_rate * (1 - number / updates)
        rows: dict[str, list[Any]] = {
            k: [] for k in ("observation", "actions", "log_probs", "values", "rewards", "ends")
        }
        for _ in range(args.num_steps):
            seen = tensors(observation)
            with torch.no_grad():
                parts, values = agent(seen)
                actions = agent.sample(parts, generator)
                log_probs = agent.log_prob(parts, actions)
            observation, rewards, terminated, truncated, infos = envs.step(agent.to_env(actions))
            running += rewards
            ended = terminated | truncated
            finished += running[ended].tolist()
            running[ended] = 0
            bonus = args.gamma * final_values(agent, infos, truncated & ~terminated)
            new = (
                seen,
                actions,
                log_probs,
                values,
                torch.from_numpy(rewards).float() + bonus,
                torch.from_numpy(ended).float(),
            )
            for key, value in zip(rows, new, strict=True):
                rows[key].append(value)
        with torch.no_grad():
            last = agent(tensors(observation))[1]
        stacked = {key: torch.stack(value) for key, value in rows.items() if key != "observation"}
        gains = advantages(stacked["rewards"], stacked["values"], stacked["ends"], last, args)
        batch = {
            "observation": {
                k: torch.cat([o[k] for o in rows["observation"]]) for k in rows["observation"][0]
            },
            "actions": stacked["actions"].flatten(0, 1),
            "log_probs": stacked["log_probs"].flatten(),
            "advantages": gains.flatten(),
            "returns": (gains + stacked["values"]).flatten(),
        }
        row = update(agent, optimiser, batch, args, rng)
        steps = (number + 1) * args.num_envs * args.num_steps
        row |= {"step": steps, "charts/SPS": steps / (time.perf_counter() - begin)}
        if finished:
            row["charts/episodic_return"] = float(np.mean(finished[-50:]))
        log.append(row)
        print(json.dumps({key: round(value, 4) for key, value in row.items()}), flush=True)
    envs.close()
    return agent, log


def evaluate(agent: Agent, args: Args, world: str, scenes: range) -> list[float]:
    """Returns of the mean action (or the likeliest) in a world, one a scene."""
    options: dict[str, Any] = {"view": "rl"} if "Sim" in world else {}
    if agent.sizes:
        options = (
            {"view": "discrete", "num_events": args.num_events}
            if "Sim" in world
            else {"num_events": args.num_events}
        )
    env = gym.make(
        world, max_episode_steps=args.horizon, task=args.task, size=args.size, model=args.model, **options
    )
    out = []
    for scene in scenes:
        observation, _ = env.reset(seed=scene, options={"scene": scene})
        total, ended = 0.0, False
        while not ended:
            with torch.no_grad():
                parts, _ = agent(tensors({key: value[None] for key, value in observation.items()}))
            if agent.sizes:
                action = torch.stack([p.probs.argmax(1) for p in parts], dim=1)
            else:
                action = parts[0].mean
            observation, reward, terminated, truncated, _ = env.step(agent.to_env(action)[0])
            total, ended = total + float(reward), terminated or truncated
        out.append(total)
    env.close()
    return out


def main(args: Args) -> dict[str, Any]:
    """Train, perhaps save and evaluate."""
    agent, log = train(args)
    if args.save:
        from safetensors.torch import save_file

        save_file({key: value.contiguous() for key, value in agent.state_dict().items()}, args.save)
    result: dict[str, Any] = {"updates": len(log), **log[-1]}
    if args.eval_scenes:
        scenes = range(10_100, 10_100 + args.eval_scenes)
        returns = evaluate(agent, args, "spatia_env:SpatiaSim-v0", scenes)
        result["true_return"] = round(float(np.mean(returns)), 4)
    return result


if __name__ == "__main__":
    print(json.dumps(main(tyro.cli(Args))))
