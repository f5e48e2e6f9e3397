"""Gymnasium environments over a `Ground`."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Tuple

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from .ground import Ground

Array = np.ndarray
SEEDS = 2**31


def _box(entries: Sequence[Dict[str, Any]]) -> spaces.Box:
    low = np.array([entry["low"] for entry in entries], dtype=np.float32)
    high = np.array([entry["high"] for entry in entries], dtype=np.float32)
    return spaces.Box(low, high, dtype=np.float32)


def _names(entries: Sequence[Dict[str, Any]]) -> List[str]:
    return [entry["name"] for entry in entries]


class FleetEnv(gymnasium.Env):
    """One fleet. An episode is `hours` of its time, one step 15 s; it is truncated at its end and never terminates before.

    `scenarios`: "shift" is always the fleet of the planner's claims, "drawn" another fleet and traffic per seed.
    """

    metadata: Dict[str, Any] = {"render_modes": []}

    def __init__(self, scenarios: str = "shift", hours: float = 2.0, command: Optional[Sequence[str]] = None, render_mode: Optional[str] = None) -> None:
        if render_mode is not None:
            raise ValueError("there is nothing to render: render_mode must be None")
        self.render_mode = None
        self._ground = Ground(command)
        self.observation_space = _box(self._ground.spaces["observation"])
        self.action_space = _box(self._ground.spaces["action"])
        self.observation_names = _names(self._ground.spaces["observation"])
        self.action_names = _names(self._ground.spaces["action"])
        self._ground.ask({"op": "make", "count": 1, "scenarios": scenarios, "hours": hours})

    def reset(self, *, seed: Optional[int] = None, options: Optional[Dict[str, Any]] = None) -> Tuple[Array, Dict[str, Any]]:
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(SEEDS))
        answer = self._ground.ask({"op": "reset", "env": 0, "seed": drawn})
        return np.asarray(answer["observation"], dtype=np.float32), {"seed": drawn}

    def step(self, action: Array) -> Tuple[Array, float, bool, bool, Dict[str, Any]]:
        values = [float(value) for value in np.asarray(action, dtype=np.float64)]
        step = self._ground.ask({"op": "step", "actions": [values]})["steps"][0]
        return np.asarray(step["observation"], dtype=np.float32), float(step["reward"]), False, bool(step["truncated"]), step["info"]

    def close(self) -> None:
        self._ground.close()


class FleetVectorEnv(gymnasium.vector.VectorEnv):
    """`num_envs` fleets in one process, stepped by one message. A fleet whose episode has ended begins anew with the next step (`NEXT_STEP`)."""

    metadata: Dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(self, num_envs: int = 1, scenarios: str = "shift", hours: float = 2.0, command: Optional[Sequence[str]] = None, **_: Any) -> None:
        self.num_envs = num_envs
        self.render_mode = None
        self._ground = Ground(command)
        self.single_observation_space = _box(self._ground.spaces["observation"])
        self.single_action_space = _box(self._ground.spaces["action"])
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_names = _names(self._ground.spaces["observation"])
        self.action_names = _names(self._ground.spaces["action"])
        self._ended = np.zeros(num_envs, dtype=bool)
        self._ground.ask({"op": "make", "count": num_envs, "scenarios": scenarios, "hours": hours})

    def _reset_one(self, index: int) -> Array:
        answer = self._ground.ask({"op": "reset", "env": index, "seed": int(self.np_random.integers(SEEDS))})
        return np.asarray(answer["observation"], dtype=np.float32)

    def reset(self, *, seed: Optional[int] = None, options: Optional[Dict[str, Any]] = None) -> Tuple[Array, Dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._np_random, self._np_random_seed = gymnasium.utils.seeding.np_random(seed)
        self._ended[:] = False
        return np.stack([self._reset_one(index) for index in range(self.num_envs)]), {}

    def step(self, actions: Array) -> Tuple[Array, Array, Array, Array, Dict[str, Any]]:
        values: List[Optional[List[float]]] = [None if self._ended[i] else [float(value) for value in action] for i, action in enumerate(np.asarray(actions, dtype=np.float64))]
        steps = self._ground.ask({"op": "step", "actions": values})["steps"]
        observations = np.zeros(self.observation_space.shape, dtype=np.float32)
        rewards = np.zeros(self.num_envs, dtype=np.float64)
        truncated = np.zeros(self.num_envs, dtype=bool)
        infos: Dict[str, Any] = {}
        for i, step in enumerate(steps):
            if step is None:
                observations[i] = self._reset_one(i)
                continue
            observations[i] = step["observation"]
            rewards[i] = step["reward"]
            truncated[i] = step["truncated"]
            infos = self._add_info(infos, step["info"], i)
        self._ended = truncated.copy()
        return observations, rewards, np.zeros(self.num_envs, dtype=bool), truncated, infos

    def close_extras(self, **_: Any) -> None:
        self._ground.close()
