from __future__ import annotations

import copy

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from agents.parts.priorities import SumTree

CPU = torch.device("cpu")


def tree_of(priorities: list[float] | np.ndarray) -> SumTree:
    tree = SumTree(len(priorities), CPU)
    tree.fill(0, torch.as_tensor(priorities))
    return tree


def assert_sums(tree: SumTree, priorities: np.ndarray) -> None:
    """Every node is the sum of what lies below it, and no index beyond the last has a priority."""
    stored = tree.levels[-1].flatten().numpy()
    assert np.array_equal(stored[: len(priorities)], priorities)
    assert not stored[len(priorities) :].any()
    for level in tree.levels:
        below = stored.reshape(level.numel(), -1).sum(1)
        np.testing.assert_allclose(level.flatten().numpy(), below, rtol=1e-13, atol=0)


@pytest.mark.parametrize(("size", "branching"), [(1, 1), (2, 2), (8, 2), (9, 3), (27, 3), (28, 4), (1_000_000, 100)])
def test_branching(size: int, branching: int) -> None:
    assert SumTree(size, CPU).branching == branching


@pytest.mark.parametrize("size", [1, 7, 27, 500])
def test_sums_after_random_writes(size: int) -> None:
    rng = np.random.default_rng(size)
    tree, expected = SumTree(size, CPU), np.zeros(size)
    for _ in range(60):
        if rng.random() < 0.5:
            index = rng.permutation(size)[: rng.integers(1, size + 1)]
            priority = 10.0 ** rng.uniform(-8, 8, len(index)) * (rng.random(len(index)) < 0.8)
            tree.write(torch.as_tensor(index), torch.as_tensor(priority))
            expected[index] = priority
        else:
            start = int(rng.integers(size))
            priority = rng.random(int(rng.integers(1, size - start + 1)))
            tree.fill(start, torch.as_tensor(priority))
            expected[start : start + len(priority)] = priority
        assert_sums(tree, expected)
        index = rng.integers(0, size, 5)
        assert np.array_equal(tree.read(torch.as_tensor(index)).numpy(), expected[index])


def test_an_index_written_twice_has_one_of_its_priorities() -> None:
    tree = tree_of(np.ones(10))
    tree.write(torch.tensor([4, 2, 4]), torch.tensor([5.0, 3.0, 7.0]))
    assert tree.read(torch.tensor([4])).item() in (5.0, 7.0)
    assert_sums(tree, tree.levels[-1].flatten()[:10].numpy())


def draw(tree: SumTree, count: int, generator: torch.Generator) -> Tensor:
    return tree.draw(torch.rand(count, generator=generator, dtype=torch.float64))


def test_large_priorities_leave_no_trace() -> None:
    """Sums that were changed by differences would keep the rounding of the largest."""
    tree = tree_of(np.full(1000, 0.1))
    tree.write(torch.tensor([3]), torch.tensor([1e18]))
    tree.write(torch.tensor([3]), torch.tensor([0.1], dtype=torch.float64))
    assert_sums(tree, np.full(1000, 0.1))


def test_frequencies_are_the_priorities(generator: torch.Generator) -> None:
    """Drawn one by one: stratified draws of a batch are closer to the priorities than chance."""
    priorities = np.array([0.0, 5.0, 1.0, 0.0, 0.5, 3.0, 0.0, 0.25, 0.25, 2.0, 0.0])
    tree = tree_of(priorities)
    drawn = torch.cat([draw(tree, 1, generator) for _ in range(5_000)])
    counts = torch.bincount(drawn, minlength=len(priorities)).numpy()
    assert not counts[priorities == 0.0].any()
    some = priorities > 0.0
    expected = priorities[some] / priorities.sum() * len(drawn)
    assert scipy.stats.chisquare(counts[some], expected).pvalue > 0.01


def test_draws_are_stratified(generator: torch.Generator) -> None:
    """Of n draws each index gets n P(i), but for the two parts that its ends lie in."""
    priorities = np.random.default_rng(0).random(300) ** 4
    tree, n = tree_of(priorities), 5_000
    for _ in range(5):
        drawn = draw(tree, n, generator)
        assert (drawn.diff() >= 0).all()
        counts = torch.bincount(drawn, minlength=300).numpy()
        assert np.abs(counts - n * priorities / priorities.sum()).max() <= 2.0
    ends = np.cumsum(priorities) / priorities.sum()
    borders = np.searchsorted(ends, np.arange(n + 1) / n)  # what each part may give, from the sums of numpy
    assert (borders[:-1] <= drawn.numpy()).all() and (drawn.numpy() <= borders[1:]).all()


def test_draws_follow_the_random_numbers() -> None:
    """Against the inverse of the cumulative sum, in plain numpy."""
    priorities = np.random.default_rng(1).random(1000) * (np.random.default_rng(2).random(1000) < 0.3)
    tree = tree_of(priorities)
    uniform = torch.rand(64, dtype=torch.float64)
    points = (np.arange(64) + uniform.numpy()) / 64 * priorities.sum()
    expected = np.searchsorted(np.cumsum(priorities), points, side="right")
    assert tree.draw(uniform).tolist() == expected.tolist()


@pytest.mark.parametrize("largest", [1e-300, 1.0, 1e300])
def test_no_rounding_draws_what_has_no_priority(largest: float, generator: torch.Generator) -> None:
    rng = np.random.default_rng(0)
    for size in (1, 3, 27, 200):
        priorities = rng.random(size) ** 20 * largest * (rng.random(size) < 0.3)
        priorities[rng.integers(size)] = largest
        drawn = draw(tree_of(priorities), 2_000, generator)
        assert (priorities[drawn.numpy()] > 0.0).all()


def test_the_ends_of_the_range_are_no_exception() -> None:
    priorities = np.array([0.0, 0.1, 0.0, 0.7, 0.2, 0.0])
    for edge, index in ((0.0, 1), (1.0, 4)):  # 1 is what rounding can make of a number below it
        assert tree_of(priorities).draw(torch.tensor([edge], dtype=torch.float64)).tolist() == [index]


def test_a_tree_of_nothing_draws_an_index_that_exists(generator: torch.Generator) -> None:
    assert draw(SumTree(5, CPU), 3, generator).tolist() == [0, 0, 0]


@pytest.mark.parametrize("count", [0, 3, 30])
def test_state_round_trip(count: int) -> None:
    rng = np.random.default_rng(0)
    tree, other = SumTree(30, CPU), tree_of(rng.random(30))
    if count:
        tree.fill(0, torch.as_tensor(rng.random(count)))
        tree.write(torch.tensor([0, count - 1]), torch.tensor([0.3, 0.4]))
    state = tree.state_dict(count)
    assert state["priorities"].shape == (count,)
    other.load_state_dict(copy.deepcopy(state))
    for a, b in zip(tree.levels, other.levels, strict=True):
        assert torch.equal(a, b)
