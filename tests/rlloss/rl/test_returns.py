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
from tests.conftest import assert_close

GAMMA = 0.9


class Trajectory:
    """One environment's steps as lists of numbers, with the sums of the textbook written out."""

    def __init__(self, seed: int, terminated: tuple[bool, ...], truncated: tuple[bool, ...]) -> None:
        self.length = len(terminated)
        generator = np.random.default_rng(seed)
        numbers: list[list[float]] = generator.normal(size=(3, self.length)).tolist()
        self.reward, self.value, self.next_value = numbers
        self.discount = [GAMMA * (not ended) for ended in terminated]
        self.truncated = list(truncated)

    def ends(self, t: int) -> bool:
        """Whether nothing after step t belongs to its return."""
        return self.truncated[t] or t == self.length - 1

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
    return {name: torch.tensor([getattr(one, name) for one in trajectories]).T.contiguous() for name in names}


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


lengths = st.integers(1, 12)


@given(length=lengths, seed=st.integers(0, 1000), lambda_=st.floats(0, 1))
def test_long_trajectories(length: int, seed: int, lambda_: float) -> None:
    generator = np.random.default_rng(seed)
    ending = generator.random((2, length)) < 0.2
    one = Trajectory(seed, tuple(ending[0].tolist()), tuple(ending[1].tolist()))
    tensors = columns([one], "reward", "discount", "next_value", "truncated")
    values = columns([one], "value")
    _assert_steps(F.lambda_returns(**tensors, lambda_=lambda_), [one], "lambda_return", lambda_)
    _assert_steps(F.n_step_returns(**tensors, n=3), [one], "n_step", 3)
    _assert_steps(F.gae(**tensors, **values, lambda_=lambda_), [one], "advantage", lambda_)


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
    discount = torch.where(truncated, 0.0, GAMMA)  # the mistake: they would be worth less
    assert F.lambda_returns(reward, discount, value)[1] == 1.0


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_nothing_crosses_the_end_of_an_episode(ending: str) -> None:
    """The gradient of a return with respect to the numbers of the next episode is zero."""
    tensors = [torch.randn(5, requires_grad=True) for _ in range(3)]
    reward, value, next_value = tensors
    end = torch.arange(5) == 2
    discount = torch.where(end, 0.0, GAMMA) if ending == "terminated" else torch.full((5,), GAMMA)
    truncated = end if ending == "truncated" else None
    for result in (
        F.lambda_returns(reward, discount, next_value, lambda_=0.8, truncated=truncated),
        F.n_step_returns(reward, discount, next_value, n=4, truncated=truncated),
        F.gae(reward, discount, value, next_value, truncated=truncated),
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
    functions: list[tuple[Any, dict[str, Any]]] = [(F.lambda_returns, {"lambda_": 0.5}), (F.n_step_returns, {"n": 2})]
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
    ):
        assert result.shape == (0, 3)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_lambda_out_of_range(bad: float) -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match=r"^lambda_returns: lambda_ must be in \[0, 1\]"):
        F.lambda_returns(one, one, one, lambda_=bad)
    with pytest.raises(ValueError, match=r"^gae: lambda_ must be in \[0, 1\]"):
        F.gae(one, one, one, one, lambda_=bad)


@pytest.mark.parametrize("bad", [0, -1, 1.5, True])
def test_n_out_of_range(bad: Any) -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match=r"^n_step_returns: n must be an integer >= 1, got "):
        F.n_step_returns(one, one, one, n=bad)


def test_errors() -> None:
    one = torch.ones(3)
    with pytest.raises(ValueError, match=r"^gae: truncated must have dtype torch\.bool, got torch\.float64$"):
        F.gae(one, one, one, one, truncated=one)
    with pytest.raises(ValueError, match=r"^gae: truncated must broadcast to .*\(3,\), got \(2, 3\)$"):
        F.gae(one, one, one, one, truncated=torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"^lambda_returns: reward must have shape \(T, \.\.\.\), got \(\)$"):
        F.lambda_returns(one[0], one[0], one[0])


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
