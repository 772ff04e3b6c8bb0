"""Exploration by random actions, and schedules: of how many, and of the learning rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.parts.acting import ArrayT

_STEPS_OF_A_DRAW = 64


def linear_schedule(start: float, end: float, duration: int, step: int) -> float:
    """Go from ``start`` to ``end`` in ``duration`` steps, and stay there."""
    if step >= duration:
        return end
    return start + (end - start) * step / duration


class RandomActions:
    """Random actions in place of chosen ones: one coin per environment and step.

    They are drawn on the host, which takes the actions anyway, and for many steps in one call.

    Args:
        num_actions: Actions to draw from.
        num_envs: Environments, N.
        seed: Seed of coins and actions.
    """

    def __init__(self, num_actions: int, num_envs: int, seed: int) -> None:
        self._num_actions = num_actions
        self._num_envs = num_envs
        self._random = np.random.default_rng(seed)
        self._use(*self._draw(0, num_envs))

    def _draw(self, *shape: int) -> tuple[np.ndarray, np.ndarray]:
        return self._random.random(shape), self._random.integers(self._num_actions, size=shape)

    def _use(self, coin: np.ndarray, action: np.ndarray) -> None:
        """Take these ``(steps, N)`` from now on."""
        self._coin, self._action, self._next = coin, action, 0
        self._smallest: list[float] = coin.min(axis=1).tolist()

    def mix(self, action: ArrayT, epsilon: float) -> ArrayT:
        """Actions ``(N,)`` with a random one in place of each with the probability ``epsilon``.

        Another number of actions than usual gets coins of its own.
        """
        number = action.shape[0]
        if number != self._num_envs:
            coin, random = self._draw(number)
        else:
            if self._next == len(self._coin):
                self._use(*self._draw(_STEPS_OF_A_DRAW, number))
            step = self._next
            self._next += 1
            if self._smallest[step] >= epsilon:
                return action
            coin, random = self._coin[step], self._action[step]
        mixed = np.where(coin < epsilon, random, np.asarray(action))
        return torch.from_numpy(mixed) if isinstance(action, Tensor) else mixed

    def state_dict(self) -> dict[str, Any]:
        """Those that are drawn and not used, and where the next come from."""
        left = {"coin": self._coin[self._next :], "action": self._action[self._next :]}
        return {
            **{name: torch.from_numpy(values.copy()) for name, values in left.items()},
            "generator": self._random.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`, of the same number of environments."""
        self._use(state["coin"].cpu().numpy(), state["action"].cpu().numpy())
        self._random.bit_generator.state = state["generator"]
