"""Rollouts: the last T steps of all environments, packed, time-major, on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agents.parts.transition import Layout, Transitions, Writer


class Rollout:
    """T steps of N environments, written one step at a time.

    Args:
        layout: What a row holds.
        length: Steps, T.
        num_envs: Environments, N.
        device: Where the rows live.
    """

    def __init__(self, layout: Layout, length: int, num_envs: int, device: torch.device) -> None:
        self.rows = torch.zeros(length, num_envs, layout.row_bytes, dtype=torch.uint8, device=device)
        self._writer = Writer(self.rows)
        self.length = length
        self.layout = layout
        self.size = 0

    def cut(self) -> None:
        """End all episodes: what is written next begins new ones.

        They end at the newest step. Where resets are steps of their own, a step's successor is what the next one acts
        on: there the newest step is no transition any more, and they end at the one before too.
        """
        if not self.size:
            return
        newest = self.size - 1
        self.layout.truncate(self.rows[newest])
        if self.layout.has_reset_steps:
            self.layout.truncate(self.rows[max(newest - 1, 0)])
            self.layout.write(self.rows[newest], "valid", self.rows.new_zeros(self.rows.shape[1], dtype=torch.bool))

    @property
    def full(self) -> bool:
        """Whether all T steps are written."""
        return self.size == self.length

    def write(self, transitions: Transitions) -> None:
        """Store one step of all environments."""
        self._writer.write(self.size, transitions)
        self.size += 1

    def read(self) -> Tensor:
        """All rows, ``(T, N, bytes)``; the next write starts anew."""
        self.size = 0
        return self.rows

    def state_dict(self) -> dict[str, Any]:
        """The steps that are written."""
        return {"rows": self.rows[: self.size].clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict` into a rollout of the same length and environments."""
        rows = state["rows"]
        if rows.shape[0] > self.length or rows.shape[1:] != self.rows.shape[1:]:
            raise ValueError(
                f"Rollout: stored rows {tuple(rows.shape)} do not fit into {tuple(self.rows.shape)}: "
                "length, number of environments or spaces differ"
            )
        self.rows[: len(rows)].copy_(rows)
        self.size = len(rows)
