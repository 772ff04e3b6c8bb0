"""An environment that counts: what it returns says which episode and which step it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]
Fault = Literal["raise", "reward", "observation"]
View = Literal["count", "parity", "image"]


class CountingEnv(gymnasium.Env[Any, Any]):
    """Observation ``[episode id, step index]``, reward 1.

    Args:
        lengths: Lengths of the episodes, in turn.
        ends: How the episodes end, in turn: terminated where True, truncated where False.
        action_space: Any; ``Discrete(2)`` by default. The actions received are kept in ``actions``.
        view: ``"count"``, or the parity of the step index as a Discrete observation that starts at 5, or an image
            whose pixels are all the step index.
        fault: What goes wrong, and in which step, counted from 0 over all episodes.
    """

    def __init__(
        self,
        lengths: Sequence[int] = (3,),
        ends: Sequence[bool] = (False,),
        *,
        action_space: spaces.Space[Any] | None = None,
        view: View = "count",
        fault: tuple[Fault, int] | None = None,
    ) -> None:
        self.lengths, self.ends, self.view, self.fault = lengths, ends, view, fault
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.observation_space = {
            "count": spaces.Box(-1.0, 1e6, (2,), np.float32),
            "parity": spaces.Discrete(2, start=5),
            "image": spaces.Box(0, 255, (1, 2, 3), np.uint8),
        }[view]
        self.episode, self.index, self.total = -1, 0, 0
        self.actions: list[Any] = []

    def _observe(self) -> Any:
        if self.view == "parity":
            return 5 + self.index % 2
        if self.view == "image":
            return np.full((1, 2, 3), self.index, np.uint8)
        return np.array([self.episode, self.index], np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode, self.index = self.episode + 1, 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        turn = self.episode % len(self.lengths)
        assert self.index < self.lengths[turn], "stepped after the end of an episode"
        fault = self.fault[0] if self.fault is not None and self.fault[1] == self.total else None
        if fault == "raise":
            raise RuntimeError("broken on purpose")
        self.actions.append(np.copy(action))
        self.index += 1
        self.total += 1
        observation = self._observe()
        if fault == "observation":
            observation[1] = np.nan
        over = self.index == self.lengths[turn]
        end = self.ends[self.episode % len(self.ends)]
        return observation, float("nan") if fault == "reward" else 1.0, over and end, over and not end, {}


class ChainEnv(gymnasium.Env[Any, Any]):
    """States 0 to ``size - 1`` in a row: action 1 goes right, 0 left; the right end pays 1 and terminates."""

    def __init__(self, size: int = 5, limit: int = 20) -> None:
        self.size, self.limit = size, limit
        self.observation_space = spaces.Discrete(size)
        self.action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.state, self.time = 0, 0
        return self.state, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.state = max(self.state + (1 if action == 1 else -1), 0)
        self.time += 1
        over = self.state == self.size - 1
        return self.state, float(over), over, self.time == self.limit and not over, {}


def make_vector(
    envs: Sequence[Callable[[], gymnasium.Env[Any, Any]]], mode: AutoresetMode, *, processes: bool = False
) -> VectorEnv:
    cls = AsyncVectorEnv if processes else SyncVectorEnv
    return cls(envs, autoreset_mode=mode)


def counting(mode: AutoresetMode, *, processes: bool = False, **kwargs: Any) -> VectorEnv:
    """Three environments that end at different times, in different ways."""
    endings = [((3, 1), (False, True)), ((2,), (True,)), ((4, 2, 3), (True, False, False))]
    return make_vector([partial(CountingEnv, *e, **kwargs) for e in endings], mode, processes=processes)
