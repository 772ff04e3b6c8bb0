from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from agents.parts.spaces import Box, Discrete, EnvSpec, Space
from agents.parts.transition import Layout, Transitions, pack

SPACES: list[Space] = [
    Discrete(7),
    Box((), torch.float32),
    Box((3,), torch.float32),
    Box((5,), torch.uint8),
    Box((3, 1, 7), torch.uint8),
    Box((3,), torch.bool),
]
ACTIONS: list[Space] = [Discrete(3), Box((1,), torch.float32), Box((2, 3), torch.float32)]


def sample(space: Space, rows: int) -> Tensor:
    if isinstance(space, Discrete):
        return torch.randint(space.n, (rows,))
    if space.dtype == torch.float32:
        return torch.randn(rows, *space.shape)
    return torch.randint(2 if space.dtype == torch.bool else 256, (rows, *space.shape)).to(space.dtype)


@pytest.mark.parametrize("observation", SPACES, ids=str)
@pytest.mark.parametrize("action", ACTIONS, ids=str)
def test_what_is_packed_is_read(observation: Space, action: Space) -> None:
    layout = Layout(EnvSpec(observation, action, num_envs=4, has_reset_steps=True))
    fields = {
        "observation": sample(observation, 4),
        "next_observation": sample(observation, 4),
        "action": sample(action, 4),
        "reward": torch.randn(4),
        "terminated": torch.tensor([True, False, False, True]),
        "truncated": torch.tensor([False, True, False, True]),
    }
    valid = torch.tensor([True, True, False, True])
    transitions = pack(layout, **{name: f.numpy() for name, f in fields.items()}, valid=valid.numpy())
    assert transitions.packed.dtype == torch.uint8
    assert transitions.packed.shape == (4, layout.row_bytes)
    assert transitions.count == 3
    for name, field in fields.items():
        read = getattr(transitions, name)
        assert read.dtype == field.dtype, name
        assert torch.equal(read, field), name
    mask = transitions.mask
    assert mask is not None
    assert torch.equal(mask, valid)
    stacked = Transitions(torch.stack([transitions.packed, transitions.packed.flip(0)]), layout, 0)
    for name, field in fields.items():
        assert torch.equal(getattr(stacked, name), torch.stack([field, field.flip(0)])), name


@pytest.mark.parametrize("observation", SPACES, ids=str)
def test_every_field_is_aligned_in_every_row(observation: Space) -> None:
    layout = Layout(EnvSpec(observation, Discrete(2), num_envs=1))
    assert layout.row_bytes % 8 == 0
    stops: list[int] = []
    for name, (dtype, shape) in layout.fields.items():
        start, stop = layout._bytes[name]
        assert start % dtype.itemsize == 0, name
        assert stop - start == dtype.itemsize * int(np.prod(shape)), name
        assert not stops or start >= stops[-1], "fields overlap"
        stops.append(stop)
    assert stops[-1] <= layout.row_bytes
    assert layout.numpy_dtype.itemsize == layout.row_bytes


def test_fields_are_views_of_the_row() -> None:
    layout = Layout(EnvSpec(Box((2,), torch.float32), Discrete(2), num_envs=1))
    packed = torch.zeros(3, layout.row_bytes, dtype=torch.uint8)
    transitions = Transitions(packed, layout, 3)
    transitions.reward[1] = 5.0
    transitions.observation[2] = torch.tensor([1.0, 2.0])
    assert Transitions(packed.clone(), layout, 3).reward.tolist() == [0.0, 5.0, 0.0]
    assert Transitions(packed.clone(), layout, 3).observation[2].tolist() == [1.0, 2.0]
    for name in ("observation", "next_observation", "action", "reward"):
        assert getattr(transitions, name).untyped_storage().data_ptr() == packed.untyped_storage().data_ptr(), name


def test_rows_without_a_mask() -> None:
    layout = Layout(EnvSpec(Discrete(2), Discrete(2), num_envs=2))
    transitions = pack(
        layout, observation=[0, 1], action=[1, 0], reward=[1, 2], next_observation=[1, 1],
        terminated=[False, True], truncated=[False, False],
    )  # fmt: skip
    assert transitions.mask is None
    assert transitions.count == 2


def test_truncate_marks_the_given_rows_and_nothing_else() -> None:
    layout = Layout(EnvSpec(Box((3,), torch.uint8), Discrete(2), num_envs=1))
    packed = torch.zeros(2, 3, layout.row_bytes, dtype=torch.uint8)
    layout.truncate(packed[1])
    transitions = Transitions(packed, layout, 0)
    assert transitions.truncated.tolist() == [[False] * 3, [True] * 3]
    assert int(packed.sum()) == 3
