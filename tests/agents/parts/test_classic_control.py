"""Classic control on the device, step by step against Gymnasium's own."""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from agents.parts.classic_control import Acrobot, CartPole, MountainCar, Pendulum, _wrap
from agents.parts.device_envs import DeviceEnv, DeviceVectorEnv, Episodes, advance

STEPS = 10_000
ENVS: dict[str, type[DeviceEnv]] = {
    "CartPole-v1": CartPole, "Acrobot-v1": Acrobot, "MountainCar-v0": MountainCar, "Pendulum-v1": Pendulum,
}  # fmt: skip
every_env = pytest.mark.parametrize("name", ENVS)


def random_actions(name: str, rng: np.random.Generator) -> np.ndarray:
    """Actions for all steps: at random and now and then kept, since that is what reaches walls, bounds and goals."""
    kept = np.repeat(np.arange(STEPS // 20), 20)
    sticky = rng.random(STEPS // 20)[kept] < 0.5
    if name == "Pendulum-v1":
        actions = rng.uniform(-2.5, 2.5, (STEPS, 1))  # beyond the bounds too
        return np.where(sticky[:, None], actions[kept * 20], actions)
    n = 2 if name == "CartPole-v1" else 3
    choices = rng.integers(n, size=STEPS)
    return np.where(sticky, choices[kept * 20], choices)


class Record(NamedTuple):
    """10,000 steps of Gymnasium's own environment, whose episodes began in states of ours."""

    state: Tensor
    action: Tensor
    next_state: Tensor
    observation: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    length: Tensor


def record(name: str) -> Record:
    rules, env = ENVS[name](), gymnasium.make(name, disable_env_checker=True)
    plain: Any = env.unwrapped
    generator = torch.Generator().manual_seed(0)
    actions = random_actions(name, np.random.default_rng(0))
    rows: list[tuple[Any, ...]] = []
    ended, length = True, 0
    for action in actions:
        if ended:
            env.reset(seed=0)
            uniform = torch.rand(1, rules.num_uniforms, generator=generator, dtype=torch.float64)
            plain.state, length = rules.reset(uniform)[0].numpy(), 0
        before, length = np.array(plain.state), length + 1
        observation, reward, terminated, truncated, _ = env.step(action)
        ended = terminated or truncated
        rows.append((before, action, np.array(plain.state), observation, float(reward), terminated, truncated, length))
    return Record(*(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)))


@every_env
def test_as_gymnasiums_own(name: str) -> None:
    """10,000 steps, each from the state that Gymnasium was in: exact in float64, in float32 to its precision."""
    steps, rules = record(name), ENVS[name]()
    assert steps.state.dtype == torch.float64 and len(steps.state) == STEPS
    assert (steps.terminated | steps.truncated).sum() > 15
    state, reward, terminated = rules.step(steps.state, steps.action)
    torch.testing.assert_close(state, steps.next_state, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(reward, steps.reward, rtol=1e-12, atol=1e-12)
    assert torch.equal(terminated, steps.terminated)
    torch.testing.assert_close(rules.observe(state).float(), steps.observation, rtol=1e-6, atol=1e-6)

    env = DeviceVectorEnv(ENVS[name], STEPS, max_episode_steps=gymnasium.spec(name).max_episode_steps)
    env.reset(seed=0)
    action = steps.action.float() if steps.action.is_floating_point() else steps.action
    episodes = Episodes(steps.state.float(), (steps.length - 1).int(), torch.zeros(STEPS))
    episodes, outcome = advance(rules, episodes, action, env.draw(1)[0], env.max_episode_steps)
    assert episodes.state.dtype == outcome.reward.dtype == torch.float32
    assert_near(name, rules.step(steps.state.float(), action)[0], steps.next_state)
    torch.testing.assert_close(outcome.successor, steps.observation, rtol=0.0, atol=2e-5)
    torch.testing.assert_close(outcome.reward, steps.reward.float(), rtol=1e-5, atol=1e-5)
    assert torch.equal(outcome.terminated, steps.terminated) and torch.equal(outcome.truncated, steps.truncated)
    ended = steps.terminated | steps.truncated
    assert torch.equal(episodes.length, torch.where(ended, 0, steps.length).int())
    begun = rules.observe(rules.reset(torch.rand(1_000, rules.num_uniforms)))
    low, high = begun.amin(0) - 0.05, begun.amax(0) + 0.05
    begins = rules.observe(episodes.state)[ended]
    assert ((begins >= low) & (begins <= high)).all(), "where an episode ended, another has begun"


def assert_near(name: str, state: Tensor, expected: Tensor) -> None:
    difference = state.double() - expected
    if name == "Acrobot-v1":  # an angle that is pi to float32's precision may be -pi as well
        difference[:, :2] = (difference[:, :2] + torch.pi) % (2 * torch.pi) - torch.pi
    assert difference.abs().max() < 2e-5


@every_env
def test_adapter_as_gymnasiums_own(name: str) -> None:
    """Whole episodes through both interfaces, Gymnasium put into our state before each step: the same ends."""
    ours, theirs = gymnasium.make_vec(f"rlloss/{name}", 3), [gymnasium.make(name) for _ in range(3)]
    assert isinstance(ours, DeviceVectorEnv)
    limit = ours.max_episode_steps
    assert limit == gymnasium.spec(name).max_episode_steps
    observation, _ = ours.reset(seed=1)
    for env in theirs:
        env.reset(seed=0)
    ours.action_space.seed(0)
    lengths = np.zeros(3, int)
    truncations = 0
    for _ in range(700):
        actions = ours.action_space.sample()
        states = ours.episodes.state.double().numpy().copy()
        results = []
        for env, state, action in zip(theirs, states, actions, strict=True):
            env.unwrapped.state = state  # type: ignore[attr-defined]
            results.append(env.step(action))
        observation, reward, terminated, truncated, info = ours.step(actions)
        lengths += 1
        ended = terminated | truncated
        successor = np.array([info["final_obs"][i] if ended[i] else observation[i] for i in range(3)])
        assert np.allclose(successor, [result[0] for result in results], atol=3e-5)
        assert np.allclose(reward, [float(result[1]) for result in results], atol=1e-5)
        assert terminated.tolist() == [result[2] for result in results]
        assert truncated.tolist() == (lengths >= limit).tolist() == [result[3] for result in results]
        truncations += int(truncated.sum())
        for index in np.flatnonzero(ended):
            theirs[index].reset()
            lengths[index] = 0
    assert truncations or name == "CartPole-v1"


@every_env
def test_episodes_begin_alike(name: str) -> None:
    """The same ranges, of which 4,000 episodes come near both ends, and evenly."""
    rules, theirs = ENVS[name](), gymnasium.make(name)
    starts = rules.reset(torch.rand(4_000, rules.num_uniforms)).numpy()
    theirs.reset(seed=0)
    expected = np.array([theirs.unwrapped.state for _ in range(4_000) if theirs.reset()])  # type: ignore[attr-defined]
    assert starts.shape == expected.shape
    for quantile in (0.0, 0.25, 0.5, 0.75, 1.0):
        spread = np.ptp(expected, axis=0)
        a, b = (np.quantile(x, quantile, axis=0) for x in (starts, expected))
        assert np.all(np.abs(a - b) <= 0.05 * spread + 1e-7)


@every_env
def test_spaces_are_gymnasiums(name: str) -> None:
    ours, theirs = gymnasium.make_vec(f"rlloss/{name}", 2), gymnasium.make(name)
    assert ours.single_observation_space == theirs.observation_space
    assert ours.single_action_space == theirs.action_space


def test_arguments() -> None:
    pendulum = gymnasium.make_vec("rlloss/Pendulum-v1", 1, g=0.0)
    assert isinstance(pendulum, DeviceVectorEnv)
    pendulum.reset(seed=0)
    before = pendulum.episodes.state.clone()
    pendulum.step(np.zeros((1, 1), np.float32))
    torch.testing.assert_close(pendulum.episodes.state[:, 1], before[:, 1])
    state, action = torch.tensor([[0.51, 0.01]]), torch.tensor([2])
    assert (
        MountainCar().step(state, action)[2].item()
        and not MountainCar(goal_velocity=0.02).step(state, action)[2].item()
    )


def test_wrap() -> None:
    angles = torch.tensor([-7.0, -3.2, -torch.pi, -1.0, 0.0, 1.0, torch.pi, 3.2, 7.0, 12.0], dtype=torch.float64)
    wrapped = _wrap(angles)
    assert (wrapped.abs() <= torch.pi).all()
    torch.testing.assert_close(wrapped.sin(), angles.sin())
    assert torch.equal(wrapped[2:7], angles[2:7])
