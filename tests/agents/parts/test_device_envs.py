"""Device environments: Gymnasium's to everyone, pure functions of tensors inside."""

from __future__ import annotations

from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from torch import Tensor

from agents.parts.device_envs import DeviceEnv, DeviceVectorEnv, Episodes, advance
from agents.parts.envs import Envs, make_vec
from tests.conftest import mostly_slow

IDS = ["rlloss/CartPole-v1", "rlloss/Acrobot-v1", "rlloss/MountainCar-v0", "rlloss/Pendulum-v1"]
every_id = pytest.mark.parametrize("env_id", IDS)


class Counter(DeviceEnv):
    """Counts its steps up to where the episode ends, which is drawn: 1 to 4; the reward is the number of the step."""

    observation_space: spaces.Space[Any] = spaces.Box(0.0, 10.0, (2,))
    action_space: spaces.Space[Any] = spaces.Discrete(2)
    num_uniforms = 1

    def reset(self, uniform: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(uniform), (4 * uniform).floor() + 1], -1)

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        count, end = state.unbind(-1)
        count = count + 1
        return torch.stack([count, end], -1), count, count >= end


def make(env_id: str, num_envs: int = 3) -> DeviceVectorEnv:
    env = make_vec(env_id, num_envs)
    assert isinstance(env, DeviceVectorEnv)
    return env


def play(env: DeviceVectorEnv, steps: int, seed: int | None = None) -> list[np.ndarray]:
    played = [env.reset(seed=seed)[0]] if seed is not None else []
    for _ in range(steps):
        actions = env.action_space.sample()
        observation, reward, terminated, truncated, info = env.step(actions)
        assert env.observation_space.contains(observation)
        assert reward.shape == terminated.shape == truncated.shape == (env.num_envs,)
        ended = terminated | truncated
        assert ended.any() == ("final_obs" in info)
        for index in np.flatnonzero(ended):
            assert info["_final_obs"].tolist() == ended.tolist()
            final = info["final_obs"][index]
            assert final.dtype == np.float32 and final.shape == env.single_observation_space.shape
            # Where CartPole's velocity is infinite in its space, positions leave theirs by one step at most.
            assert env.single_observation_space.contains(final)
        played += [observation, reward, terminated, truncated]
    return played


@every_id
def test_spaces_contain_what_comes_and_seeds_repeat_it(env_id: str) -> None:
    env, same = make(env_id), make(env_id)
    runs = []
    for each, seed in ((env, 5), (same, 5), (same, 6)):
        each.action_space.seed(0)
        runs.append(play(each, 450, seed))
    assert all(np.array_equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not np.array_equal(runs[0][0], runs[2][0])
    goes_on, _ = env.reset()
    assert not np.array_equal(goes_on, runs[0][0]), "a reset without a seed begins other episodes"


def test_without_a_seed_two_differ() -> None:
    assert not np.array_equal(make(IDS[0]).reset()[0], make(IDS[0]).reset()[0])


@every_id
def test_a_pickle_goes_on(env_id: str) -> None:
    env = make(env_id)
    env.action_space.seed(0)
    play(env, 30, seed=1)
    other = cloudpickle.loads(cloudpickle.dumps(env))
    for _ in range(220):
        actions = env.action_space.sample()
        one, two = env.step(actions), other.step(actions)
        assert all(np.array_equal(a, b) for a, b in zip(one[:4], two[:4], strict=True))


@every_id
def test_gymnasium_takes_a_single_one(env_id: str) -> None:
    env = gymnasium.make(env_id)
    check_env(env.unwrapped, skip_render_check=True)
    env.reset(seed=0)
    env.action_space.seed(0)
    steps = 0
    ended = False
    while not ended:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        ended, steps = terminated or truncated, steps + 1
    assert truncated == (steps == gymnasium.spec(env_id).max_episode_steps)


@pytest.mark.filterwarnings("error")
def test_gymnasiums_wrapper_sees_whole_episodes() -> None:
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(make(IDS[2]))
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(200):
        *_, truncated, info = env.step(env.action_space.sample())
    assert truncated.all()
    assert info["episode"]["l"].tolist() == [200] * 3 and info["episode"]["r"].tolist() == [-200.0] * 3


def test_autoreset() -> None:
    """Counters whose every number is known: what follows an end is a new episode, and its last step is not lost."""
    env = DeviceVectorEnv(Counter, 5, max_episode_steps=3)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    observation, _ = env.reset(seed=0)
    seen = set()
    for _ in range(60):
        before = observation
        observation, reward, terminated, truncated, info = env.step(np.zeros(5, int))
        count, end = before[:, 0] + 1, before[:, 1]
        assert reward.tolist() == count.tolist()
        assert terminated.tolist() == (count >= end).tolist()
        assert truncated.tolist() == (count >= 3).tolist()
        for index in range(5):
            kind = bool(terminated[index]), bool(truncated[index])
            seen.add(kind)
            if any(kind):
                assert info["final_obs"][index].tolist() == [count[index], end[index]]
                assert observation[index, 0] == 0
            else:
                assert observation[index].tolist() == [count[index], end[index]]
    assert seen == {(False, False), (True, False), (False, True), (True, True)}


def test_returns_and_lengths_of_episodes() -> None:
    env = DeviceVectorEnv(Counter, 4)
    env.reset(seed=0)
    returns, lengths = np.zeros(4), np.zeros(4, int)
    for _ in range(40):
        uniform = env.draw(1)[0]
        env.episodes, outcome = advance(env.rules, env.episodes, torch.zeros(4, dtype=torch.int64), uniform, None)
        returns, lengths = returns + outcome.reward.numpy(), lengths + 1
        assert outcome.episode_return.tolist() == returns.tolist() and outcome.length.tolist() == lengths.tolist()
        ended = (outcome.terminated | outcome.truncated).numpy()
        returns[ended] = lengths[ended] = 0
        assert env.episodes.episode_return.tolist() == returns.tolist()
        assert env.episodes.length.tolist() == lengths.tolist()


def test_one_draw_for_many_steps() -> None:
    env = DeviceVectorEnv(Counter, 4)
    env.reset(seed=0)
    many = env.draw(7)
    env.reset(seed=0)
    assert torch.equal(many, torch.cat([env.draw(1) for _ in range(7)]))


def inputs(env: DeviceVectorEnv, device: str) -> tuple[Episodes, Tensor, Tensor]:
    env.reset(seed=0)
    action = torch.as_tensor(env.action_space.sample())
    tensors = [tensor.to(device) for tensor in (*env.episodes, action, env.draw(1)[0])]
    return Episodes(*tensors[:3]), tensors[3], tensors[4]


@every_id
def test_nothing_is_read_back(env_id: str) -> None:
    """The device "meta" has no values that could be."""
    env = make(env_id)
    episodes, action, uniform = inputs(env, "meta")
    episodes, outcome = advance(env.rules, episodes, action, uniform, env.max_episode_steps)
    assert all(tensor.is_meta for tensor in (*episodes, *outcome))
    assert outcome.successor.shape == (3, *env.single_observation_space.shape)  # type: ignore[misc]
    dtypes = [tensor.dtype for tensor in (*episodes, *outcome[1:])]
    flags = [torch.float32, torch.bool, torch.bool]
    assert dtypes == [torch.float32, torch.int32, torch.float32, *flags, torch.int32, torch.float32]


@pytest.mark.parametrize("env_id", mostly_slow(IDS, keep=["rlloss/Acrobot-v1"]))
def test_a_step_is_one_graph(env_id: str) -> None:
    """``fullgraph`` raises at a graph break."""
    env = make(env_id)
    given = inputs(env, "cpu")
    compiled = torch.compile(advance, fullgraph=True, backend="aot_eager")
    one, two = (function(env.rules, *given, env.max_episode_steps) for function in (advance, compiled))
    for a, b in zip((*one[0], *one[1]), (*two[0], *two[1]), strict=True):
        torch.testing.assert_close(a, b)


def test_transitions_through_envs() -> None:
    """The plain way, by host memory: the true successor at an end, and no row that only resets."""
    envs = Envs(DeviceVectorEnv(Counter, 5, max_episode_steps=3))
    envs.reset(0)
    assert not envs.spec.has_reset_steps
    finished = 0
    for _ in range(30):
        transitions = envs.step(torch.zeros(5, dtype=torch.int64))
        assert torch.equal(transitions.next_observation[:, 0], transitions.observation[:, 0] + 1)
        finished += len(envs.finished)
        assert all(episode_return == sum(range(length + 1)) for _, episode_return, length in envs.finished)
    assert envs.steps == 150 and finished > 20


class Named(Counter):
    """With other spaces."""

    def __init__(self, observation_space: Any = None, action_space: Any = None) -> None:
        self.observation_space = observation_space or Counter.observation_space
        self.action_space = action_space or Counter.action_space


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_envs": 0}, "num_envs"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"observation_space": spaces.MultiBinary(3)}, "Named: observation_space must be a Box or a Discrete"),
        ({"action_space": spaces.Text(3)}, "Named: action_space must be a Discrete"),
        ({"action_space": spaces.Discrete(3, start=1)}, "numbered from 0"),
    ],
)
def test_what_is_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        DeviceVectorEnv(Named, **arguments)
