"""Replay: packed transitions in a preallocated ring on the device, n-step returns made when sampled.

Drawn uniformly, or in proportion to priorities.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.parts.priorities import SumTree
from agents.parts.transition import Layout, Transitions, Writer

_SMALLEST_ERROR = 1e-6  # what is added to an error, so that a transition without one is drawn again


class Batch(NamedTuple):
    """Sampled transitions ``(B, ...)``.

    Attributes:
        observation: Where the transition starts.
        action: Action taken there.
        reward: Discounted sum of up to n rewards.
        discount: gamma^k * (1 - terminated) after the k <= n steps that the sum covers.
        next_observation: True successor of the last of these steps.
        mask: Which rows are transitions; None where all are.
        weight: How much each counts; None where all count alike.
        next_action: Action taken at the successor; None unless it was asked for.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_observation: Tensor
    mask: Tensor | None
    weight: Tensor | None = None
    next_action: Tensor | None = None


class Replay:
    """The last ``capacity`` transitions, one column of the ring per environment, drawn uniformly.

    Args:
        layout: What a row holds.
        capacity: Transitions to keep, summed over environments.
        num_envs: Environments, N.
        device: Where the rows live.
    """

    def __init__(self, layout: Layout, capacity: int, num_envs: int, device: torch.device) -> None:
        self.layout = layout
        self.num_envs = num_envs
        self.length = -(-capacity // num_envs)
        self.rows = torch.zeros(self.length, num_envs, layout.row_bytes, dtype=torch.uint8, device=device)
        self._writer = Writer(self.rows)
        self.head = 0
        self.size = 0

    def write(self, transitions: Transitions) -> None:
        """Store one step of all environments over the oldest."""
        self._writer.write(self.head, transitions)
        self.head = (self.head + 1) % self.length
        self.size = min(self.size + 1, self.length)

    def cut(self) -> None:
        """End all episodes at the newest step: what is written next begins new ones."""
        if self.size:
            self.layout.truncate(self.rows[self.head - 1])

    def can_sample(self, n_step: int) -> bool:
        """Whether a transition of n steps is stored."""
        return self.size >= n_step

    def draw(self, batch_size: int, n_step: int, generator: torch.Generator) -> Tensor:
        """Draw transitions uniformly, with replacement.

        The newest n - 1 steps of each environment wait until their successors are known.

        Args:
            batch_size: Transitions to draw, B.
            n_step: Length of each transition's window, n.
            generator: Where the randomness comes from, on the replay's device.

        Returns:
            Indices ``(n, B)`` of the rows in each window.
        """
        starts, device = (self.size - n_step + 1) * self.num_envs, self.rows.device
        flat = torch.randint(starts, (1, batch_size), generator=generator, device=device)
        if n_step == 1:  # which row is the oldest does not matter
            return flat
        oldest = (self.head - self.size) % self.length
        return self._windows(flat[0] + oldest * self.num_envs, n_step)

    def _windows(self, start: Tensor, n_step: int) -> Tensor:
        """Indices ``(n, B)`` of the rows from each start ``(B,)`` on."""
        offset = torch.arange(n_step, device=start.device).unsqueeze(1)
        return (start + offset * self.num_envs) % (self.length * self.num_envs)

    def gather(self, index: Tensor, discount: float, *, next_action: bool = False) -> Batch:
        """The transitions of windows that :meth:`draw` drew.

        The sum of rewards stops at the end of an episode: no transition crosses it.

        Args:
            index: ``(n, B)``.
            discount: gamma, in [0, 1].
            next_action: Whether the last row of a window is there for its action alone. After a truncation no action
                was taken, so the mask leaves such a transition out.

        Returns:
            The batch.
        """
        if next_action:
            return self._n_step(index[:-1], discount, index)
        return self._one_step(index[0], discount) if len(index) == 1 else self._n_step(index, discount)

    def _one_step(self, index: Tensor, discount: float) -> Batch:
        rows = Transitions(self.rows.flatten(0, 1).index_select(0, index), self.layout, len(index))
        return Batch(
            rows.observation,
            rows.action,
            rows.reward,
            torch.where(rows.terminated, 0.0, discount),
            rows.next_observation,
            rows.mask,
        )

    def _n_step(self, index: Tensor, discount: float, following: Tensor | None = None) -> Batch:
        """Transitions of n steps; ``following`` has the rows of the n steps and one more."""
        terminated, truncated = self._read("terminated", index), self._read("truncated", index)
        ended = terminated | truncated
        # A step takes part while no step before it in the window ended the episode.
        goes_on = torch.cat([torch.zeros_like(ended[:1]), ended[:-1]]).cumsum(0) == 0
        power = discount ** torch.arange(len(index), dtype=torch.float32, device=index.device).unsqueeze(1)
        last = goes_on.sum(0, keepdim=True) - 1
        start, end = index[0], index.gather(0, last).squeeze(0)
        reward = (power * torch.where(goes_on, self._read("reward", index), 0.0)).sum(0)
        end_terminated = terminated.gather(0, last).squeeze(0)
        end_discount = torch.where(end_terminated, 0.0, discount * power[:, 0][last.squeeze(0)])
        mask = self._read("valid", start) if self.layout.has_reset_steps else None
        next_action = None
        if following is not None:
            next_action = self._read("action", following.gather(0, last + 1).squeeze(0))
            goes_on_or_ends = end_terminated | ~truncated.gather(0, last).squeeze(0)
            mask = goes_on_or_ends if mask is None else mask & goes_on_or_ends
        return Batch(
            self._read("observation", start),
            self._read("action", start),
            reward,
            end_discount,
            self._read("next_observation", end),
            mask,
            next_action=next_action,
        )

    def _read(self, name: str, index: Tensor) -> Tensor:
        """One field of the rows at ``index``, counted over steps and environments."""
        return self.layout.read(self.rows.flatten(0, 1), name, index)

    def state_dict(self) -> dict[str, Any]:
        """The rows that are filled, and where the next one goes."""
        # A part of a tensor is saved with the whole of its storage, so it is copied.
        rows = self.rows if self.size == self.length else self.rows[: self.size].clone()
        return {"rows": rows, "length": self.length, "head": self.head, "size": self.size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict` into a replay of the same capacity and environments."""
        rows = state["rows"]
        stored = (state["length"], *rows.shape[1:])
        if stored != tuple(self.rows.shape):
            raise ValueError(
                f"Replay: stored rows {stored} do not fit into {tuple(self.rows.shape)}: "
                "capacity, number of environments or spaces differ"
            )
        self.rows[: state["size"]].copy_(rows)
        self.head = int(state["head"])
        self.size = int(state["size"])


class PrioritizedReplay(Replay):
    """The last ``capacity`` transitions, drawn in proportion to their priorities ``(|TD error| + 1e-6)^exponent``.

    A new transition has the largest priority so far, 1 at first; it can be drawn once the n - 1 steps that follow are
    stored. A row that only resets an environment has none.

    Args:
        layout: What a row holds.
        capacity: Transitions to keep, summed over environments.
        num_envs: Environments, N.
        device: Where the rows live.
        n_step: Length of each transition's window, n.
        exponent: How much priorities differ, alpha; 0 draws uniformly.

    Reference:
        Schaul et al., "Prioritized Experience Replay", ICLR 2016.
    """

    def __init__(
        self, layout: Layout, capacity: int, num_envs: int, device: torch.device, *, n_step: int, exponent: float
    ) -> None:
        super().__init__(layout, capacity, num_envs, device)
        self.n_step = n_step
        self.exponent = exponent
        self.tree = SumTree(self.length * num_envs, device)
        self.max_priority = torch.ones((), dtype=torch.float64, device=device)

    def write(self, transitions: Transitions) -> None:
        """Store one step of all environments over the oldest; the step n - 1 before it can be drawn from now on."""
        newest = self.head
        super().write(transitions)
        if self.n_step > 1:  # in place of what was written over; its own window is not whole yet
            self.tree.fill(newest * self.num_envs, torch.zeros_like(self.max_priority).expand(self.num_envs))
        if self.can_sample(self.n_step):
            row = (newest - self.n_step + 1) % self.length
            priority = self.max_priority.expand(self.num_envs)
            if self.layout.has_reset_steps:
                priority = priority * self.layout.read(self.rows[row], "valid")
            self.tree.fill(row * self.num_envs, priority)

    def draw(self, batch_size: int, n_step: int, generator: torch.Generator) -> Tensor:
        """Draw transitions in proportion to their priorities, with replacement and stratified.

        Args:
            batch_size: Transitions to draw, B.
            n_step: Length of each transition's window: the replay's own.
            generator: Where the randomness comes from, on the replay's device.

        Returns:
            Indices ``(n, B)`` of the rows in each window.

        Raises:
            ValueError: Another length of window than the priorities were stored for.
        """
        if n_step != self.n_step:
            raise ValueError(f"PrioritizedReplay: n_step must be {self.n_step}, for which it was made, got {n_step}")
        return self.draw_at(self.draw_uniform(batch_size, generator))

    def draw_uniform(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """The random numbers of a draw ``(B,)``, which a compiled graph cannot draw with a generator of its own."""
        return torch.rand(batch_size, generator=generator, dtype=torch.float64, device=self.rows.device)

    def draw_at(self, uniform: Tensor) -> Tensor:
        """As :meth:`draw`, by random numbers of :meth:`draw_uniform`."""
        return self._windows(self.tree.draw(uniform), self.n_step)

    def weights(self, index: Tensor, exponent: float | Tensor) -> Tensor:
        """Importance weights ``(M P(i))^-exponent`` of M transitions, divided by the largest of the batch.

        M and the sum of the priorities cancel.

        Args:
            index: ``(n, B)``, what :meth:`draw` drew.
            exponent: How much of the bias is taken away, beta, in [0, 1].

        Returns:
            Weights ``(B,)``, float32, in (0, 1].
        """
        priority = self.tree.read(index[0]).clamp(min=torch.finfo(torch.float64).tiny)
        return (priority.amin() / priority).pow(exponent).float()

    def update(self, index: Tensor, td_error: Tensor) -> None:
        """Set the priorities of drawn transitions.

        Args:
            index: ``(n, B)``, what :meth:`draw` drew.
            td_error: ``(B,)``, target minus value.
        """
        priority = (td_error.double().abs() + _SMALLEST_ERROR).pow(self.exponent)
        self.tree.write(index[0], priority)
        self.max_priority.copy_(torch.maximum(self.max_priority, priority.amax()))

    def state_dict(self) -> dict[str, Any]:
        """The rows that are filled, where the next one goes, and the priorities."""
        tree = self.tree.state_dict(self.size * self.num_envs)
        return super().state_dict() | {"tree": tree, "max_priority": self.max_priority}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict` into a replay of the same capacity and environments."""
        super().load_state_dict(state)
        self.tree.load_state_dict(state["tree"])
        self.max_priority.copy_(state["max_priority"])
