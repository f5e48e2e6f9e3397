"""Armature's training ground for Gymnasium.

>>> import gymnasium, armature_gym
>>> env = gymnasium.make("armature/Fleet-v0", command=["npx", "armature"])   # doctest: +SKIP

Observation and action spaces are told by the ground itself; `FleetEnv.observation_names` and `FleetEnv.action_names` name
their entries. Rewards are requests within the objective, less what was late and what the GPUs cost, per request of a busy tick.
"""

from .env import FleetEnv, FleetVectorEnv
from .ground import Ground, GroundError

__all__ = ["FleetEnv", "FleetVectorEnv", "Ground", "GroundError", "register"]


def register() -> None:
    """Registers `armature/Fleet-v0`; called by Gymnasium through the package's entry point."""
    import gymnasium

    if "armature/Fleet-v0" not in gymnasium.registry:
        gymnasium.register(id="armature/Fleet-v0", entry_point="armature_gym:FleetEnv", vector_entry_point="armature_gym:FleetVectorEnv")


register()
