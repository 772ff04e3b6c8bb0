"""The contract of every agent: the constructor is the configuration, tensors in, actions out.

A run calls, in this order: :meth:`Agent.build` once, then :meth:`Agent.act`, :meth:`Agent.observe` and
:meth:`Agent.update` again and again. An agent never sees the clock, a file or a global random generator, and of
Gymnasium nothing but device environments (:meth:`Agent.play_on_device`), whose steps are functions of tensors.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from agents.parts.device_envs import DeviceVectorEnv, Finished
from agents.parts.graphs import NUMBERS
from agents.parts.spaces import EnvSpec
from agents.parts.transition import Layout, Transitions
from rlloss.core.distributed import process_rank
from rlloss.core.reduction import reduce_loss

Metrics: TypeAlias = dict[str, Tensor]


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over what the mask keeps: what a metric reports."""
    return reduce_loss("masked_mean", x, weight=None, mask=mask, reduction="mean")


class Played(NamedTuple):
    """What came of steps in device environments.

    Attributes:
        metrics: As :meth:`Agent.update` returns them.
        finished: Which of the steps ended an episode.
    """

    metrics: list[Tensor]
    finished: Finished


class Agent(ABC):
    """What learns.

    A subclass takes hyper-parameters only, keyword by keyword, checks them, and stores each under its own name.

    Attributes:
        metric_names: The keys of the metrics that :meth:`update` returns, fixed for a class.
        steps: Environment steps observed; what schedules go by.
        squash: Whether the environments have to take its actions through tanh to their bounds.
        counters: Which attributes are numbers that no loss computes with. (Compiled, a gradient step sees a change of
            any other, and is compiled anew.)
    """

    metric_names: tuple[str, ...]
    squash: bool = False
    counters: frozenset[str] = frozenset({"steps", "updates"})
    spec: EnvSpec
    device: torch.device
    compiled: bool
    generator: torch.Generator
    layout: Layout
    steps: int

    def build(
        self, spec: EnvSpec, *, device: torch.device | str = "cpu", seed: int = 0, compiled: bool = False
    ) -> Self:
        """Make networks and generators for an environment.

        Args:
            spec: The environment's spaces and number.
            device: Where everything lives.
            seed: Seed of the weights and of the agent's own generator.
            compiled: Whether a gradient step becomes one compiled graph, and choosing actions another.

        Returns:
            The agent itself.

        Raises:
            ValueError: Spaces that the agent cannot handle.
        """
        self._names = {name for cls in type(self).__mro__ for name in inspect.signature(cls).parameters}
        self.spec = spec
        self.device = torch.device(device)
        self.compiled = compiled
        self.layout = Layout(spec)
        self.steps = 0
        # Processes that train together begin with the same weights and choose by themselves.
        own_seed = int(np.random.SeedSequence([seed, process_rank()]).generate_state(1)[0]) if process_rank() else seed
        self.generator = torch.Generator(self.device).manual_seed(own_seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build()
        return self

    def arguments(self) -> list[Any]:
        """What the constructor was given, as it is now, and the numbers among other attributes, but for counters."""
        return [
            x
            for name, x in vars(self).items()
            if name in self._names or (type(x) in NUMBERS and name not in self.counters)
        ]

    @abstractmethod
    def _build(self) -> None:
        """Make what depends on :attr:`spec` and :attr:`device`; torch's global generator is seeded."""

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """The networks: what a model file holds and an evaluation needs.

        Called with observations ``(N, ...)`` it gives a tensor, or several: ``threads="auto"`` times the gradient.
        """

    @abstractmethod
    def act(self, observation: Tensor, *, explore: bool = True) -> Tensor:
        """Choose actions.

        Args:
            observation: ``(N, ...)``, on the agent's device.
            explore: Draw from the behaviour policy; otherwise the greedy action, which draws no random number.

        Returns:
            Actions ``(N, ...)``, on the CPU: the one transfer of a step to the host.
        """

    def act_among(self, observation: Tensor, action_mask: Tensor, *, explore: bool = True) -> Tensor:
        """Choose actions where not all are possible; an agent that does not know how may choose an impossible one.

        Args:
            observation: As in :meth:`act`.
            action_mask: Which actions are possible, ``(N, A)``, on the agent's device.
            explore: As in :meth:`act`.

        Returns:
            As in :meth:`act`.
        """
        return self.act(observation, explore=explore)

    @abstractmethod
    def observe(self, transitions: Transitions) -> None:
        """Take in one step of all environments."""

    @abstractmethod
    def cut(self) -> None:
        """End all episodes at the last step observed: the environments were restarted from outside."""

    @abstractmethod
    def compute_loss(self, batch: Any) -> tuple[Tensor, Metrics]:
        """The loss of a batch and scalars to log, in the order of :attr:`metric_names`; changes nothing."""

    @abstractmethod
    def update(self) -> list[Tensor]:
        """Take the gradient steps that are due.

        Returns:
            For each step its metrics, in the order of :attr:`metric_names`, on the device; empty where none is due.
        """

    @property
    def plays_on_device(self) -> bool:
        """Whether :meth:`play_on_device` is for agents of these hyper-parameters, where they compile."""
        return False

    def play_on_device(self, env: DeviceVectorEnv, steps: int) -> Played | None:
        """Play and learn in device environments, in which the host has no part: act, observe and update in one.

        Args:
            env: The environments, which are left where the episodes stand then.
            steps: Environment steps, summed over environments, up to which the caller has nothing else to do: the agent
                takes as many as suit it, and fewer than one round beyond.

        Returns:
            What came of it; None, and nothing has changed, where the agent steps them like any other environments.
        """
        return None

    @property
    @abstractmethod
    def batch_rows(self) -> int:
        """How many transitions a gradient step learns from, at most; in this process."""

    @abstractmethod
    def count_updates(self, steps: int, num_envs: int) -> int:
        """How many gradient steps a run of so many environment steps takes."""

    @abstractmethod
    def status(self) -> dict[str, float]:
        """Numbers known on the host, such as epsilon, for the progress bar and the log."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that training goes on from: networks, optimiser, stored transitions, counters, generator.

        As in torch, the weights are views of the live ones: save them, or copy them, before training goes on.
        """

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict` into an agent that was built for the same spec."""
