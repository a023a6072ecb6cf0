"""Gymnasium environments over a generated world that remembers itself.

Importing this package registers the ids below and loads nothing heavy:

    import gymnasium as gym
    env = gym.make("spatia_env:Spatia-v0")

`Spatia-v0` takes camera twists and event texts, `SpatiaPath-v0` whole camera paths, `SpatiaDiscrete-v0` and
`SpatiaRL-v0` are what reinforcement-learning libraries read. See docs/conventions.md for axes and units.
"""

import gymnasium as _gym

__version__ = "0.1.0"

MAX_EPISODE_STEPS = 50

_ENTRY_POINTS = {
    "Spatia-v0": ("spatia_env.env:SpatiaEnv", {}),
    "SpatiaPath-v0": ("spatia_env.env:SpatiaEnv", {"action": "path"}),
    "SpatiaDiscrete-v0": ("spatia_env.wrappers:make_discrete", {}),
    "SpatiaRL-v0": ("spatia_env.wrappers:make_rl", {}),
}

for _id, (_entry_point, _kwargs) in _ENTRY_POINTS.items():
    if _id not in _gym.registry:
        _gym.register(_id, entry_point=_entry_point, max_episode_steps=MAX_EPISODE_STEPS, kwargs=_kwargs)
