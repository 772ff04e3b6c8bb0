"""Transitions packed into one byte row each: what a step moves to the device, and what replay and rollout store.

One row holds all fields of one transition. A whole step is therefore one transfer to the device, one copy into the
replay and one gather out of it, whatever the number of fields.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from agents.parts.acting import reader
from agents.parts.spaces import Discrete, EnvSpec, MultiDiscrete, Space

_NUMPY_DTYPES = {
    torch.float32: np.dtype(np.float32),
    torch.int64: np.dtype(np.int64),
    torch.uint8: np.dtype(np.uint8),
    torch.bool: np.dtype(np.bool_),
}


def _field(space: Space) -> tuple[torch.dtype, tuple[int, ...]]:
    if isinstance(space, Discrete | MultiDiscrete):
        return torch.int64, () if isinstance(space, Discrete) else (len(space.nvec),)
    return space.dtype, space.shape


class Layout:
    """Where each field of a transition stands in its row.

    Args:
        spec: The environment's spaces.
    """

    def __init__(self, spec: EnvSpec) -> None:
        self.fields: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
            "observation": _field(spec.observation),
            "next_observation": _field(spec.observation),
            "action": _field(spec.action),
            "reward": (torch.float32, ()),
            "terminated": (torch.bool, ()),
            "truncated": (torch.bool, ()),
            "valid": (torch.bool, ()),
        }
        if spec.has_action_mask:
            assert isinstance(spec.action, Discrete)
            self.fields |= dict.fromkeys(("action_mask", "next_action_mask"), (torch.bool, (spec.action.n,)))
        self.has_reset_steps = spec.has_reset_steps
        self.has_action_mask = spec.has_action_mask
        packed = np.dtype(
            [(name, _NUMPY_DTYPES[dtype], shape) for name, (dtype, shape) in self.fields.items()], align=True
        )
        assert packed.fields is not None
        offsets = {name: int(field[1]) for name, field in packed.fields.items()}
        # A row of a multiple of 8 bytes keeps every field aligned in every row.
        self.row_bytes = -(-packed.itemsize // 8) * 8
        self.numpy_dtype = np.dtype(
            {
                "names": list(offsets),
                "formats": [packed.fields[name][0] for name in offsets],
                "offsets": list(offsets.values()),
                "itemsize": self.row_bytes,
            }
        )
        # Plain numbers, which torch.compile can trace where it cannot trace a numpy dtype.
        self._bytes = {
            name: (offsets[name], offsets[name] + dtype.itemsize * math.prod(shape))
            for name, (dtype, shape) in self.fields.items()
        }

    def read(self, packed: Tensor, name: str, index: Tensor | None = None) -> Tensor:
        """One field of packed rows ``(..., row_bytes)``, of all or of those at ``index``: ``(..., *field)``."""
        dtype, shape = self.fields[name]
        start, stop = self._bytes[name]
        raw = packed[..., start:stop]
        if index is not None:  # before anything is computed: the rows may be a whole replay
            raw = raw[index]
        # Flags by comparison, since Inductor fails on bytes that are viewed as bool.
        flat = raw != 0 if dtype == torch.bool else raw.view(dtype)
        return flat.squeeze(-1) if shape == () else flat.view(*raw.shape[:-1], *shape)

    def write(self, rows: Tensor, name: str, value: Tensor) -> None:
        """Write one field ``(..., *field)`` into packed rows ``(..., row_bytes)``."""
        dtype, _ = self.fields[name]
        start, stop = self._bytes[name]
        flat = value.to(dtype).reshape(*rows.shape[:-1], -1).contiguous()
        rows[..., start:stop] = flat.view(torch.uint8)

    def truncate(self, rows: Tensor) -> None:
        """Mark packed rows as the last of their episodes."""
        start, stop = self._bytes["truncated"]
        rows[..., start:stop] = 1


class Transitions:
    """Packed transitions ``(..., row_bytes)``, read field by field.

    ``next_observation`` is the true successor, also at the end of an episode. ``valid`` is False for rows that only
    reset an environment: they are no transition.

    Args:
        packed: Rows of bytes.
        layout: What the bytes mean.
        count: How many of the rows are valid, those of all processes, known on the host.
        array: The same memory as an array, where it is at hand: to ask a tensor for it takes longer than to copy it.
    """

    def __init__(self, packed: Tensor, layout: Layout, count: int, array: np.ndarray | None = None) -> None:
        self.packed = packed
        self.layout = layout
        self.count = count
        self.array = array

    @property
    def observation(self) -> Tensor:
        """Observation that was acted on."""
        return self.layout.read(self.packed, "observation")

    @property
    def next_observation(self) -> Tensor:
        """Observation that followed, the last one of its episode included."""
        return self.layout.read(self.packed, "next_observation")

    @property
    def action(self) -> Tensor:
        """Action taken, as the agent gave it."""
        return self.layout.read(self.packed, "action")

    @property
    def reward(self) -> Tensor:
        """Reward."""
        return self.layout.read(self.packed, "reward")

    @property
    def terminated(self) -> Tensor:
        """Whether the episode ended in a terminal state: nothing follows, nothing is bootstrapped."""
        return self.layout.read(self.packed, "terminated")

    @property
    def truncated(self) -> Tensor:
        """Whether the episode was cut, by a time limit for instance: the successor still has a value."""
        return self.layout.read(self.packed, "truncated")

    @property
    def action_mask(self) -> Tensor | None:
        """Which actions were possible; None where all always are."""
        return self.layout.read(self.packed, "action_mask") if self.layout.has_action_mask else None

    @property
    def next_action_mask(self) -> Tensor | None:
        """Which actions were possible after :attr:`next_observation`; None where all always are."""
        return self.layout.read(self.packed, "next_action_mask") if self.layout.has_action_mask else None

    @property
    def mask(self) -> Tensor | None:
        """Which rows are transitions; None where all are."""
        return self.layout.read(self.packed, "valid") if self.layout.has_reset_steps else None


class Writer:
    """Copies steps into rows: by numpy where it can, which between two steps takes a quarter of what torch does.

    Args:
        rows: ``(steps, N, row_bytes)``.
    """

    def __init__(self, rows: Tensor) -> None:
        self._rows = rows
        array = reader(rows.device)(rows)
        self._array = array if isinstance(array, np.ndarray) else None

    def __reduce__(self) -> tuple[type[Writer], tuple[Tensor]]:
        return Writer, (self._rows,)  # a copy's array is that of its rows

    def write(self, step: int, transitions: Transitions) -> None:
        """Copy one step of all environments."""
        if self._array is None or transitions.array is None:
            self._rows[step] = transitions.packed
        else:
            self._array[step] = transitions.array


def pack(
    layout: Layout,
    *,
    observation: Sequence[object] | np.ndarray,
    action: Sequence[object] | np.ndarray,
    reward: Sequence[float] | np.ndarray,
    next_observation: Sequence[object] | np.ndarray,
    terminated: Sequence[bool] | np.ndarray,
    truncated: Sequence[bool] | np.ndarray,
    valid: Sequence[bool] | np.ndarray | None = None,
    action_mask: Sequence[object] | np.ndarray | None = None,
    next_action_mask: Sequence[object] | np.ndarray | None = None,
) -> Transitions:
    """Pack the transitions of one step, on the CPU: for those who feed an agent without :mod:`agents.parts.envs`."""
    rows = np.zeros(len(reward), layout.numpy_dtype)
    rows["observation"] = observation
    rows["action"] = action
    rows["reward"] = reward
    rows["next_observation"] = next_observation
    rows["terminated"] = terminated
    rows["truncated"] = truncated
    rows["valid"] = True if valid is None else valid
    if layout.has_action_mask:
        rows["action_mask"] = True if action_mask is None else action_mask
        rows["next_action_mask"] = True if next_action_mask is None else next_action_mask
    array = rows.view(np.uint8).reshape(len(rows), layout.row_bytes)
    return Transitions(torch.from_numpy(array), layout, int(rows["valid"].sum()), array)
