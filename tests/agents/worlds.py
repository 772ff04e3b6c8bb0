"""Environments whose every transition is known beforehand.

In the counting environments an observation says where it stands: ``(environment, episode, step, action taken)``.
Length and end of each episode follow from environment and episode by :func:`episode`, so that a test computes what
must be stored without playing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import EzPickle
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

Info: TypeAlias = dict[str, Any]

MODES = list(AutoresetMode)
FIRST_ACTION = 5  # the counting environments number their actions from here


class Episode(NamedTuple):
    """How an episode goes."""

    length: int
    terminated: bool
    truncated: bool


def episode(env: int, number: int) -> Episode:
    """The episode ``number`` of environment ``env``: 1 to 5 steps; terminated, truncated or both at once."""
    length = 1 + (3 * env + 2 * number) % 5
    kind = (env + number) % 3
    return Episode(length, terminated=kind != 1, truncated=kind != 0)


def reward_of(env: int, number: int, step: int) -> float:
    """The reward of the step that leads to ``step``: different for every transition, exact in float32."""
    return 1000.0 * env + 10.0 * number + step


class Step(NamedTuple):
    """A transition of the counting environments."""

    env: int
    episode: int
    step: int
    reward: float
    terminated: bool
    truncated: bool


def history(env: int, steps: int) -> list[Step]:
    """The first transitions of an environment; ``step`` counts from 0 at the start of the episode."""
    result: list[Step] = []
    number = 0
    while len(result) < steps:
        length, terminated, truncated = episode(env, number)
        for t in range(length):
            last = t == length - 1
            result.append(Step(env, number, t, reward_of(env, number, t + 1), last and terminated, last and truncated))
        number += 1
    return result[:steps]


class Counting(gymnasium.Env[np.ndarray, np.int64]):
    """One counting environment; the seed of the first reset is its number."""

    observation_space = spaces.Box(-1.0, 1e6, (4,), np.float64)
    action_space = spaces.Discrete(3, start=FIRST_ACTION)

    def __init__(self) -> None:
        self.number = -1
        self.episode = -1
        self.count = 0

    def _observation(self, action: int) -> np.ndarray:
        return np.array([self.number, self.episode, self.count, action], np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Info]:
        super().reset(seed=seed)
        if seed is not None:
            self.number, self.episode = seed, -1
        self.episode += 1
        self.count = 0
        return self._observation(-1), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, Info]:
        assert self.action_space.contains(action), f"{action} is not in {self.action_space}"
        length, terminated, truncated = episode(self.number, self.episode)
        assert self.count < length, "stepped after the end of the episode"
        self.count += 1
        last = self.count == length
        reward = reward_of(self.number, self.episode, self.count)
        return self._observation(int(action)), reward, last and terminated, last and truncated, {}


def possible(env: int, number: int, step: int) -> list[bool]:
    """Which actions are possible in the masked counting environments: none after the last step of an episode."""
    if step == episode(env, number).length:
        return [False] * 3
    return [step % 2 == 0, (env + number) % 3 == 0, step % 2 == 1]


class Masked(Counting):
    """A counting environment in which not every action is always possible; it says so, and insists on it."""

    def _info(self) -> Info:
        return {"action_mask": np.array(possible(self.number, self.episode, self.count), np.int8)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Info]:
        return super().reset(seed=seed, options=options)[0], self._info()

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, Info]:
        assert self._info()["action_mask"][action - FIRST_ACTION], f"{action} is not possible"
        observation, reward, terminated, truncated, _ = super().step(action)
        return observation, reward, terminated, truncated, self._info()


class CountingVector(VectorEnv):
    """Counting environments as someone's own ``VectorEnv``: it writes into the same arrays at every step."""

    def __init__(self, num_envs: int, autoreset_mode: AutoresetMode | None) -> None:
        self.num_envs = num_envs
        self.mode = autoreset_mode or AutoresetMode.NEXT_STEP
        self.metadata = {} if autoreset_mode is None else {"autoreset_mode": autoreset_mode}
        self.single_observation_space = Counting.observation_space
        self.single_action_space = Counting.action_space
        self.envs = [Counting() for _ in range(num_envs)]
        self.observations = np.zeros((num_envs, 4))
        self.final = np.zeros((num_envs, 4))
        self.rewards = np.zeros(num_envs)
        self.terminations = np.zeros(num_envs, np.bool_)
        self.truncations = np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, np.bool_))
        for i in np.flatnonzero(mask):
            assert not isinstance(seed, list)
            self.observations[i], _ = self.envs[i].reset(seed=None if seed is None else seed + int(i))
        self.terminations[mask] = False
        self.truncations[mask] = False
        return self.observations, {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        info: dict[str, Any] = {}
        for i, env in enumerate(self.envs):
            if self.mode is AutoresetMode.NEXT_STEP and (self.terminations[i] or self.truncations[i]):
                self.observations[i], _ = env.reset()
                self.rewards[i], self.terminations[i], self.truncations[i] = np.nan, False, False  # no reward at all
                continue
            observation, self.rewards[i], self.terminations[i], self.truncations[i], _ = env.step(actions[i])
            self.observations[i] = observation
            if self.mode is AutoresetMode.SAME_STEP and (self.terminations[i] or self.truncations[i]):
                self.final[i] = observation
                info = {"final_obs": self.final}
                self.observations[i], _ = env.reset()
        return self.observations, self.rewards, self.terminations, self.truncations, info


def sync(make: Callable[[], gymnasium.Env[Any, Any]], num_envs: int, mode: AutoresetMode) -> SyncVectorEnv:
    return SyncVectorEnv([make] * num_envs, autoreset_mode=mode)


def counting(kind: str, num_envs: int, mode: AutoresetMode) -> VectorEnv:
    """Counting environments as ``"sync"``, ``"async"`` or ``"custom"`` vector environment."""
    if kind == "custom":
        return CountingVector(num_envs, mode)
    if kind == "async":
        return AsyncVectorEnv([Counting] * num_envs, autoreset_mode=mode)
    return sync(Counting, num_envs, mode)


class Forever(gymnasium.Env[np.ndarray, np.int64]):
    """Reward 1 at every step, for ever, seen from the same place; a time limit cuts it."""

    observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, limit: int = 4) -> None:
        self.limit = limit
        self.count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Info]:
        super().reset(seed=seed)
        self.count = 0
        return np.ones(1, np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, Info]:
        self.count += 1
        return np.ones(1, np.float32), 1.0, False, self.count >= self.limit, {}


class Chain(gymnasium.Env[np.int64, np.int64]):
    """Five states in a row; only a step right from the last one is rewarded, and ends the episode."""

    observation_space = spaces.Discrete(5, start=1)
    action_space = spaces.Discrete(2)

    def __init__(self, limit: int = 20) -> None:
        self.limit = limit
        self.state = 0
        self.count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.int64, Info]:
        super().reset(seed=seed)
        self.state = self.count = 0
        return np.int64(1), {}

    def step(self, action: np.int64) -> tuple[np.int64, float, bool, bool, Info]:
        self.count += 1
        at_goal = self.state == 4 and action == 1
        self.state = min(self.state + 1, 4) if action == 1 else max(self.state - 1, 0)
        return np.int64(self.state + 1), float(at_goal), at_goal, self.count >= self.limit, {}


class Target(gymnasium.Env[np.ndarray, np.ndarray]):
    """One step: the reward is minus the squared distance of the action to (0.5, -0.5)."""

    observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Info]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, Info]:
        assert self.action_space.contains(action), f"{action} is not in {self.action_space}"
        return np.zeros(2, np.float32), -float(np.square(action - np.array([0.5, -0.5])).sum()), True, False, {}


class Pictures(gymnasium.Env[np.ndarray, np.int64]):
    """Images of 36 x 40 pixels; the step is the brightness of all of them."""

    observation_space = spaces.Box(0, 255, (36, 40, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Info]:
        super().reset(seed=seed)
        self.count = 0
        return np.zeros((36, 40, 3), np.uint8), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, Info]:
        self.count += 1
        return np.full((36, 40, 3), self.count, np.uint8), 1.0, False, self.count == 3, {}


class Stubborn(Forever, EzPickle):
    """An environment that pickles no more than its constructor's arguments; episodes of random length."""

    def __init__(self, limit: int = 4) -> None:
        Forever.__init__(self, limit)
        EzPickle.__init__(self, limit)


class Failing(Forever):
    """Fails at a step, in the way that is asked for, in the environment whose seed is ``which``.

    ``raise``, ``reward`` and ``observation`` (NaN) are faults; ``loss`` returns a reward whose square is infinite;
    ``SIGTERM`` and ``SIGINT`` send the signal to the process; ``reset`` raises in the reset after the step.
    """

    def __init__(self, how: str, at: int = 10, which: int = 1, limit: int = 1000) -> None:
        super().__init__(limit)
        self.how = how
        self.at = at
        self.which = which
        self.number = -1
        self.total = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Info]:
        if seed is not None:
            self.number = seed
        if self.how == "reset" and self.total >= self.at:
            raise RuntimeError("cannot begin again")
        return super().reset(seed=seed, options=options)

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, Info]:
        observation, reward, terminated, truncated, info = super().step(action)
        self.total += 1
        if self.total == self.at and self.number == self.which:
            if self.how == "raise":
                raise RuntimeError("the robot fell over\nand broke")
            if self.how == "reward":
                reward = float("nan")
            if self.how == "observation":
                observation = np.full(1, np.nan, np.float32)
            if self.how == "loss":
                reward = 1e30
            if self.how.startswith("SIG"):
                os.kill(os.getpid(), getattr(signal, self.how))
        return observation, reward, terminated, truncated, info


class Wide(gymnasium.Env[np.ndarray, np.int64]):
    """Many numbers, the first of them NaN from the second step on: too long for one line of numpy."""

    observation_space = spaces.Box(-np.inf, np.inf, (50,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.count = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, Info]:
        super().reset(seed=seed)
        return np.linspace(0, 1, 50, dtype=np.float32), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, Info]:
        self.count += 1
        observation = np.linspace(0, 1, 50, dtype=np.float32)
        if self.count > 1:
            observation[0] = np.nan
        return observation, 0.0, False, False, {}


# "tests.agents.worlds:Chain-v0" names them on the command line.
for _class in (Counting, Masked, Forever, Chain, Target, Pictures, Stubborn, Failing, Wide):
    _id = f"{_class.__name__}-v0"
    if _id not in gymnasium.registry:
        gymnasium.register(_id, entry_point=f"{__name__}:{_class.__name__}", disable_env_checker=True)
