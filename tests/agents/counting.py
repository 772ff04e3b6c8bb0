"""An environment whose observations say which step of which episode they are, so that a test can read a transition."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

EVERY_MODE = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


class Counting(gymnasium.Env[np.ndarray, np.int64]):
    """Observes ``[episode, step]``, rewards 1, and ends each episode by the next of its lengths.

    A positive length ends in a terminal state, a negative one is a time limit.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, lengths: tuple[int, ...] = (3, -4, 1)) -> None:
        self.lengths = lengths
        self.episode = -1

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        self.count = 0
        return self._observation(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.count += 1
        length = self.lengths[self.episode % len(self.lengths)]
        ended = self.count == abs(length)
        return self._observation(), 1.0, ended and length > 0, ended and length < 0, {}

    def _observation(self) -> np.ndarray:
        return np.array([self.episode, self.count], np.float32)


class Endless(Counting):
    """Always the same observation and reward 1, cut by a time limit of 5 steps: worth 1 / (1 - gamma)."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def __init__(self) -> None:
        super().__init__((-5,))

    def _observation(self) -> np.ndarray:
        # The first observation after a reset differs: bootstrapping from it would show.
        return np.array([-1.0 if self.count == 0 else 1.0], np.float32)


def vector(mode: AutoresetMode, *lengths: tuple[int, ...]) -> SyncVectorEnv:
    """One counting environment for each sequence of lengths."""
    return SyncVectorEnv([lambda own=own: Counting(own) for own in lengths], autoreset_mode=mode)  # type: ignore[misc]
