"""Environments one after the other: what Gymnasium's own vector gives, to the last bit."""

from __future__ import annotations

from functools import partial
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from agents.parts.envs import Envs
from agents.parts.errors import EnvironmentFault
from agents.parts.sync_env import InTurn
from tests.agents import worlds

IDS = [
    "CartPole-v1",
    "Pendulum-v1",
    "FrozenLake-v1",
    *(f"tests.agents.worlds:{name}-v0" for name in ("Counting", "Masked", "Forever", "Chain", "Target", "Pictures")),
]


def make(env_id: str) -> gymnasium.Env[Any, Any]:
    return gymnasium.make(env_id, max_episode_steps=7 if env_id == "Pendulum-v1" else None)


def assert_same(a: Any, b: Any) -> None:
    """Arrays of one type, at any depth of dicts and objects."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
        return
    assert a.dtype == b.dtype and a.shape == b.shape
    if a.dtype == np.object_:
        for x, y in zip(a.flat, b.flat, strict=True):
            assert (x is None) == (y is None)
            if x is not None:
                assert_same(np.asarray(x), np.asarray(y))
    else:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("env_id", IDS)
def test_steps_are_those_of_gymnasium_s_vector(env_id: str, num_envs: int) -> None:
    fns = [partial(make, env_id)] * num_envs
    own, peer = InTurn(fns), SyncVectorEnv(fns, autoreset_mode=AutoresetMode.SAME_STEP)
    assert own.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    infos = [own.reset(seed=3)[1], peer.reset(seed=3)[1]]
    own.action_space.seed(0)
    ended = 0
    for _ in range(100):
        actions = own.action_space.sample()
        if env_id.endswith("Masked-v0"):
            actions = worlds.FIRST_ACTION + infos[0]["action_mask"].argmax(1)
        kept, found, expected = cloudpickle.dumps(own), own.step(actions), peer.step(actions)
        infos = [found[-1], expected[-1]]
        for x, y in zip(found[:-1], expected[:-1], strict=True):
            assert_same(x, y)
        assert_same(*infos)
        again = cloudpickle.loads(kept).step(actions)
        assert_same(again[0], found[0])
        ended += int(np.count_nonzero(found[2] | found[3]))
    assert ended > 0


@pytest.mark.parametrize("env_id", ["CartPole-v1", "tests.agents.worlds:Pictures-v0", "FrozenLake-v1"])
@pytest.mark.parametrize("narrower", [False, True])
def test_what_was_returned_stays(env_id: str, narrower: bool) -> None:
    def make_one() -> gymnasium.Env[Any, Any]:
        env = make(env_id)
        if not narrower:
            return env
        return gymnasium.wrappers.TransformObservation(env, lambda x: np.asarray(x, np.uint8), env.observation_space)

    env = InTurn([make_one] * 2)
    env.reset(seed=0)
    first = env.step(np.array([0, 1]))[:-1]
    before = [x.copy() for x in first]
    for _ in range(60):
        env.step(np.array([1, 0]))
    for x, y in zip(first, before, strict=True):
        np.testing.assert_array_equal(x, y)


class Odd(gymnasium.Env[Any, Any]):
    """Returns what it is told to."""

    observation_space = spaces.Box(0, 9, (2,), np.uint8)
    action_space = spaces.Discrete(2)
    returned: Any = np.zeros(2, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        return np.zeros(2, np.uint8), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.returned, 0.0, False, False, {}


@pytest.mark.parametrize("returned", [np.zeros(3, np.uint8), np.uint8(1), np.zeros((2, 1), np.uint8), np.full(2, 0.5)])
def test_observations_that_do_not_fit_are_refused(returned: Any) -> None:
    envs = Envs(InTurn([Odd, Odd]))
    envs.reset(0)
    envs.env.envs[0].returned = returned  # type: ignore[attr-defined]
    with pytest.raises(EnvironmentFault, match=r"environment 0 raised .* at step 0"):
        envs.step(envs.observation[:, 0].long())


class Same(worlds.Forever):
    """Returns the same array at every step: how many steps of the episode there were."""

    array = np.zeros(1, np.float32)

    def reset(self, **options: Any) -> Any:
        super().reset(**options)
        self.array[:] = 0.0
        return self.array, {}

    def step(self, action: np.int64) -> Any:
        _, *rest = super().step(action)
        self.array[:] = self.count
        return self.array, *rest


def test_the_last_observation_is_not_that_of_the_reset() -> None:
    env = InTurn([partial(Same, 2)])
    env.reset()
    env.step(np.array([0]))
    observation, *_, info = env.step(np.array([0]))
    assert (observation.tolist(), info["final_obs"].tolist()) == ([[0.0]], [[2.0]])


def test_observations_of_a_narrower_type_become_the_space_s() -> None:
    env = InTurn([Odd])
    env.reset()
    env.envs[0].returned = np.array([True, False])  # type: ignore[attr-defined]
    observation = env.step(np.array([0]))[0]
    assert observation.dtype == np.uint8 and observation.tolist() == [[1, 0]]
