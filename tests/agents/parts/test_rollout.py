"""Rollouts: time-major rows in the order of their steps."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch

from agents.parts.rollout import Rollout
from agents.parts.spaces import Discrete, EnvSpec
from agents.parts.transition import Layout, Transitions, pack

LAYOUT = Layout(EnvSpec(Discrete(10**9), Discrete(2), num_envs=2))
WITH_RESETS = Layout(EnvSpec(Discrete(10**9), Discrete(2), num_envs=2, has_reset_steps=True))
CPU = torch.device("cpu")


def step(t: int) -> Transitions:
    return pack(
        LAYOUT,
        observation=[10 * t, 10 * t + 1],
        action=[0, 1],
        reward=[0.0, 0.0],
        next_observation=[0, 0],
        terminated=[False, False],
        truncated=[False, False],
    )


def test_rows_are_steps_in_order() -> None:
    rollout = Rollout(LAYOUT, 3, 2, CPU)
    for start in (0, 3):
        for t in range(start, start + 3):
            assert not rollout.full
            rollout.write(step(t))
        assert rollout.full
        rows = Transitions(rollout.read(), LAYOUT, 0)
        assert rows.observation.tolist() == [[10 * t, 10 * t + 1] for t in range(start, start + 3)]
        assert rows.action.tolist() == [[0, 1]] * 3


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_is_written_to_itself(duplicate: Callable[[Rollout], Rollout]) -> None:
    rollout = Rollout(LAYOUT, 2, 2, CPU)
    rollout.write(step(1))
    copied = duplicate(rollout)
    copied.write(step(2))
    assert Transitions(copied.rows, LAYOUT, 0).observation.tolist() == [[10, 11], [20, 21]]
    assert Transitions(rollout.rows, LAYOUT, 0).observation.tolist() == [[10, 11], [0, 0]]


def test_steps_of_the_host_are_written_elsewhere() -> None:
    rollout = Rollout(LAYOUT, 2, 2, torch.device("meta"))
    rollout.write(step(1))
    assert rollout.size == 1


@pytest.mark.parametrize("written", [0, 2, 3])
def test_state_round_trip(written: int) -> None:
    rollout, copied = Rollout(LAYOUT, 3, 2, CPU), Rollout(LAYOUT, 3, 2, CPU)
    for t in range(written):
        rollout.write(step(t))
    state = rollout.state_dict()
    assert len(state["rows"]) == written
    copied.write(step(99))
    copied.load_state_dict(state)
    for t in range(written, 3):
        rollout.write(step(t))
        copied.write(step(t))
    assert copied.full
    assert torch.equal(rollout.read(), copied.read())


def test_state_is_a_copy() -> None:
    rollout = Rollout(LAYOUT, 3, 2, CPU)
    rollout.write(step(1))
    state = rollout.state_dict()
    rollout.rows.zero_()
    assert Transitions(state["rows"], LAYOUT, 0).observation.tolist() == [[10, 11]]


@pytest.mark.parametrize(("length", "num_envs"), [(1, 2), (3, 1)])
def test_state_of_another_size(length: int, num_envs: int) -> None:
    rollout = Rollout(LAYOUT, 3, 2, CPU)
    for t in range(2):
        rollout.write(step(t))
    with pytest.raises(ValueError, match="do not fit"):
        Rollout(LAYOUT, length, num_envs, CPU).load_state_dict(rollout.state_dict())


def test_cut_ends_the_newest_step_alone() -> None:
    rollout = Rollout(LAYOUT, 3, 2, CPU)
    rollout.cut()
    rollout.write(step(0))
    rollout.write(step(1))
    rollout.cut()
    rollout.write(step(2))
    assert Transitions(rollout.read(), LAYOUT, 0).truncated.tolist() == [[False] * 2, [True] * 2, [False] * 2]


@pytest.mark.parametrize("written", [1, 2, 3])
def test_cut_where_the_next_step_acts_on_the_successor(written: int) -> None:
    rollout = Rollout(WITH_RESETS, 4, 2, CPU)
    rollout.cut()
    for t in range(written):
        rollout.write(step(t))
    rollout.cut()
    for t in range(written, 4):
        rollout.write(step(t))
    rows = Transitions(rollout.read(), WITH_RESETS, 0)
    assert rows.mask is not None
    assert rows.mask.tolist() == [[t != written - 1] * 2 for t in range(4)]
    assert rows.truncated.tolist() == [[t in (written - 2, written - 1)] * 2 for t in range(4)]
