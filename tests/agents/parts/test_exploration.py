"""Random actions and schedules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.parts.exploration import RandomActions, linear_schedule


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 1.0), (1, 0.91), (5, 0.55), (9, 0.19), (10, 0.1), (11, 0.1), (10**9, 0.1)]
)
def test_linear_schedule(step: int, expected: float) -> None:
    assert linear_schedule(1.0, 0.1, 10, step) == pytest.approx(expected, abs=1e-12)


def test_no_duration_is_over_at_once() -> None:
    assert linear_schedule(1.0, 0.1, 0, 0) == 0.1


def test_upwards() -> None:
    assert linear_schedule(0.0, 1.0, 4, 1) == 0.25


def drawn(random: RandomActions, steps: int, epsilon: float, num_envs: int = 5) -> np.ndarray:
    return np.array([random.mix(np.full(num_envs, -1), epsilon) for _ in range(steps)])


def test_random_actions_come_with_their_probability_and_are_uniform() -> None:
    actions = drawn(RandomActions(4, 5, seed=0), 8_000, 0.3)
    n = actions.size
    counts = np.bincount(actions.ravel() + 1, minlength=5)
    expected = n * np.array([0.7, 0.075, 0.075, 0.075, 0.075])
    assert ((counts - expected) ** 2 / expected).sum() < 20.0  # 99.95 %, 4 degrees
    explored = actions >= 0
    assert explored.mean(0) == pytest.approx(0.3, abs=0.03), "each environment has its coin"
    assert (explored[1:] & explored[:-1]).mean() == pytest.approx(0.09, abs=0.01), "each step has its coin"


def test_always_and_never() -> None:
    random = RandomActions(3, 5, seed=0)
    assert (drawn(random, 100, 0.0) == -1).all()
    assert (drawn(random, 100, 1.0) >= 0).all()


@pytest.mark.parametrize("epsilon", [0.0, 0.4, 1.0])
def test_actions_are_what_they_were_tensors_or_arrays(epsilon: float) -> None:
    of_arrays, of_tensors = RandomActions(3, 5, seed=0), RandomActions(3, 5, seed=0)
    for _ in range(10):
        given = torch.full((5,), -1)
        mixed = of_tensors.mix(given, epsilon)
        assert isinstance(mixed, torch.Tensor) and mixed.dtype == torch.int64
        assert (mixed.numpy() == of_arrays.mix(np.full(5, -1), epsilon)).all()
        assert (given == -1).all()


def test_another_number_of_actions_than_usual() -> None:
    assert set(drawn(RandomActions(3, 5, seed=0), 60, 1.0, num_envs=2).ravel()) == {0, 1, 2}


@pytest.mark.parametrize("steps", [0, 1, 63, 64, 100])
def test_random_actions_go_on_from_their_state(steps: int) -> None:
    random, later = RandomActions(4, 5, seed=0), RandomActions(4, 5, seed=1)
    drawn(random, steps, 0.5)
    drawn(random, 1, 0.5, num_envs=3)  # of another number, in between
    later.load_state_dict(random.state_dict())
    assert (drawn(later, 150, 0.5) == drawn(random, 150, 0.5)).all()
