"""What an agent knows of an environment: shapes, dtypes and counts, and no Gymnasium."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch


@dataclass(frozen=True)
class Discrete:
    """One of ``n`` choices, numbered from 0."""

    n: int


@dataclass(frozen=True)
class MultiDiscrete:
    """A vector of choices, choice ``d`` one of ``nvec[d]``, each numbered from 0."""

    nvec: tuple[int, ...]


@dataclass(frozen=True)
class Box:
    """A tensor of numbers. ``low`` and ``high`` are flat, one number per element, and may be infinite.

    ``squashed`` actions are any numbers, which the environments take through tanh to the bounds.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    squashed: bool = False


Space: TypeAlias = Discrete | MultiDiscrete | Box


@dataclass(frozen=True)
class EnvSpec:
    """What an agent is built for.

    Attributes:
        observation: What an observation is.
        action: What an action is.
        num_envs: How many environments step together, N.
        has_reset_steps: Whether some rows of a step only reset an environment and are no transition. An environment's
            ``next_observation`` is then always what its next row acts on.
        has_action_mask: Whether the environments say which of the Discrete actions are possible.
    """

    observation: Space
    action: Space
    num_envs: int
    has_reset_steps: bool = False
    has_action_mask: bool = False
