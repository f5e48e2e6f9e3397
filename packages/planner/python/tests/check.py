"""Run by `npm run test:gym`: the environments against Gymnasium's own checkers, and what they promise beyond."""

import sys
import time
import warnings

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env

import armature_gym

failed = 0


def check(name: str, right: bool, detail: str = "") -> None:
    global failed
    failed += not right
    print(("ok     " if right else "FAILED ") + name + (f": {detail}" if detail else ""), flush=True)


with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    env = gymnasium.make("armature/Fleet-v0", hours=0.1)
    check_env(env.unwrapped, skip_render_check=True)
    gym_warnings = [str(warning.message) for warning in seen if "gymnasium" in str(warning.filename)]
check("gymnasium.utils.env_checker.check_env passes without a warning", not gym_warnings, "; ".join(gym_warnings))


def episode(seed: int, level: float, env=env):
    observation, _ = env.reset(seed=seed)
    rows, rewards, done, info = [observation], [], False, {}
    while not done:
        observation, reward, terminated, truncated, info = env.step(np.full(2, level, dtype=np.float32))
        rows.append(observation)
        rewards.append(reward)
        done = terminated or truncated
    return np.stack(rows), np.array(rewards), info


first, second, other = episode(3, 0.0), episode(3, 0.0), episode(4, 0.0)
check("an episode is its seed and its actions", np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1]) and not np.array_equal(first[0], other[0]), f"{len(first[1])} steps")
check("an episode tells what it came to", first[2]["episode"]["arrived"] > 100, str(first[2]["episode"]))

many = gymnasium.make_vec("armature/Fleet-v0", num_envs=8, scenarios="drawn", hours=0.1)
observations, _ = many.reset(seed=1)
started, steps, ends = time.perf_counter(), 0, 0
for _ in range(60):
    observations, rewards, terminated, truncated, infos = many.step(many.action_space.sample())
    steps, ends = steps + many.num_envs, ends + int(truncated.sum())
    if not many.observation_space.contains(observations):
        check("observations lie in their space", False)
        break
check("eight fleets in one process, beginning anew when they end", ends == 16 and len(np.unique(observations, axis=0)) == 8, f"{ends} ends, {steps / (time.perf_counter() - started):.0f} steps/s")
many.close()

# Something is there to be learnt: starving the fleet earns less than leaving room.
starved, roomy = [np.mean([episode(seed, level)[1].sum() for seed in range(5, 9)]) for level in (-1.0, 0.0)]
check("actions matter: 0.7 of what rates need earns less than 1.4 of it", starved < roomy, f"{starved:.1f} < {roomy:.1f}")

try:
    env.unwrapped.step(np.array([np.nan, 0.0]))
    check("an action that is no number is refused", False)
except (armature_gym.GroundError, ValueError) as error:
    check("an action that is no number is refused", True, str(error)[:80])
env.close()
try:
    armature_gym.Ground(["/nowhere/armature"])
    check("a program that is not there is said", False)
except armature_gym.GroundError as error:
    check("a program that is not there is said", error.code == "GROUND_UNAVAILABLE", str(error)[:80])
print("test:gym: " + ("all right" if failed == 0 else f"{failed} failed"))
sys.exit(1 if failed else 0)
