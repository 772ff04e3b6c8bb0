"""What agents know of Gymnasium: vector environments in, packed transitions out.

Every autoreset mode of Gymnasium is handled here, so that no transition crosses an episode and ``next_observation``
is always the true successor:

* ``NEXT_STEP``: the step after an episode's end only resets; its row is marked invalid.
* ``SAME_STEP``: the observation returned at an episode's end is already that of the next; the true successor
  comes from ``info["final_obs"]``.
* ``DISABLED``: environments that ended are reset here, by mask.

Environments of Discrete actions may say at every reset and step which of them are possible, as
``info["action_mask"]``; what holds for observations holds for these masks too.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cloudpickle
import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.utils import EzPickle
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor

from agents.parts.device_envs import DeviceVectorEnv, Finished
from agents.parts.errors import DivergedError, EnvironmentFault
from agents.parts.spaces import Box, Discrete, EnvSpec, MultiDiscrete, Space
from agents.parts.sync_env import InTurn
from agents.parts.transition import Layout, Transitions
from rlloss.core.distributed import process_count

Vectorization = Literal["auto", "sync", "async"]

# Namespaces that Gymnasium knows once a module is imported: the module, and the package that it comes with.
_NAMESPACES = {"ALE": ("ale_py", "ale-py"), "MinAtar": ("minatar.gym", "minatar")}

# Rewards are stored in float32, where what is larger than this is infinite.
_LARGEST_SQUARE = float(np.finfo(np.float32).max) ** 2


def make_vec(
    env: str,
    num_envs: int,
    *,
    vectorization: Vectorization = "auto",
    env_kwargs: Mapping[str, Any] | None = None,
) -> VectorEnv:
    """Make a vector environment by its Gymnasium id.

    Args:
        env: Id, such as ``"CartPole-v1"``, ``"ALE/Breakout-v5"``, ``"MinAtar/Breakout-v1"``, or
            ``"my_module:MyEnv-v0"``, whose module is imported first.
        num_envs: How many environments step together, >= 1.
        vectorization: ``"auto"`` takes the environment's own vectorised entry point when it has one and steps one
            after the other in this process otherwise, and where it is a single one of Gymnasium's own without
            ``env_kwargs``; ``"sync"`` always does the latter; ``"async"`` gives every environment a process.
        env_kwargs: Arguments of the environment's constructor.

    Returns:
        The environment, in autoreset mode ``SAME_STEP`` unless its own entry point decides otherwise.

    Raises:
        ValueError: No such environment, arguments that it refuses, ``num_envs`` < 1.
    """
    if num_envs < 1:
        raise ValueError(f"make_vec: num_envs must be >= 1, got {num_envs}")
    kwargs = dict(env_kwargs or {})
    try:
        name = _import_module_of(env)
        entry_point = gymnasium.spec(name).vector_entry_point
        # One of Gymnasium's own takes a quarter of the time of a vector of one. Others may not be the same alone, as
        # Atari's are not, nor take the same arguments.
        alone = num_envs == 1 and not kwargs and str(entry_point).startswith("gymnasium.envs.")
        if vectorization == "auto" and entry_point is not None and not alone:
            return gymnasium.make_vec(name, num_envs, vectorization_mode="vector_entry_point", **kwargs)
        if vectorization != "async":
            return InTurn([partial(gymnasium.make, name, **kwargs)] * num_envs)
        vector_kwargs = {"autoreset_mode": AutoresetMode.SAME_STEP}
        return gymnasium.make_vec(name, num_envs, vectorization_mode="async", vector_kwargs=vector_kwargs, **kwargs)
    except Exception as error:  # a foreign constructor that refuses its arguments may raise anything
        raise ValueError(f"make_vec: environment {env!r} cannot be made: {error}") from error


def _import_module_of(env: str) -> str:
    """Import the module of ``"module:Id-v0"``, or that of a known namespace, and return the id."""
    module, _, name = env.rpartition(":")
    if module:
        importlib.import_module(module)
    namespace = name.partition("/")[0]
    if namespace in _NAMESPACES and name not in gymnasium.registry:
        known, package = _NAMESPACES[namespace]
        try:
            source = importlib.import_module(known)
        except ModuleNotFoundError as error:
            raise ValueError(f"{error}, try pip install {package}") from error
        if name not in gymnasium.registry and hasattr(source, "register_envs"):
            source.register_envs()
    return name


@contextmanager
def record_video(env: str, folder: Path, *, env_kwargs: Mapping[str, Any] | None = None) -> Iterator[VectorEnv]:
    """One environment that films its episodes into ``folder``, for a ``with`` block.

    Raises:
        ValueError: The environment cannot be drawn, or moviepy is not installed.
    """

    def make() -> gymnasium.Env[Any, Any]:
        single = gymnasium.make(_import_module_of(env), render_mode="rgb_array", **dict(env_kwargs or {}))
        return gymnasium.wrappers.RecordVideo(single, str(folder), episode_trigger=lambda episode: True)

    try:
        recorded = SyncVectorEnv([make], autoreset_mode=AutoresetMode.NEXT_STEP)
    except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
        raise ValueError(f"environment {env!r} cannot be filmed: {error}") from error
    try:
        yield recorded
    finally:
        recorded.close()


def _observation_space(space: spaces.Space[Any]) -> Space:
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, spaces.Box):
        kept = {np.dtype(np.uint8): torch.uint8, np.dtype(np.bool_): torch.bool}
        return Box(tuple(space.shape), kept.get(space.dtype, torch.float32))
    raise ValueError(
        f"observation space {type(space).__name__} is not supported, wanted Box or Discrete "
        "(gymnasium.wrappers.FlattenObservation turns many spaces into a Box)"
    )


def _action_space(space: spaces.Space[Any], squash: bool) -> Space:
    if squash and not (isinstance(space, spaces.Box) and space.is_bounded("both")):
        raise ValueError(f"actions can be squashed to a Box with finite bounds alone, got {space}")
    if isinstance(space, spaces.Discrete):
        return Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return MultiDiscrete(tuple(int(n) for n in space.nvec.flat))
    if isinstance(space, spaces.MultiBinary):
        return MultiDiscrete((2,) * math.prod(space.shape))
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        low, high = (tuple(float(x) for x in bound.flat) for bound in (space.low, space.high))
        return Box(tuple(space.shape), torch.float32, low, high, squashed=squash)
    raise ValueError(
        f"action space {space} is not supported, wanted Discrete, MultiDiscrete, MultiBinary or a floating-point Box"
    )


def spec_of(env: VectorEnv, *, squash: bool = False) -> EnvSpec:
    """What an agent has to know of a vector environment, whose actions go through tanh to their bounds or not.

    Raises:
        ValueError: A space that no agent here can handle, or ``squash`` without finite bounds.
    """
    return EnvSpec(
        observation=_observation_space(env.single_observation_space),
        action=_action_space(env.single_action_space, squash),
        num_envs=env.num_envs,
        has_reset_steps=_autoreset_mode(env) is AutoresetMode.NEXT_STEP,
    )


def _autoreset_mode(env: VectorEnv) -> AutoresetMode:
    """The mode that the environment declares; Gymnasium 1.0's only mode where it declares none."""
    return AutoresetMode(env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))


def _failed_index(error: BaseException) -> int | None:
    """Which environment raised: nobody says, but the loop over environments knows."""
    index = None
    modules = "gymnasium.vector", InTurn.__module__
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").startswith(modules):
            local = trace.tb_frame.f_locals
            index = local.get("index", local.get("i", index))
        trace = trace.tb_next
    return index if isinstance(index, int) else None


class _Buffer:
    """Host memory for the transitions of one step and what to act on next, sent in one transfer."""

    def __init__(self, layout: Layout, num_envs: int, device: torch.device) -> None:
        dtype, shape = layout.fields["observation"]
        acting_bytes = num_envs * dtype.itemsize * math.prod(shape)
        split = num_envs * layout.row_bytes
        end = split + acting_bytes
        actions = layout.fields["action_mask"][1][0] if layout.has_action_mask else 0
        pin = device.type == "cuda"
        self._host = torch.zeros(end + num_envs * actions, dtype=torch.uint8, pin_memory=pin)
        self._rows_shape = (num_envs, layout.row_bytes)
        self._acting = (split, end, dtype, (num_envs, *shape))
        self._has_action_mask = layout.has_action_mask
        self._device = device
        self._on_device = self._views(self._host) if device.type == "cpu" else None

        raw = self._host.numpy()
        self.array = raw[:split].reshape(self._rows_shape) if device.type == "cpu" else None
        rows = raw[:split].view(layout.numpy_dtype)
        self.observation, self.next_observation = rows["observation"], rows["next_observation"]
        self.action, self.reward = rows["action"], rows["reward"]
        self.terminated, self.truncated, self.valid = rows["terminated"], rows["truncated"], rows["valid"]
        self.valid[:] = True
        self.flat = raw[split:end].view(layout.numpy_dtype["observation"].base)
        self.acting = self.flat.reshape(num_envs, *shape)
        if layout.has_action_mask:
            self.action_mask, self.next_action_mask = rows["action_mask"], rows["next_action_mask"]
            self.acting_mask = raw[end:].view(np.bool_).reshape(num_envs, actions)

    def _views(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        split, end, dtype, shape = self._acting
        mask = raw[end:].view(torch.bool).view(shape[0], -1) if self._has_action_mask else None
        return raw[:split].view(self._rows_shape), raw[split:end].view(dtype).view(shape), mask

    def send(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """The packed transitions, the observation to act on and its action mask, on the device."""
        if self._on_device is not None:
            return self._on_device
        return self._views(self._host.to(self._device, non_blocking=True))


def _to_host(*tensors: Tensor) -> list[np.ndarray]:
    """Tensors of one device as arrays, in one transfer."""
    parts = [tensor.contiguous().flatten().view(torch.uint8) for tensor in tensors]
    host = torch.split(torch.cat(parts).cpu(), [len(part) for part in parts])
    return [
        part.numpy().view(torch.empty(0, dtype=tensor.dtype).numpy().dtype).reshape(tensor.shape)
        for part, tensor in zip(host, tensors, strict=True)
    ]


class Envs:
    """Steps a vector environment and hands out packed transitions on a device.

    With several processes it is made after ``torch.distributed`` is initialised: their number is asked once.

    Args:
        env: Any ``gymnasium.vector.VectorEnv``.
        device: Where observations and transitions go, in one transfer a step.
        squash: Take the actions, of a Box with finite bounds, through tanh to these bounds instead of clipping them.

    Raises:
        ValueError: A space that no agent here can handle, or ``squash`` without finite bounds.

    Attributes:
        spec: What an agent has to know; ``has_action_mask`` is found out at the first reset.
        observation: What to act on next, ``(N, ...)``, on the device; valid until the step after next.
        action_mask: Which actions are possible there, ``(N, A)``; None where the environments do not say.
        steps: Transitions so far, summed over environments.
        finished: ``(environment, return, length)`` of each episode that ended in the last step.
    """

    def __init__(self, env: VectorEnv, device: torch.device | str = "cpu", *, squash: bool = False) -> None:
        self.env = env
        self.spec = spec_of(env, squash=squash)
        self.device = torch.device(device)
        if isinstance(env, DeviceVectorEnv):
            env.to(self.device)
        self.steps = 0
        self.finished: list[tuple[int, float, int]] = []
        self.observation: Tensor
        self.action_mask: Tensor | None = None
        self._mode = _autoreset_mode(env)
        self._processes = process_count()  # asked once: between two steps it takes longer than to store a field
        self._action_start = getattr(env.single_action_space, "start", 0)
        self._observation_start = getattr(env.single_observation_space, "start", 0)
        self._check_observation = bool(np.issubdtype(env.single_observation_space.dtype, np.floating))
        self._lay_out(has_action_mask=False)
        self._current: np.ndarray
        self._current_mask: np.ndarray | None = None
        n = env.num_envs
        self._needs_reset: np.ndarray | None = None
        self._stepping = False  # stays True where a step failed: the environments' state is no longer known
        self._returns = np.zeros(n)
        self._time = 0  # steps of all environments together
        self._began = np.zeros(n, dtype=np.int64)  # when the episodes did

    def _lay_out(self, *, has_action_mask: bool) -> None:
        self.spec = replace(self.spec, has_action_mask=has_action_mask)
        self.layout = Layout(self.spec)
        # Two buffers in turn: a transition stays readable while the next step is written.
        self._buffers = [_Buffer(self.layout, self.spec.num_envs, self.device) for _ in range(2)]
        # Observations of this shape and dtype are stored as they come.
        start, acting = self._observation_start, self._buffers[0].acting
        self._as_stored = None if start else (acting.shape, acting.dtype)

    def reset(self, seed: int | None = None) -> None:
        """Start new episodes everywhere; environment i gets ``seed + i``."""
        observation, info = self._call(self.env.reset, seed=seed)
        if not self.spec.has_action_mask and isinstance(self.spec.action, Discrete) and "action_mask" in info:
            self._lay_out(has_action_mask=True)
        self._needs_reset = None
        self._returns[:] = 0.0
        self._began[:] = self._time
        self._current = self._stored_of_all(observation)
        self._check_finite("observation", self._current)
        self.observation = torch.from_numpy(self._current).to(self.device)
        if self.spec.has_action_mask:
            self._act_among(self._masks(info))

    def _act_among(self, mask: np.ndarray) -> None:
        """Make the mask the one of the observation to act on."""
        self._check_possible(mask)
        self._current_mask = mask
        self.action_mask = torch.from_numpy(mask).to(self.device)

    def _check_possible(self, mask: np.ndarray) -> None:
        if not mask.any(axis=1).all():
            index = int(mask.any(axis=1).argmin())
            raise EnvironmentFault(f"environment {index}: no action is possible at step {self.steps}")

    def _masks(self, info: Mapping[str, Any]) -> np.ndarray:
        """Which actions are possible, ``(N, A)``: all where an environment does not say."""
        assert isinstance(self.spec.action, Discrete)
        masks = np.ones((self.spec.num_envs, self.spec.action.n), np.bool_)
        if "action_mask" not in info:
            return masks
        said = info.get("_action_mask", np.ones(len(masks), np.bool_))
        try:
            given = np.asarray(info["action_mask"])[said]
            masks[said] = np.stack(given) if given.dtype == np.object_ else given  # objects where it is no array
        except (TypeError, ValueError) as error:
            raise EnvironmentFault(
                f"an environment's action mask does not fit its {masks.shape[1]} actions at step {self.steps}: {error}"
            ) from error
        return masks

    def _masks_at_ends(
        self, masks: np.ndarray, info: Mapping[str, Any], done: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The masks of the observations to act on and of the true successors, where episodes ended."""
        current, successor = masks.copy(), masks
        if self._mode is AutoresetMode.NEXT_STEP:
            current[done] = True  # the next step only resets, whatever the action
        elif self._mode is AutoresetMode.SAME_STEP:
            successor[done] = self._masks(info.get("final_info", {}))[done]
        else:
            current[done] = self._masks(info)[done]
        return current, successor

    def _stored(self, observation: Any) -> np.ndarray:
        """Observations as they are stored: numbered from 0, in the layout's dtype; always a copy."""
        shape = self.layout.fields["observation"][1]
        try:
            observation = np.asarray(observation)
            if self._observation_start:
                observation = observation - self._observation_start
            stored = np.array(observation, dtype=self.layout.numpy_dtype["observation"].base, order="C")
            return stored.reshape(-1, *shape)
        except (TypeError, ValueError) as error:
            raise EnvironmentFault(
                f"an environment's observation does not fit its space, of shape {shape}, at step {self.steps}: {error}"
            ) from error

    def _stored_of_all(self, observation: Any) -> np.ndarray:
        """As :meth:`_stored`, one row of each environment."""
        stored = self._stored(observation)
        if len(stored) != self.spec.num_envs:
            raise EnvironmentFault(
                f"{self.spec.num_envs} environments returned {len(stored)} observations at step {self.steps}"
            )
        return stored

    def step(self, action: Tensor) -> Transitions:
        """Step all environments.

        Args:
            action: ``(N, ...)``, on the CPU. Actions of a Box are clipped, or squashed, to its bounds for the
                environment and stored as they are.

        Returns:
            The transitions ``(N,)``, on the device; valid until the step after next.

        Raises:
            EnvironmentFault: An environment raised, or returned a reward or observation that is not finite.
            DivergedError: An action of a Box is not finite.
        """
        actions = action.numpy()
        if isinstance(self.spec.action, Box) and not np.isfinite(actions).all():
            raise DivergedError(f"the agent's action is not finite at step {self.steps}")
        self._stepping = True
        observation, reward, terminated, truncated, info = self._step(actions)
        resetting = self._needs_reset  # None where no row of this step is a reset
        done = terminated | truncated
        if resetting is not None:
            done &= ~resetting
            reward = np.where(resetting, 0.0, reward)
        any_done = bool(np.count_nonzero(done))

        buffer = self._buffers[1]  # the next one, once nothing has failed
        current = successor = buffer.acting
        fits = isinstance(observation, np.ndarray) and (observation.shape, observation.dtype) == self._as_stored
        current[...] = observation if fits else self._stored_of_all(observation)
        mask = next_mask = self._masks(info) if self.spec.has_action_mask else None
        self._needs_reset = None
        if any_done:
            if self._mode is AutoresetMode.NEXT_STEP:
                self._needs_reset = done
            elif self._mode is AutoresetMode.SAME_STEP:
                successor = self._with_final(current, info, done)
            else:
                successor = current.copy()
                # Whoever returns the same arrays at every step may clear them when it resets.
                reward, terminated, truncated = reward.copy(), terminated.copy(), truncated.copy()
                restarted, info = self._call(self.env.reset, options={"reset_mask": done.copy()})
                current[done] = self._stored(restarted)[done]
            if next_mask is not None:
                mask, next_mask = self._masks_at_ends(next_mask, info, done)
        self._check_finite("reward", reward)
        self._check_finite("observation", successor, buffer.flat if successor is buffer.acting else None)
        if current is not successor:
            self._check_finite("observation", current)
        if mask is not None:
            self._check_possible(mask)
        count = self._record(reward, done, any_done, resetting)

        buffer.observation[:] = self._current
        buffer.next_observation[:] = successor
        buffer.action[:] = actions
        buffer.reward[:] = reward
        buffer.terminated[:] = terminated
        buffer.truncated[:] = truncated
        if self.spec.has_reset_steps:
            buffer.valid[:] = True if resetting is None else ~resetting
        if mask is not None:
            buffer.action_mask[:], buffer.next_action_mask[:] = self._current_mask, next_mask
            buffer.acting_mask[:] = self._current_mask = mask
        self._current = current
        self._buffers.reverse()
        self._stepping = False
        packed, self.observation, self.action_mask = buffer.send()
        return Transitions(packed, self.layout, count, buffer.array)

    def follow(self, finished: Finished) -> None:
        """Take note of steps that an agent took in device environments by itself: one transfer to the host.

        Args:
            finished: Which of them ended an episode.
        """
        assert isinstance(self.env, DeviceVectorEnv)
        episodes = self.env.episodes
        observation = self.env.rules.observe(episodes.state)
        *ends, current, self._returns, length = _to_host(
            *finished, observation, episodes.episode_return.double(), episodes.length.long()
        )
        ended, returns, lengths = (x.reshape(-1, self.spec.num_envs) for x in ends)
        self.steps += ended.size
        self.finished = [(int(i), float(returns[t, i]), int(lengths[t, i])) for t, i in np.argwhere(ended)]
        self._began = self._time - length
        self._current = self._stored(current)
        self.observation = torch.from_numpy(self._current).to(self.device)

    def _step(self, actions: np.ndarray) -> tuple[Any, ...]:
        space: Any = self.env.single_action_space
        if isinstance(self.spec.action, Box):
            if self.spec.action.squashed:
                low, high = space.low.astype(np.float64), space.high.astype(np.float64)
                actions = low + (high - low) * (0.5 + 0.5 * np.tanh(actions))
            actions = np.clip(actions, space.low, space.high).astype(space.dtype, copy=False)
        elif isinstance(self.spec.action, MultiDiscrete):
            actions = (actions.reshape(-1, *space.shape) + self._action_start).astype(space.dtype, copy=False)
        elif self._action_start:
            actions = actions + self._action_start
        result: tuple[Any, ...] = self._call(self.env.step, actions)
        return result

    def _call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call the environments; what they raise becomes an EnvironmentFault that says where."""
        try:
            return function(*arguments, **options)
        except Exception as error:
            index = _failed_index(error)
            where = "an environment" if index is None else f"environment {index}"
            raise EnvironmentFault(f"{where} raised {type(error).__name__} at step {self.steps}: {error}") from error

    def _with_final(self, current: np.ndarray, info: dict[str, Any], done: np.ndarray) -> np.ndarray:
        """The true successors: ``final_obs`` where an episode ended."""
        if "final_obs" not in info:
            raise EnvironmentFault('autoreset mode SAME_STEP promises info["final_obs"], which is missing')
        successor = current.copy()
        for i in np.flatnonzero(done):
            successor[i] = self._stored(info["final_obs"][i])[0]
        return successor

    def _check_finite(self, what: str, values: Any, flat: np.ndarray | None = None) -> None:
        """Raise where a value is not finite; ``flat`` has the same, in one row, where it is at hand."""
        if what == "observation" and not self._check_observation:
            return
        # A sum of squares is small only if its terms are, and takes a fifth of the time of looking at each; dot would
        # warn where it overflows.
        flat = values if flat is None else flat
        if float(np.vdot(flat, flat)) < _LARGEST_SQUARE:
            return
        with np.errstate(over="ignore"):
            finite = np.isfinite(np.asarray(values, np.float32)).reshape(len(values), -1).all(axis=1)
        for index in np.flatnonzero(~finite):
            shown = " ".join(str(values[index]).split())
            raise EnvironmentFault(f"environment {index}: {what} is not finite at step {self.steps}: {shown}")

    def _record(self, reward: Any, done: np.ndarray, any_done: bool, resetting: np.ndarray | None) -> int:
        """Count steps and episodes; return how many rows of this step are transitions, of all processes."""
        # Several processes count resets too, since all must count the same and none knows of the others' resets.
        count = len(done) * self._processes
        self._returns += reward
        self._time += 1
        if resetting is not None:
            if self._processes == 1:
                count -= int(np.count_nonzero(resetting))
            self._began[resetting] = self._time
        self.steps += count
        self.finished = []
        if any_done:
            self.finished = self._episodes(done)
            self._returns[done] = 0.0
            self._began[done] = self._time
        return count

    def running(self, steps: int) -> list[tuple[int, float, int]]:
        """``(environment, return, length)`` of each episode that goes on after so many steps or more."""
        return self._episodes(self._lengths >= steps) if self._time - self._began.min() >= steps else []

    @property
    def _lengths(self) -> np.ndarray:
        """Steps of the present episodes."""
        return self._time - self._began

    def _episodes(self, which: np.ndarray) -> list[tuple[int, float, int]]:
        lengths = self._lengths
        return [(int(i), float(self._returns[i]), int(lengths[i])) for i in np.flatnonzero(which)]

    def close(self) -> None:
        """Close the environments; an error while closing hides nothing that matters."""
        try:
            self.env.close()
        except Exception as error:
            gymnasium.logger.warn(f"closing the environments failed: {error}")

    def state_dict(self) -> dict[str, Any]:
        """Where the episodes stand.

        ``env`` holds the environments' own state; None where it cannot be captured, or where a step failed.
        """
        return {
            "steps": self.steps,
            "env": None if self._stepping else _capture(self.env),
            "current": torch.from_numpy(self._current.copy()),
            "action_mask": None if self._current_mask is None else torch.from_numpy(self._current_mask.copy()),
            "needs_reset": None if self._needs_reset is None else torch.from_numpy(self._needs_reset.copy()),
            "returns": torch.from_numpy(self._returns.copy()),
            "lengths": torch.from_numpy(self._lengths),
        }

    def load_state_dict(self, state: dict[str, Any], *, seed: int) -> None:
        """Restore :meth:`state_dict`; environments whose state was not captured start new episodes with ``seed``."""
        self.steps = int(state["steps"])
        self._stepping = False
        if state["env"] is None:
            self.reset(seed)
            return
        self.env.close()
        try:
            self.env = cloudpickle.loads(state["env"].numpy().tobytes())
        except Exception as error:
            raise ValueError(f"the checkpoint's environments cannot be restored: {error}") from error
        if _autoreset_mode(self.env) is not self._mode:  # a single CartPole of before it was stepped alone
            raise ValueError("the checkpoint's environments begin new episodes otherwise than this version's do")
        self._current = state["current"].numpy().copy()
        self._needs_reset = None if state["needs_reset"] is None else state["needs_reset"].numpy().copy()
        self._returns = state["returns"].numpy().copy()
        self._began = self._time - state["lengths"].numpy()
        self.observation = torch.from_numpy(self._current).to(self.device)
        if state.get("action_mask") is not None:
            self._lay_out(has_action_mask=True)
            self._act_among(state["action_mask"].numpy().copy())


def can_capture(env: VectorEnv) -> bool:
    """Whether a checkpoint can hold the environments' state.

    It cannot where they live in other processes, nor where pickling keeps only the constructor's arguments, as
    Gymnasium's EzPickle does for Box2D, MuJoCo and Atari.
    """
    return _capture(env) is not None


def _capture(env: VectorEnv) -> Tensor | None:
    """The environments' state as bytes, None where it cannot be captured."""
    if isinstance(env.unwrapped, AsyncVectorEnv | EzPickle):
        return None
    singles = env.unwrapped.envs if isinstance(env.unwrapped, SyncVectorEnv) else []
    if any(isinstance(single.unwrapped, EzPickle) for single in singles):
        return None
    try:
        content = cloudpickle.dumps(env)
    except Exception:  # what a foreign object raises when it cannot be pickled is anyone's guess
        return None
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)
