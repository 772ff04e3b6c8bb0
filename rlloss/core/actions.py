"""What a network says of one action among all: shared by the losses and the agents."""

from __future__ import annotations

from torch import Tensor


def at_action(outputs: Tensor, action: Tensor) -> Tensor:
    """The outputs of each action ``(...)``: of ``(..., A)`` one number each, of ``(..., A, K)`` K."""
    further = outputs.shape[action.ndim + 1 :]
    index = action.long().view(*action.shape, 1, *[1] * len(further)).expand(*action.shape, 1, *further)
    return outputs.gather(action.ndim, index).squeeze(action.ndim)
