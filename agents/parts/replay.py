"""Uniform replay: packed transitions in a preallocated ring on the device, n-step returns made when sampled."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.parts.transition import Layout, Transitions


class Batch(NamedTuple):
    """Sampled transitions ``(B, ...)``.

    Attributes:
        observation: Where the transition starts.
        action: Action taken there.
        reward: Discounted sum of up to n rewards.
        discount: gamma^k * (1 - terminated) after the k <= n steps that the sum covers.
        next_observation: True successor of the last of these steps.
        mask: Which rows are transitions; None where all are.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_observation: Tensor
    mask: Tensor | None


class Replay:
    """The last ``capacity`` transitions, one column of the ring per environment.

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
        self.head = 0
        self.size = 0

    def write(self, transitions: Transitions) -> None:
        """Store one step of all environments over the oldest."""
        self.rows[self.head].copy_(transitions.packed)
        self.head = (self.head + 1) % self.length
        self.size = min(self.size + 1, self.length)

    def can_sample(self, n_step: int) -> bool:
        """Whether a transition of n steps is stored."""
        return self.size >= n_step

    def sample(self, batch_size: int, *, n_step: int, discount: float, generator: torch.Generator) -> Batch:
        """Draw transitions uniformly, with replacement.

        The sum of rewards stops at the end of an episode: no transition crosses it. The newest n - 1 steps of each
        environment wait until their successors are known.

        Args:
            batch_size: Transitions to draw, B.
            n_step: Rewards to sum, at most.
            discount: gamma, in [0, 1].
            generator: Where the randomness comes from, on the replay's device.

        Returns:
            The batch.
        """
        starts = self.size - n_step + 1
        flat = torch.randint(starts * self.num_envs, (batch_size,), generator=generator, device=self.rows.device)
        if n_step == 1:
            return self._one_step(flat, discount)
        return self._n_step(flat, n_step, discount)

    def _one_step(self, flat: Tensor, discount: float) -> Batch:
        rows = Transitions(self.rows.flatten(0, 1).index_select(0, flat), self.layout, len(flat))
        return Batch(
            rows.observation,
            rows.action,
            rows.reward,
            torch.where(rows.terminated, 0.0, discount),
            rows.next_observation,
            rows.mask,
        )

    def _n_step(self, flat: Tensor, n_step: int, discount: float) -> Batch:
        oldest = (self.head - self.size) % self.length
        offset = torch.arange(n_step, device=flat.device).unsqueeze(1)
        slot = (oldest + flat // self.num_envs + offset) % self.length
        index = slot * self.num_envs + flat % self.num_envs  # (n, B)

        stored = Transitions(self.rows.flatten(0, 1), self.layout, 0)
        terminated = stored.terminated[index]
        ended = terminated | stored.truncated[index]
        # A step takes part while no step before it in the window ended the episode.
        goes_on = torch.cat([torch.zeros_like(ended[:1]), ended[:-1]]).cumsum(0) == 0
        power = torch.as_tensor(discount, dtype=torch.float32, device=flat.device) ** offset
        last = goes_on.sum(0, keepdim=True) - 1
        end = index.gather(0, last).squeeze(0)
        reward = (power * torch.where(goes_on, stored.reward[index], 0.0)).sum(0)
        end_terminated = terminated.gather(0, last).squeeze(0)
        end_discount = torch.where(end_terminated, 0.0, discount * power[:, 0][last.squeeze(0)])
        start = index[0]
        mask = stored.mask
        return Batch(
            stored.observation[start],
            stored.action[start],
            reward,
            end_discount,
            stored.next_observation[end],
            None if mask is None else mask[start],
        )

    def state_dict(self) -> dict[str, Any]:
        """The rows that are filled, and where the next one goes."""
        return {"rows": self.rows[: self.size].clone(), "head": self.head, "size": self.size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict` into a replay of the same capacity and environments."""
        rows = state["rows"]
        if rows.shape[0] > self.length or rows.shape[1:] != self.rows.shape[1:]:
            raise ValueError(
                f"Replay: stored rows {tuple(rows.shape)} do not fit into {tuple(self.rows.shape)}: "
                "capacity, number of environments or spaces differ"
            )
        self.rows[: state["size"]].copy_(rows)
        self.head = int(state["head"])
        self.size = int(state["size"])
