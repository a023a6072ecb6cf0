"""Open a generated world, walk three steps, keep what you saw."""

import gymnasium as gym
from PIL import Image

env = gym.make("spatia_env:Spatia-v0")
observation, info = env.reset(seed=7)
for event in ("", "a red ball rolls in", ""):
    action = {"camera": [0, 0, 0.5, 0, 0.3, 0], "event": event}  # half ahead, a third to the right
    observation, reward, terminated, truncated, info = env.step(action)
Image.fromarray(observation["frames"][-1]).save("hello.png")
env.close()
