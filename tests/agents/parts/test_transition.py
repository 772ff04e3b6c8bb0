"""Packed transitions: every field comes back as it went in, from any position and in any dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agents.parts.spaces import Box, Discrete, EnvSpec, MultiDiscrete, Space
from agents.parts.transition import Layout, Transitions, pack

OBSERVATIONS: list[Space] = [
    Box((3,), torch.float32),
    Box((), torch.float32),
    Box((5,), torch.uint8),
    Box((2, 3, 1), torch.uint8),
    Box((3,), torch.bool),
    Discrete(7),
]
ACTIONS: list[Space] = [Discrete(4), MultiDiscrete((3, 5)), Box((3,), torch.float32), Box((2, 2), torch.float32)]


def values(space: Space, n: int, generator: torch.Generator) -> torch.Tensor:
    if isinstance(space, Discrete):
        return torch.randint(space.n, (n,), generator=generator)
    if isinstance(space, MultiDiscrete):
        return torch.stack([torch.randint(high, (n,), generator=generator) for high in space.nvec], -1)
    if space.dtype == torch.float32:
        return torch.randn(n, *space.shape, generator=generator)
    return torch.randint(2 if space.dtype == torch.bool else 256, (n, *space.shape), generator=generator).to(
        space.dtype
    )


@pytest.mark.parametrize("action", ACTIONS, ids=str)
@pytest.mark.parametrize("observation", OBSERVATIONS, ids=str)
def test_fields_come_back(observation: Space, action: Space, generator: torch.Generator) -> None:
    layout = Layout(EnvSpec(observation, action, num_envs=6, has_reset_steps=True))
    fields = {
        "observation": values(observation, 6, generator),
        "next_observation": values(observation, 6, generator),
        "action": values(action, 6, generator),
        "reward": torch.randn(6, generator=generator),
        "terminated": torch.tensor([True, False, True, False, False, True]),
        "truncated": torch.tensor([False, False, True, True, False, True]),
        "valid": torch.tensor([True, True, False, True, False, True]),
    }
    packed = pack(layout, **{name: field.numpy() for name, field in fields.items()})
    assert packed.packed.shape == (6, layout.row_bytes)
    assert packed.count == 4

    for rows in (packed.packed, packed.packed.view(2, 3, -1), packed.packed[[4, 1]]):
        read = Transitions(rows, layout, 0)
        order = torch.arange(6).view(2, 3) if rows.ndim == 3 else torch.tensor([4, 1] if len(rows) == 2 else range(6))
        for name, field in fields.items():
            got = layout.read(rows, name)
            assert got.dtype == field.dtype
            assert torch.equal(got, field[order]), name
            assert torch.equal(got, getattr(read, "mask" if name == "valid" else name))


def test_action_masks_are_kept_where_there_are_any() -> None:
    arguments: dict[str, Any] = {
        "observation": [0, 1], "action": [1, 0], "reward": [0.0, 1.0], "next_observation": [1, 1],
        "terminated": [False, True], "truncated": [False, False],
    }  # fmt: skip
    mask, next_mask = [[True, False, True], [False, True, True]], [[False, True, False], [True, True, False]]
    without = pack(Layout(EnvSpec(Discrete(2), Discrete(3), num_envs=2)), **arguments)
    assert without.action_mask is None and without.next_action_mask is None
    layout = Layout(EnvSpec(Discrete(2), Discrete(3), num_envs=2, has_action_mask=True))
    rows = pack(layout, **arguments, action_mask=mask, next_action_mask=next_mask)
    assert rows.action_mask is not None and rows.next_action_mask is not None
    assert rows.action_mask.tolist() == mask
    assert rows.next_action_mask.tolist() == next_mask
    assert rows.reward.tolist() == [0.0, 1.0]
    everything = pack(layout, **arguments)
    assert everything.action_mask is not None and everything.action_mask.all()


def test_no_mask_where_every_row_is_a_transition() -> None:
    spec = EnvSpec(Discrete(2), Discrete(2), num_envs=2)
    rows = pack(
        Layout(spec),
        observation=[0, 1],
        action=[1, 0],
        reward=[0.0, 1.0],
        next_observation=[1, 1],
        terminated=[False, True],
        truncated=[False, False],
    )
    assert rows.mask is None
    assert rows.count == 2


@pytest.mark.parametrize("observation", OBSERVATIONS, ids=str)
def test_rows_are_aligned(observation: Space) -> None:
    """Every field of every row starts at a multiple of its size, so that rows can be viewed as their dtypes."""
    layout = Layout(EnvSpec(observation, Discrete(2), num_envs=1))
    assert layout.row_bytes % 8 == 0
    assert layout.numpy_dtype.itemsize == layout.row_bytes
    assert layout.numpy_dtype.fields is not None
    for dtype, offset in (field[:2] for field in layout.numpy_dtype.fields.values()):
        assert offset % np.dtype(dtype.base).itemsize == 0


def test_truncate_marks_rows_and_nothing_else(generator: torch.Generator) -> None:
    layout = Layout(EnvSpec(Box((3,), torch.float32), Discrete(2), num_envs=2))
    rows = torch.randint(256, (4, 2, layout.row_bytes), generator=generator, dtype=torch.uint8)
    before = rows.clone()
    layout.truncate(rows[2])
    changed = (rows != before).nonzero()
    assert Transitions(rows, layout, 0).truncated[2].tolist() == [True, True]
    assert set(changed[:, 0].tolist()) <= {2}
    assert len(set(changed[:, 2].tolist())) <= 1
