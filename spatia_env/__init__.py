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
    "SpatiaExplore-v0": ("spatia_env.env:SpatiaEnv", {"task": "explore"}),
    "SpatiaImageGoal-v0": ("spatia_env.env:SpatiaEnv", {"task": "image_goal"}),
    "SpatiaReturnHome-v0": ("spatia_env.env:SpatiaEnv", {"task": "return_home"}),
    "SpatiaFind-v0": ("spatia_env.env:SpatiaEnv", {"task": "find"}),
    "SpatiaSim-v0": ("spatia_env.wrappers:make_simulated", {}),
}
_VECTOR_ENTRY_POINTS = {
    "SpatiaDiscrete-v0": "spatia_env.vector.sync:make_discrete_vec",
    "SpatiaRL-v0": "spatia_env.vector.sync:make_rl_vec",
    "SpatiaSim-v0": None,  # nothing to batch
}

for _id, (_entry_point, _kwargs) in _ENTRY_POINTS.items():
    if _id not in _gym.registry:
        _gym.register(
            _id,
            entry_point=_entry_point,
            vector_entry_point=_VECTOR_ENTRY_POINTS.get(_id, "spatia_env.vector.sync:SpatiaVectorEnv"),
            max_episode_steps=MAX_EPISODE_STEPS,
            kwargs=_kwargs,
        )
