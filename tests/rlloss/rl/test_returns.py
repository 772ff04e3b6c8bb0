"""Returns and advantages against sums written out step by step, over every way an episode can end."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import rlloss.functional as F
from rlloss import VTrace
from rlloss.rl.returns import SHORT
from tests.conftest import assert_close

GAMMA = 0.9


class Trajectory:
    """One environment's steps as lists of numbers, with the sums of the textbook written out."""

    def __init__(self, seed: int, terminated: tuple[bool, ...], truncated: tuple[bool, ...]) -> None:
        self.length = len(terminated)
        generator = np.random.default_rng(seed)
        numbers: list[list[float]] = generator.normal(size=(5, self.length)).tolist()
        self.reward, self.value, self.next_value, self.q, self.log_rho = numbers
        self.trace = [abs(number) for number in self.value]
        self.next_q: list[list[float]] = generator.normal(size=(self.length, 3)).tolist()
        self.discount = [GAMMA * (not ended) for ended in terminated]
        self.truncated = list(truncated)

    def ends(self, t: int) -> bool:
        """Whether nothing after step t belongs to its return."""
        return self.truncated[t] or t == self.length - 1

    def td_error(self, t: int, values: list[float]) -> float:
        return self.reward[t] + self.discount[t] * self.next_value[t] - values[t]

    def q_lambda(self, t: int, lambda_: float) -> float:
        following = max(self.next_q[t])
        if not self.ends(t):
            following = (1 - lambda_) * following + lambda_ * self.q_lambda(t + 1, lambda_)
        return self.reward[t] + self.discount[t] * following

    def upgo(self, t: int) -> float:
        following = self.next_value[t]
        if not self.ends(t):
            next_action = self.reward[t + 1] + self.discount[t + 1] * self.next_value[t + 1]
            following = self.upgo(t + 1) if next_action >= following else following
        return self.reward[t] + self.discount[t] * following

    def off_policy(self, t: int, trace: list[float] | None = None) -> float:
        """The action's value plus the sum of the TD errors that follow, equation 3 of Munos et al."""
        trace = self.trace if trace is None else trace
        total, factor = self.q[t], 1.0
        for step in range(t, self.length):
            total += factor * self.td_error(step, self.q)
            if self.ends(step):
                break
            factor *= self.discount[step] * trace[step + 1]
        return total

    def retrace(self, t: int, lambda_: float) -> float:
        return self.off_policy(t, [lambda_ * min(1.0, math.exp(log_rho)) for log_rho in self.log_rho])

    def weight(self, t: int, clip: float, leak: float) -> float:
        rho = math.exp(self.log_rho[t])
        return (1 - leak) * min(rho, clip) + leak * rho

    def v_trace(self, t: int, lambda_: float, clip_rho: float, clip_c: float, leak: float) -> float:
        """The value plus the sum of the weighted TD errors that follow, equation 1 of Espeholt et al."""
        total, factor = self.value[t], 1.0
        for step in range(t, self.length):
            total += factor * self.weight(step, clip_rho, leak) * self.td_error(step, self.value)
            if self.ends(step):
                break
            factor *= self.discount[step] * lambda_ * self.weight(step, clip_c, leak)
        return total

    def v_trace_advantage(
        self, t: int, lambda_: float, clip_rho: float, clip_c: float, clip_pg_rho: float, leak: float
    ) -> float:
        following = self.next_value[t]
        if not self.ends(t):
            target = self.v_trace(t + 1, lambda_, clip_rho, clip_c, leak)
            following = lambda_ * target + (1 - lambda_) * self.value[t + 1]
        q = self.reward[t] + self.discount[t] * following
        return self.weight(t, clip_pg_rho, leak) * (q - self.value[t])

    def n_step(self, t: int, n: int) -> float:
        total, discount = 0.0, 1.0
        for step in range(t, t + n):
            total += discount * self.reward[step]
            discount *= self.discount[step]
            if step == t + n - 1 or self.ends(step):
                return total + discount * self.next_value[step]
        raise AssertionError

    def lambda_return(self, t: int, lambda_: float) -> float:
        """The mixture of all n-step returns: (1 - lambda) lambda^(n-1) each, the last one takes the rest."""
        steps = next(step for step in range(t, self.length) if self.ends(step)) - t + 1
        mixed = sum((1 - lambda_) * math.pow(lambda_, n - 1) * self.n_step(t, n) for n in range(1, steps))
        return mixed + math.pow(lambda_, steps - 1) * self.n_step(t, steps)

    def advantage(self, t: int, lambda_: float) -> float:
        """The sum of the discounted TD errors up to the end."""
        total, factor = 0.0, 1.0
        for step in range(t, self.length):
            error = self.reward[step] + self.discount[step] * self.next_value[step] - self.value[step]
            total += factor * error
            factor *= self.discount[step] * lambda_
            if self.ends(step):
                break
        return total


def every_ending(length: int) -> list[Trajectory]:
    """A trajectory for each choice of going on, terminating, being truncated, or both, at each step."""
    endings = itertools.product(itertools.product([False, True], repeat=2), repeat=length)
    return [
        Trajectory(seed, tuple(end[0] for end in ending), tuple(end[1] for end in ending))
        for seed, ending in enumerate(endings)
    ]


def columns(trajectories: list[Trajectory], *names: str) -> dict[str, Any]:
    """The trajectories side by side, ``(T, B)``."""
    return {name: torch.tensor([getattr(one, name) for one in trajectories]).transpose(0, 1) for name in names}


@pytest.fixture(autouse=True)
def _float64() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def _assert_steps(actual: Tensor, trajectories: list[Trajectory], method: str, *arguments: float) -> None:
    wanted = [[getattr(one, method)(t, *arguments) for one in trajectories] for t in range(actual.shape[0])]
    assert_close(actual, torch.tensor(wanted))


@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_lambda_returns(length: int, lambda_: float) -> None:
    trajectories = every_ending(length)
    tensors = columns(trajectories, "reward", "discount", "next_value", "truncated")
    _assert_steps(F.lambda_returns(**tensors, lambda_=lambda_), trajectories, "lambda_return", lambda_)


@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 9])
def test_n_step_returns(length: int, n: int) -> None:
    trajectories = every_ending(length)
    tensors = columns(trajectories, "reward", "discount", "next_value", "truncated")
    _assert_steps(F.n_step_returns(**tensors, n=n), trajectories, "n_step", n)


@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_gae(length: int, lambda_: float) -> None:
    trajectories = every_ending(length)
    tensors = columns(trajectories, "reward", "discount", "value", "next_value", "truncated")
    _assert_steps(F.gae(**tensors, lambda_=lambda_), trajectories, "advantage", lambda_)


@pytest.mark.parametrize("length", [1, 2, 4])
def test_upgo_returns(length: int) -> None:
    trajectories = every_ending(length)
    tensors = columns(trajectories, "reward", "discount", "next_value", "truncated")
    _assert_steps(F.upgo_returns(**tensors), trajectories, "upgo")


@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_q_lambda_returns(length: int, lambda_: float) -> None:
    trajectories = every_ending(length)
    tensors = columns(trajectories, "reward", "discount", "next_q", "truncated")
    _assert_steps(F.q_lambda_returns(**tensors, lambda_=lambda_), trajectories, "q_lambda", lambda_)


@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
def test_off_policy_returns_and_retrace(length: int, lambda_: float) -> None:
    trajectories = every_ending(length)
    tensors = columns(trajectories, "reward", "discount", "q", "next_value", "truncated")
    weights = columns(trajectories, "trace", "log_rho")
    _assert_steps(F.off_policy_returns(trace=weights["trace"], **tensors), trajectories, "off_policy")
    _assert_steps(F.retrace(log_rho=weights["log_rho"], **tensors, lambda_=lambda_), trajectories, "retrace", lambda_)


@pytest.mark.parametrize("length", [1, 2, 4])
@pytest.mark.parametrize("lambda_", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("leak", [0.0, 0.3, 1.0])
def test_vtrace(length: int, lambda_: float, leak: float) -> None:
    trajectories = every_ending(length)
    tensors = columns(trajectories, "log_rho", "reward", "discount", "value", "next_value", "truncated")
    clips: dict[str, Any] = {"clip_rho": 1.4, "clip_c": 1.2, "clip_pg_rho": 0.9}
    target, advantage = F.vtrace(**tensors, lambda_=lambda_, **clips, leak=leak)
    _assert_steps(target, trajectories, "v_trace", lambda_, 1.4, 1.2, leak)
    _assert_steps(advantage, trajectories, "v_trace_advantage", lambda_, 1.4, 1.2, 0.9, leak)


@given(length=st.integers(1, 5 * SHORT), seed=st.integers(0, 1000), lambda_=st.floats(0, 1), n=st.integers(1, 50))
def test_long_trajectories(length: int, seed: int, lambda_: float, n: int) -> None:
    generator = np.random.default_rng(seed)
    ending = generator.random((2, length)) < 0.1
    one = Trajectory(seed, tuple(ending[0].tolist()), tuple(ending[1].tolist()))
    tensors = columns([one], "reward", "discount", "next_value", "truncated")
    values, q, weights = (columns([one], name) for name in ("value", "q", "log_rho"))
    _assert_steps(F.lambda_returns(**tensors, lambda_=lambda_), [one], "lambda_return", lambda_)
    _assert_steps(F.n_step_returns(**tensors, n=n), [one], "n_step", n)
    _assert_steps(F.gae(**tensors, **values, lambda_=lambda_), [one], "advantage", lambda_)
    _assert_steps(F.upgo_returns(**tensors), [one], "upgo")
    _assert_steps(F.retrace(**weights, **tensors, **q, lambda_=lambda_), [one], "retrace", lambda_)
    target, advantage = F.vtrace(**weights, **tensors, **values, lambda_=lambda_)
    _assert_steps(target, [one], "v_trace", lambda_, 1.0, 1.0, 0.0)
    _assert_steps(advantage, [one], "v_trace_advantage", lambda_, 1.0, 1.0, 1.0, 0.0)


@pytest.mark.parametrize("length", [0, 1, 2, SHORT, SHORT + 1, 16, 21])
def test_gradients_through_the_scan(length: int) -> None:
    """First and second derivatives, where both forms of it begin and end; discounts of 0 are inside."""
    generator = torch.Generator().manual_seed(length)
    tensors = [torch.randn(length, 2, generator=generator) for _ in range(3)]
    tensors[1] = torch.where(torch.rand(length, 2, generator=generator) < 0.2, 0.0, GAMMA)
    for tensor in tensors:
        tensor.requires_grad_()
    truncated = torch.rand(length, 2, generator=generator) < 0.1

    def returns(reward: Tensor, discount: Tensor, next_value: Tensor) -> tuple[Tensor, ...]:
        lambda_return = F.lambda_returns(reward, discount, next_value, lambda_=0.8, truncated=truncated)
        return lambda_return, F.n_step_returns(reward, discount, next_value, n=SHORT + 3, truncated=truncated)

    assert torch.autograd.gradcheck(returns, tensors)
    assert torch.autograd.gradgradcheck(returns, tensors)


def test_a_thousand_steps_compile_to_what_they_are() -> None:
    """As one graph in seconds, since no loop over time is unrolled; and to float64's precision."""
    torch.compiler.reset()
    generator = torch.Generator().manual_seed(0)
    log_rho, reward, value, next_value = (torch.randn(1000, 2, generator=generator) for _ in range(4))
    discount = torch.where(torch.rand(1000, 2, generator=generator) < 0.01, 0.0, 0.999)
    truncated = torch.rand(1000, 2, generator=generator) < 0.01

    def returns() -> tuple[Tensor, ...]:
        return (
            F.gae(reward, discount, value, next_value, lambda_=1.0, truncated=truncated),
            F.retrace(log_rho, reward, discount, value, next_value, truncated=truncated),
            F.n_step_returns(reward, discount, next_value, n=700, truncated=truncated),
            *F.vtrace(log_rho, reward, discount, value, next_value, truncated=truncated),
        )

    results = torch.compile(returns, fullgraph=True, backend="aot_eager")()
    for actual, expected in zip(results, returns(), strict=True):
        assert_close(actual, expected)
    delta, factor = reward + discount * next_value - value, discount.masked_fill(truncated, 0.0)
    advantage = torch.zeros(1001, 2)
    for t in reversed(range(1000)):
        advantage[t] = delta[t] + factor[t] * advantage[t + 1]
    torch.testing.assert_close(results[0], advantage[:-1], rtol=1e-12, atol=1e-12)


# What they are in terms of each other


def _tensors(*names: str) -> dict[str, Any]:
    return columns(every_ending(3), *names)


@pytest.mark.parametrize("lambda_", [0.0, 0.95, 1.0])
def test_gae_is_the_lambda_return_minus_the_value(lambda_: float) -> None:
    """Where each step's successor is the next step's observation."""
    tensors = _tensors("reward", "discount", "next_value", "truncated")
    value = torch.cat([torch.randn(1, tensors["reward"].shape[1]), tensors["next_value"][:-1]])
    advantage = F.gae(**tensors, value=value, lambda_=lambda_)
    assert_close(advantage, F.lambda_returns(**tensors, lambda_=lambda_) - value)


@pytest.mark.parametrize("lambda_", [0.0, 0.8, 1.0])
def test_on_policy_vtrace_is_the_lambda_return_and_gae(lambda_: float) -> None:
    tensors = _tensors("reward", "discount", "next_value", "truncated")
    value = torch.cat([torch.randn(1, tensors["reward"].shape[1]), tensors["next_value"][:-1]])
    target, advantage = F.vtrace(torch.zeros_like(value), **tensors, value=value, lambda_=lambda_)
    assert_close(target, F.lambda_returns(**tensors, lambda_=lambda_))
    assert_close(advantage, F.gae(**tensors, value=value, lambda_=lambda_))


def test_vtrace_without_bounds_is_importance_sampling() -> None:
    """So is a leak of 1, under any bounds."""
    tensors = _tensors("log_rho", "reward", "discount", "value", "next_value", "truncated")
    free: dict[str, Any] = {"clip_rho": 1e6, "clip_c": 1e6, "clip_pg_rho": 1e6}
    tight: dict[str, Any] = {"clip_rho": 0.1, "clip_c": 0.2, "clip_pg_rho": 0.3}
    unbound, leaking = F.vtrace(**tensors, **free), F.vtrace(**tensors, **tight, leak=1.0)
    assert isinstance(unbound, VTrace)
    assert_close(unbound.target, leaking.target)
    assert_close(unbound.advantage, leaking.advantage)
    # Per-decision importance sampling of state values (Precup et al., 2000): rho (G - v) with the trace rho.
    rho, value = tensors.pop("log_rho").exp(), tensors.pop("value")
    consistent = torch.cat([value[:1], tensors["next_value"][:-1]])
    returns = F.off_policy_returns(rho, **tensors, q=consistent)
    target = F.vtrace(rho.log(), **tensors, value=consistent, **free).target
    assert_close(target - consistent, rho * (returns - consistent))


def test_cases_of_off_policy_returns() -> None:
    tensors = _tensors("reward", "discount", "next_value", "truncated")
    q, log_rho, next_q = (_tensors(name)[name] for name in ("q", "log_rho", "next_q"))
    one_step = tensors["reward"] + tensors["discount"] * tensors["next_value"]
    assert_close(F.retrace(log_rho, **tensors, q=q, lambda_=0.0), one_step)
    assert_close(F.retrace(torch.full_like(q, -torch.inf), **tensors, q=q), one_step)
    on_policy = F.off_policy_returns(torch.full_like(q, 0.6), **tensors, q=q)
    assert_close(F.retrace(log_rho.abs(), **tensors, q=q, lambda_=0.6), on_policy)
    # Where the action taken is worth its state, a trace is a lambda.
    sarsa = torch.cat([q[:1], tensors["next_value"][:-1]])
    assert_close(
        F.off_policy_returns(torch.full_like(q, 0.6), **tensors, q=sarsa), F.lambda_returns(**tensors, lambda_=0.6)
    )
    # Watkins' Q(lambda) of greedy actions is Peng's; of exploring ones, one-step Q-learning.
    greedy = {**tensors, "next_value": next_q.amax(-1)}
    taken = torch.cat([q[:1], greedy["next_value"][:-1]])
    del tensors["next_value"]
    peng = F.q_lambda_returns(**tensors, next_q=next_q, lambda_=0.6)
    assert_close(F.off_policy_returns(torch.full_like(q, 0.6), **greedy, q=taken), peng)
    watkins = F.off_policy_returns(torch.zeros_like(q), **greedy, q=q)
    assert_close(watkins, F.q_lambda_returns(**tensors, next_q=next_q, lambda_=0.0))


def test_upgo_between_its_extremes() -> None:
    """Every next step better than expected: the whole return. Every one worse: one step."""
    tensors = _tensors("discount", "truncated")
    reward, next_value = torch.rand_like(tensors["discount"]), torch.zeros_like(tensors["discount"])
    better = {**tensors, "reward": reward, "next_value": next_value}
    assert_close(F.upgo_returns(**better), F.lambda_returns(**better))
    worse = {**tensors, "reward": -reward - 1, "next_value": next_value}
    assert_close(F.upgo_returns(**worse), worse["reward"])
    assert not torch.equal(F.upgo_returns(**worse), F.lambda_returns(**worse))
    equal = torch.ones(3)  # exactly as good as expected: goes on, as in AlphaStar
    assert_close(F.upgo_returns(torch.zeros(3), equal, torch.tensor([2.0, 2.0, 5.0])), torch.full((3,), 5.0))


def test_worked_numbers() -> None:
    """Two steps with gamma 1/2, by hand."""
    rho, reward, discount = torch.tensor([0.5, 4.0]), torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.5])
    value, next_value = torch.tensor([3.0, 2.0]), torch.tensor([2.0, 4.0])
    # delta: 0.5 (1 + 1 - 3) = -0.5 and 2 (2 + 2 - 2) = 4; target_0 = 3 - 0.5 + 0.5 * 0.5 * 4
    target, advantage = F.vtrace(rho.log(), reward, discount, value, next_value, clip_rho=2.0, clip_pg_rho=3.0)
    assert_close(target, torch.tensor([3.5, 6.0]))
    # 0.5 (1 + 0.5 * 6 - 3) and 3 (2 + 0.5 * 4 - 2)
    assert_close(advantage, torch.tensor([0.5, 6.0]))
    leaky = F.vtrace(rho.log(), reward, discount, value, next_value, clip_rho=2.0, leak=0.5)
    assert_close(leaky.target[1], torch.tensor(8.0))  # a weight of (2 + 4) / 2
    # G_1 = 2 + 0.5 * 4; c_1 = 0.8; G_0 = 1 + 0.5 (2 + 0.8 (4 - 2))
    assert_close(F.retrace(rho.log(), reward, discount, value, next_value, lambda_=0.8), torch.tensor([2.8, 4.0]))


def test_n_step_returns_with_a_lambda() -> None:
    """The lambda-return of a trajectory that ends after n steps."""
    tensors = _tensors("reward", "discount", "next_value", "truncated")
    assert_close(F.n_step_returns(**tensors, n=3, lambda_=0.6), F.lambda_returns(**tensors, lambda_=0.6))
    ending = {name: tensor[:2] for name, tensor in tensors.items()}
    expected = F.lambda_returns(**ending, lambda_=0.6)[0]
    assert_close(F.n_step_returns(**tensors, n=2, lambda_=0.6)[0], expected)
    assert_close(F.n_step_returns(**tensors, n=1, lambda_=0.6), F.n_step_returns(**tensors, n=1))


def test_weights_that_overflow_are_clipped_with_a_gradient_of_0() -> None:
    log_rho = torch.tensor([1e4, -1e4, 1e4], requires_grad=True)
    one = torch.ones(3)
    for result in (F.retrace(log_rho, one, one, one, one), *F.vtrace(log_rho, one, one, one, one)):
        assert result.isfinite().all()
        assert not torch.autograd.grad(result.sum(), log_rho, retain_graph=True)[0].any()


def test_n_of_the_whole_length_is_lambda_1_and_n_of_1_is_lambda_0() -> None:
    tensors = _tensors("reward", "discount", "next_value", "truncated")
    for n in (3, 4, 100):
        assert_close(F.n_step_returns(**tensors, n=n), F.lambda_returns(**tensors, lambda_=1.0))
    one_step = tensors["reward"] + tensors["discount"] * tensors["next_value"]
    assert_close(F.n_step_returns(**tensors, n=1), one_step)
    assert_close(F.lambda_returns(**tensors, lambda_=0.0), one_step)


def test_defaults() -> None:
    tensors, value = _tensors("reward", "discount", "next_value"), _tensors("value")["value"]
    assert_close(F.lambda_returns(**tensors), F.lambda_returns(**tensors, lambda_=1.0))
    assert_close(F.gae(**tensors, value=value), F.gae(**tensors, value=value, lambda_=0.95))
    log_rho, q, next_q = (_tensors(name)[name] for name in ("log_rho", "q", "next_q"))
    assert_close(F.retrace(log_rho, **tensors, q=q), F.retrace(log_rho, **tensors, q=q, lambda_=1.0))
    plain = F.vtrace(log_rho, **tensors, value=value)
    said: dict[str, Any] = {"lambda_": 1.0, "clip_rho": 1.0, "clip_c": 1.0, "clip_pg_rho": 1.0, "leak": 0.0}
    for actual, expected in zip(plain, F.vtrace(log_rho, **tensors, value=value, **said), strict=True):
        assert_close(actual, expected)
    del tensors["next_value"]
    assert_close(
        F.q_lambda_returns(**tensors, next_q=next_q), F.q_lambda_returns(**tensors, next_q=next_q, lambda_=1.0)
    )
    tensors = _tensors("reward", "discount", "next_value")
    never = torch.zeros(3, 1, dtype=torch.bool)
    assert_close(F.gae(**tensors, value=value), F.gae(**tensors, value=value, truncated=never))


def test_time_limits_are_not_terminations() -> None:
    """A reward of 1 for ever is worth 1 / (1 - gamma), however often a time limit cuts the episode."""
    worth = 1 / (1 - GAMMA)
    reward, discount, value = torch.ones(6), torch.full((6,), GAMMA), torch.full((6,), worth)
    truncated = torch.tensor([False, True, False, False, True, True])
    for cut in (None, truncated):
        assert_close(F.lambda_returns(reward, discount, value, truncated=cut), value)
        assert_close(F.n_step_returns(reward, discount, value, n=2, truncated=cut), value)
        assert_close(F.gae(reward, discount, value, value, truncated=cut), torch.zeros(6))
        assert_close(F.upgo_returns(reward, discount, value, truncated=cut), value)
        assert_close(F.q_lambda_returns(reward, discount, value[:, None], lambda_=0.5, truncated=cut), value)
        log_rho = torch.linspace(-2, 2, 6)
        assert_close(F.retrace(log_rho, reward, discount, value, value, truncated=cut), value)
        target, advantage = F.vtrace(log_rho, reward, discount, value, value, truncated=cut)
        assert_close(target, value)
        assert_close(advantage, torch.zeros(6))
    discount = torch.where(truncated, 0.0, GAMMA)  # the mistake: they would be worth less
    assert F.lambda_returns(reward, discount, value)[1] == 1.0


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_nothing_crosses_the_end_of_an_episode(ending: str) -> None:
    """The gradient of a return with respect to the numbers of the next episode is zero."""
    tensors = [torch.randn(5, requires_grad=True) for _ in range(4)]
    reward, value, next_value, log_rho = tensors
    end = torch.arange(5) == 2
    discount = torch.where(end, 0.0, GAMMA) if ending == "terminated" else torch.full((5,), GAMMA)
    truncated = end if ending == "truncated" else None
    for result in (
        F.lambda_returns(reward, discount, next_value, lambda_=0.8, truncated=truncated),
        F.n_step_returns(reward, discount, next_value, n=4, truncated=truncated),
        F.gae(reward, discount, value, next_value, truncated=truncated),
        F.upgo_returns(reward, discount, next_value, truncated=truncated),
        F.q_lambda_returns(reward, discount, next_value[:, None], lambda_=0.5, truncated=truncated),
        F.retrace(log_rho, reward, discount, value, next_value, truncated=truncated),
        *F.vtrace(log_rho, reward, discount, value, next_value, lambda_=0.5, truncated=truncated),
    ):
        gradients = torch.autograd.grad(result[:3].sum(), tensors, retain_graph=True, allow_unused=True)
        assert gradients[0][:3].all()
        for gradient in (gradient for gradient in gradients if gradient is not None):
            assert not gradient[3:].any()
        assert (gradients[2][2] != 0) == (ending == "truncated")  # a time limit bootstraps, a termination does not


def test_truncated_broadcasts_and_dimensions_are_independent() -> None:
    tensors: dict[str, Any] = {name: torch.randn(4, 3, 2) for name in ("reward", "next_value")}
    tensors["discount"] = torch.full((4, 3, 2), GAMMA)
    truncated = torch.tensor([False, True, False, False])[:, None, None]
    functions: list[tuple[Any, dict[str, Any]]] = [
        (F.lambda_returns, {"lambda_": 0.5}), (F.n_step_returns, {"n": 2}), (F.upgo_returns, {}),
    ]  # fmt: skip
    for function, options in functions:
        whole = function(**tensors, **options, truncated=truncated)
        for row, column in itertools.product(range(3), range(2)):
            one = {name: tensor[:, row, column] for name, tensor in tensors.items()}
            single = function(**one, **options, truncated=truncated[:, 0, 0])
            assert_close(whole[:, row, column], single)


def test_no_steps() -> None:
    empty = torch.zeros(0, 3)
    for result in (
        F.lambda_returns(empty, empty, empty),
        F.n_step_returns(empty, empty, empty, n=2),
        F.gae(empty, empty, empty, empty),
        F.upgo_returns(empty, empty, empty),
        F.q_lambda_returns(empty, empty, torch.zeros(0, 3, 2)),
        F.retrace(empty, empty, empty, empty, empty),
        *F.vtrace(empty, empty, empty, empty, empty),
    ):
        assert result.shape == (0, 3)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_lambda_out_of_range(bad: float) -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match=r"^lambda_returns: lambda_ must be in \[0, 1\]"):
        F.lambda_returns(one, one, one, lambda_=bad)
    with pytest.raises(ValueError, match=r"^gae: lambda_ must be in \[0, 1\]"):
        F.gae(one, one, one, one, lambda_=bad)
    with pytest.raises(ValueError, match=r"^n_step_returns: lambda_ must be in \[0, 1\]"):
        F.n_step_returns(one, one, one, n=1, lambda_=bad)
    with pytest.raises(ValueError, match=r"^q_lambda_returns: lambda_ must be in \[0, 1\]"):
        F.q_lambda_returns(one, one, one[:, None], lambda_=bad)
    with pytest.raises(ValueError, match=r"^retrace: lambda_ must be in \[0, 1\]"):
        F.retrace(one, one, one, one, one, lambda_=bad)
    for name in ("lambda_", "leak"):
        with pytest.raises(ValueError, match=rf"^vtrace: {name} must be in \[0, 1\]"):
            F.vtrace(one, one, one, one, one, **{name: bad})  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf])
@pytest.mark.parametrize("name", ["clip_rho", "clip_c", "clip_pg_rho"])
def test_bound_out_of_range(name: str, bad: float) -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match=rf"^vtrace: {name} must be in \(0, inf\)"):
        F.vtrace(one, one, one, one, one, **{name: bad})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("bad", "error", "wanted"),
    [
        (0, ValueError, ">= 1"),
        (-1, ValueError, ">= 1"),
        (1.5, TypeError, "an integer"),
        (True, TypeError, "an integer"),
    ],
)
def test_n_out_of_range(bad: Any, error: type[Exception], wanted: str) -> None:
    one = torch.ones(1)
    with pytest.raises(error, match=rf"^n_step_returns: n must be {wanted}, got "):
        F.n_step_returns(one, one, one, n=bad)


def test_errors() -> None:
    one = torch.ones(3)
    with pytest.raises(ValueError, match=r"^gae: truncated must have dtype torch\.bool, got torch\.float64$"):
        F.gae(one, one, one, one, truncated=one)
    with pytest.raises(ValueError, match=r"^gae: truncated must have 1 dimensions, as in \(3,\), got shape \(2, 3\)$"):
        F.gae(one, one, one, one, truncated=torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"^lambda_returns: reward must have shape \(T, \.\.\.\), got \(\)$"):
        F.lambda_returns(one[0], one[0], one[0])
    with pytest.raises(ValueError, match=r"^q_lambda_returns: next_q must have shape \(T, \.\.\., A\), got \(3,\)$"):
        F.q_lambda_returns(one, one, one)
    message = r"^q_lambda_returns: reward must have shape \(3,\) \(next_q without its action dimension\), got \(4,\)$"
    with pytest.raises(ValueError, match=message):
        F.q_lambda_returns(torch.ones(4), torch.ones(4), torch.ones(3, 2))


# Normalised advantages


@given(values=st.lists(st.floats(-100, 100), min_size=1, max_size=8), eps=st.sampled_from([1e-8, 0.5]))
def test_normalize_advantage(values: list[float], eps: float) -> None:
    wanted = (np.array(values) - np.mean(values)) / (np.std(values) + eps)
    torch.testing.assert_close(
        F.normalize_advantage(torch.tensor(values), eps=eps), torch.tensor(wanted), rtol=1e-6, atol=1e-6
    )


def test_normalize_advantage_over_what_is_kept() -> None:
    advantage = torch.tensor([[1.0, math.nan], [3.0, math.inf]], requires_grad=True)
    mask = torch.tensor([True, False])
    result = F.normalize_advantage(advantage, mask=mask)
    assert_close(result, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), dtype=torch.float32)
    (gradient,) = torch.autograd.grad(result.square().sum(), advantage)
    assert gradient.isfinite().all() and not gradient[:, 1].any()


@pytest.mark.parametrize("advantage", [[], [3.0], [2.0, 2.0, 2.0]])
@pytest.mark.parametrize("masked", [False, True])
def test_normalize_advantage_without_a_spread_is_zero(advantage: list[float], masked: bool) -> None:
    tensor = torch.tensor(advantage, requires_grad=True)
    mask = torch.zeros(len(advantage), dtype=torch.bool) if masked else None
    result = F.normalize_advantage(tensor, mask=mask)
    assert not result.any() and result.shape == tensor.shape
    assert torch.autograd.grad(result.sum(), tensor)[0].isfinite().all()


@pytest.mark.parametrize("value", [0.1, 3.3, 1000.1])
@pytest.mark.parametrize("count", [1, 100, 2560])
def test_equal_advantages_stay_zero(value: float, count: int) -> None:
    """Rounding of their mean is no deviation."""
    normalized = F.normalize_advantage(torch.full((count,), value))
    assert float(normalized.abs().max()) < 1e-2


def test_truncated_is_not_spread_along_the_batch() -> None:
    with pytest.raises(ValueError, match=r"^gae: truncated must have 2 dimensions, as in \(3, 3\), got shape \(3,\)$"):
        F.gae(*[torch.ones(3, 3)] * 4, truncated=torch.tensor([True, False, False]))
    F.gae(*[torch.ones(3, 3)] * 4, truncated=torch.tensor([[True], [False], [False]]))


def test_what_overflows_stays_in_its_episode() -> None:
    """A product of factors is infinite in one episode, and an end's factor of 0 lies before it."""
    steps = 64
    trace, discount = torch.ones(steps), torch.full((steps,), GAMMA)
    trace[45:60] = 1e3
    discount[40] = 0.0
    reward, next_value, q = (torch.zeros(steps) for _ in range(3))
    reward[:40] = 1.0
    actual = F.off_policy_returns(trace, reward, discount, q, next_value)
    expected = [sum(GAMMA**k for k in range(40 - t)) for t in range(40)] + [0.0] * (steps - 40)
    assert_close(actual, torch.tensor(expected))
