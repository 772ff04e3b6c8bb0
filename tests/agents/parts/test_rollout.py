from __future__ import annotations

import pytest
import torch

from agents.parts.rollout import Rollout
from agents.parts.spaces import Box, Discrete, EnvSpec
from agents.parts.transition import Layout, Transitions, pack

LAYOUT = Layout(EnvSpec(Box((2,), torch.float32), Discrete(9), num_envs=2))


def step(t: int) -> Transitions:
    return pack(
        LAYOUT, observation=[[t, 0], [t, 1]], action=[t, t + 1], reward=[t, -t],
        next_observation=[[t + 1, 0], [t + 1, 1]], terminated=[False, t == 1], truncated=[False, False],
    )  # fmt: skip


def make(length: int = 3, num_envs: int = 2) -> Rollout:
    return Rollout(LAYOUT, length, num_envs, torch.device("cpu"))


def test_rows_are_time_major_and_each_rollout_begins_anew() -> None:
    rollout = make()
    for first in (0, 3):
        for t in range(first, first + 3):
            assert not rollout.full
            rollout.write(step(t))
        assert rollout.full
        read = Transitions(rollout.read(), LAYOUT, 0)
        assert read.reward.tolist() == [[t, -t] for t in range(first, first + 3)]
        assert read.observation[:, 1, 0].tolist() == [first, first + 1, first + 2]
        assert read.terminated[:, 1].tolist() == [t == 1 for t in range(first, first + 3)]
        assert not rollout.full


def test_writing_copies() -> None:
    rollout, transitions = make(1), step(4)
    rollout.write(transitions)
    transitions.packed.zero_()
    assert Transitions(rollout.read(), LAYOUT, 0).reward.tolist() == [[4, -4]]


def test_cut_ends_the_newest_step() -> None:
    rollout = make()
    rollout.cut()  # of an empty rollout: nothing
    rollout.write(step(0))
    rollout.write(step(1))
    rollout.cut()
    rollout.write(step(2))
    assert Transitions(rollout.read(), LAYOUT, 0).truncated.tolist() == [[False] * 2, [True] * 2, [False] * 2]


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_restored_state_goes_on_identically(steps: int) -> None:
    rollout, other = make(), make()
    other.write(step(7))
    for t in range(steps):
        rollout.write(step(t))
    state = rollout.state_dict()
    if steps:
        rollout.rows[0] = 255  # the state is a copy
    other.load_state_dict(state)
    assert other.size == steps
    for t in range(steps, 3):
        other.write(step(t))
    assert Transitions(other.read(), LAYOUT, 0).reward.tolist() == [[t, -t] for t in range(3)]


@pytest.mark.parametrize("wrong", [make(4), make(3, 1)])
def test_a_state_of_another_shape_is_refused(wrong: Rollout) -> None:
    wrong.size = wrong.rows.shape[0]
    with pytest.raises(ValueError, match=r"Rollout: stored rows .* do not fit"):
        make().load_state_dict(wrong.state_dict())
