"""Environments whose reset and step are torch functions: they live on the agent's device, and compile with it.

To everyone else they are Gymnasium environments. :func:`register` gives one an id, under which ``gymnasium.make_vec``
and ``gymnasium.make`` find it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from rlloss.core.checks import check_integer


class DeviceEnv(ABC):
    """The rules of one kind of environment: pure torch functions of any number N of environments at once.

    Nothing in them may depend on a value on the host: ``torch.where`` instead of ``if``, and no new tensor but on the
    device of what is given. A subclass's constructor takes hyper-parameters only.

    Attributes:
        observation_space: What :meth:`observe` returns, without N: a Box or a Discrete.
        action_space: What :meth:`step` takes, without N: a Discrete, a MultiDiscrete of one dimension, or a Box;
            choices are numbered from 0.
        num_uniforms: How many random numbers a new episode takes.
    """

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    num_uniforms: int

    @abstractmethod
    def reset(self, uniform: Tensor) -> Tensor:
        """Begin episodes.

        Args:
            uniform: Independent random numbers in [0, 1), ``(N, num_uniforms)``.

        Returns:
            States ``(N, ...)``: all that :meth:`step` and :meth:`observe` have to know.
        """

    @abstractmethod
    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Act.

        Args:
            state: ``(N, ...)``; it stays as it is.
            action: ``(N,)`` or ``(N, ...)``, in the action space.

        Returns:
            The states that follow ``(N, ...)``, rewards ``(N,)``, and whether each ended its episode, bool ``(N,)``.
        """

    def observe(self, state: Tensor) -> Tensor:
        """What an agent sees of states: ``(N, ...)``; the states themselves unless a subclass says otherwise."""
        return state


class Episodes(NamedTuple):
    """Where the episodes of N environments stand.

    Attributes:
        state: As :class:`DeviceEnv` has it, ``(N, ...)``.
        length: Steps so far, int32 ``(N,)``.
        episode_return: Sum of the rewards so far, float32 ``(N,)``.
    """

    state: Tensor
    length: Tensor
    episode_return: Tensor


class Outcome(NamedTuple):
    """What one step of N environments came to.

    Attributes:
        successor: The observation that followed, also where an episode ended, ``(N, ...)``.
        reward: Float32 ``(N,)``.
        terminated: Whether the episode ended in a terminal state, bool ``(N,)``.
        truncated: Whether it reached the limit of its length, bool ``(N,)``.
        length: Steps of the episode so far, this one included, int32 ``(N,)``.
        episode_return: Sum of its rewards so far, this one included, float32 ``(N,)``.
    """

    successor: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    length: Tensor
    episode_return: Tensor


class Finished(NamedTuple):
    """Which steps ended an episode, and how, ``(..., N)``, in their order.

    Attributes:
        ended: Whether one ended.
        episode_return: What it had returned so far.
        length: Its steps so far.
    """

    ended: Tensor
    episode_return: Tensor
    length: Tensor


def advance(
    env: DeviceEnv, episodes: Episodes, action: Tensor, uniform: Tensor, max_episode_steps: int | None
) -> tuple[Episodes, Outcome]:
    """Step all environments, and begin new episodes where one ended: a pure function.

    Args:
        env: The environments' rules.
        episodes: Where the episodes stand.
        action: ``(N,)`` or ``(N, ...)``, in the action space.
        uniform: ``(N, num_uniforms)``, for the environments whose episode ends; the others leave theirs unused.
        max_episode_steps: Length at which an episode is truncated; None for no limit.

    Returns:
        Where the episodes stand then, and what the step came to.
    """
    state, reward, terminated = env.step(episodes.state, action)
    length, episode_return = episodes.length + 1, episodes.episode_return + reward
    truncated = torch.zeros_like(terminated) if max_episode_steps is None else length >= max_episode_steps
    ended = terminated | truncated
    outcome = Outcome(env.observe(state), reward, terminated, truncated, length, episode_return)
    ended_state = ended.view(-1, *[1] * (state.ndim - 1))
    begun = Episodes(
        torch.where(ended_state, env.reset(uniform), state),
        length.masked_fill(ended, 0),
        episode_return.masked_fill(ended, 0.0),
    )
    return begun, outcome


class DeviceVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """N environments of one kind as Gymnasium's vector environment, autoreset mode ``SAME_STEP``.

    Args:
        rules: A class of device environments.
        num_envs: N.
        max_episode_steps: Length at which an episode is truncated; None for no limit.
        device: Where everything lives.
        arguments: What the class is made with.

    Raises:
        ValueError: Spaces that a device environment cannot have, ``num_envs`` or ``max_episode_steps`` < 1.

    Attributes:
        rules: The environment itself.
        episodes: Where the episodes stand, on the device.
        generator: Where the randomness comes from, on the device.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}  # noqa: RUF012
    episodes: Episodes

    def __init__(
        self,
        rules: type[DeviceEnv],
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        device: torch.device | str = "cpu",
        **arguments: Any,
    ) -> None:
        check_integer("DeviceVectorEnv", "num_envs", num_envs, low=1)
        if max_episode_steps is not None:
            check_integer("DeviceVectorEnv", "max_episode_steps", max_episode_steps, low=1)
        self.rules = rules(**arguments)
        _check_spaces(self.rules)
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.single_observation_space = self.rules.observation_space
        self.single_action_space = self.rules.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.render_mode = None
        self.generator = torch.Generator(device)
        self.generator.seed()

    @property
    def device(self) -> torch.device:
        """Where everything lives."""
        return self.generator.device

    def to(self, device: torch.device | str) -> DeviceVectorEnv:
        """Live on another device from the next :meth:`reset` on."""
        if self.device.type != torch.device(device).type:
            self.generator = torch.Generator(device).manual_seed(self.generator.initial_seed())
        return self

    def draw(self, steps: int) -> Tensor:
        """The random numbers of so many steps, ``(steps, N, num_uniforms)``: in one call those of as many calls."""
        size = (steps, self.num_envs, self.rules.num_uniforms)
        return torch.rand(size, generator=self.generator, device=self.device)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin new episodes everywhere; there are no options."""
        super().reset(seed=seed)
        if seed is not None:
            self.generator.manual_seed(seed)
        state = self.rules.reset(self.draw(1)[0])
        length = torch.zeros(self.num_envs, dtype=torch.int32, device=self.device)
        self.episodes = Episodes(state, length, torch.zeros(self.num_envs, device=self.device))
        return self._to_host(self.rules.observe(state)), {}

    @torch.no_grad()
    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step all environments; where an episode ends, ``info["final_obs"]`` is its last observation."""
        action = torch.as_tensor(np.asarray(actions), device=self.device)
        self.episodes, outcome = advance(self.rules, self.episodes, action, self.draw(1)[0], self.max_episode_steps)
        terminated, truncated = outcome.terminated.cpu().numpy(), outcome.truncated.cpu().numpy()
        info: dict[str, Any] = {}
        ended = terminated | truncated
        if ended.any():
            final = np.full(self.num_envs, None, dtype=object)
            successor = self._to_host(outcome.successor)
            for index in np.flatnonzero(ended):
                final[index] = successor[index]
            info = {"final_obs": final, "_final_obs": ended, "final_info": {}, "_final_info": ended.copy()}
        observation = self._to_host(self.rules.observe(self.episodes.state))
        return observation, outcome.reward.cpu().numpy().astype(np.float64), terminated, truncated, info

    def _to_host(self, observation: Tensor) -> np.ndarray:
        """A copy, of the space's dtype: a state may be changed in place later on."""
        return np.array(observation.cpu().numpy(), dtype=self.single_observation_space.dtype)


def _check_spaces(rules: DeviceEnv) -> None:
    name, observation, action = type(rules).__name__, rules.observation_space, rules.action_space
    if not isinstance(observation, spaces.Box | spaces.Discrete):
        raise ValueError(f"{name}: observation_space must be a Box or a Discrete, got {observation}")
    one_dimension = isinstance(action, spaces.MultiDiscrete) and len(action.nvec.shape) == 1
    if not (one_dimension or isinstance(action, spaces.Box | spaces.Discrete)):
        raise ValueError(
            f"{name}: action_space must be a Discrete, a MultiDiscrete of one dimension or a Box, got {action}"
        )
    for space in (observation, action):
        if np.any(getattr(space, "start", 0)):
            raise ValueError(f"{name}: choices must be numbered from 0, got {space}")


class DeviceSingleEnv(gymnasium.Env[Any, Any]):
    """One environment by itself, for ``gymnasium.make``, which limits its episodes.

    Args:
        rules: A class of device environments.
        arguments: What the class is made with.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, rules: type[DeviceEnv], **arguments: Any) -> None:
        self.rules = rules(**arguments)
        _check_spaces(self.rules)
        self.observation_space = self.rules.observation_space
        self.action_space = self.rules.action_space
        self.state: Tensor

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a new episode; there are no options."""
        super().reset(seed=seed)
        uniform = self.np_random.random((1, self.rules.num_uniforms), dtype=np.float32)
        self.state = self.rules.reset(torch.from_numpy(uniform))
        return self._observe(), {}

    @torch.no_grad()
    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Act."""
        batch = torch.as_tensor(np.asarray(action)).unsqueeze(0)
        self.state, reward, terminated = self.rules.step(self.state, batch)
        return self._observe(), float(reward), bool(terminated), False, {}

    def _observe(self) -> Any:
        observation = self.rules.observe(self.state)[0].numpy()
        if isinstance(self.observation_space, spaces.Discrete):
            return int(observation)
        return np.array(observation, dtype=self.observation_space.dtype)


def register(env_id: str, rules: type[DeviceEnv], *, max_episode_steps: int | None = None) -> None:
    """Give a device environment an id; to do so twice is no harm.

    Args:
        env_id: Such as ``"Coin-v0"``.
        rules: A class of device environments, defined at the top of a module.
        max_episode_steps: Length at which an episode is truncated; None for no limit.
    """
    gymnasium.registry.pop(env_id, None)  # where a module is imported again, Gymnasium would warn
    gymnasium.register(
        env_id,
        entry_point=partial(DeviceSingleEnv, rules),
        vector_entry_point=partial(DeviceVectorEnv, rules),
        max_episode_steps=max_episode_steps,
    )
