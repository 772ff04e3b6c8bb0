"""Gymnasium's environments one after the other, without what takes longer than stepping a small one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.vector.utils import concatenate


class InTurn(SyncVectorEnv):
    """As Gymnasium's SyncVectorEnv in autoreset mode ``SAME_STEP``, but quick where the environments are.

    Args:
        env_fns: Make the environments, whose actions and observations are arrays or numbers.
    """

    def __init__(self, env_fns: Iterable[Callable[[], gymnasium.Env[Any, Any]]]) -> None:
        super().__init__(list(env_fns), autoreset_mode=AutoresetMode.SAME_STEP)

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step each environment; where an episode ends, begin the next one."""
        n = self.num_envs
        rewards, ends, cuts = np.empty(n), np.empty(n, np.bool_), np.empty(n, np.bool_)
        infos: dict[str, Any] = {}
        for index, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            observation, rewards[index], end, cut, info = env.step(action)
            ends[index], cuts[index] = end, cut
            if end or cut:
                final = {"final_obs": copy(observation), "final_info": info}  # which a reset may overwrite
                infos = self._add_info(infos, final, index)
                observation, info = env.reset()
            if info:
                infos = self._add_info(infos, info, index)
            self._env_obs[index] = observation
        return self._together(), rewards, ends, cuts, infos

    def _together(self) -> np.ndarray:
        """The observations as one array of the space's type, which Gymnasium refuses where they do not fit."""
        wanted: np.ndarray = self._observations
        try:
            together = np.array(self._env_obs)
        except ValueError:  # they are of several shapes
            together = np.empty(0)
        if together.shape == wanted.shape and together.dtype == wanted.dtype:
            return together
        for index, observation in enumerate(self._env_obs):  # one by one, so that it is known which one does not fit
            concatenate(self.single_observation_space, [observation], wanted[index : index + 1])
        return wanted.copy()
