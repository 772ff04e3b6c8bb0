"""Checks of the hyper-parameters that agents have in common: they end in one clear line before a run begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from torch import nn

from agents.parts.networks import Activation
from agents.parts.optimization import check_optimizer
from rlloss.core.checks import check_choice, check_integer, check_non_negative, check_number, check_positive
from rlloss.core.distributed import process_count


def check_loss(owner: str, name: str, loss: nn.Module, *wanted: type[nn.Module]) -> None:
    """Raise a TypeError for a loss of another kind, a ValueError for one with parameters or without a reduction."""
    if not isinstance(loss, wanted):
        kinds = " or ".join(kind.__name__ for kind in wanted)
        raise TypeError(f"{owner}: {name} must be of class {kinds}, got {type(loss).__name__}")
    if next(loss.parameters(), None) is not None:
        raise ValueError(f"{owner}: {name} has parameters of its own, which the agent does not train")
    if not hasattr(loss, "reduction"):  # a TDLoss leaves it to its criterion
        loss, name = getattr(loss, "criterion", loss), f"{name}.criterion"
    reduction = getattr(loss, "reduction", "mean")
    if reduction == "none":
        raise ValueError(f"{owner}: {name}.reduction must be mean or sum, got none")
    if reduction == "sum" and process_count() > 1:
        raise ValueError(f"{owner}: {name}.reduction must be mean, of which several processes take the mean, got sum")


def check_learning(
    owner: str,
    *,
    discount: float,
    hidden_sizes: Sequence[int],
    activation: Activation,
    optimizer: str,
    learning_rate: float,
    optimizer_args: Mapping[str, Any],
    max_grad_norm: float | None,
    learning_rate_end: float | None = None,
    learning_rate_steps: int = 0,
) -> None:
    """Raise a TypeError or ValueError for what no agent can learn with."""
    check_number(owner, "discount", discount, low=0.0, high=1.0)
    for size in hidden_sizes:
        check_integer(owner, "hidden_sizes", size, low=1)
    check_choice(owner, "activation", activation, get_args(Activation))
    check_positive(owner, learning_rate=learning_rate)
    if learning_rate_end is not None:
        check_non_negative(owner, learning_rate_end=learning_rate_end)
    check_integer(owner, "learning_rate_steps", learning_rate_steps, low=0 if learning_rate_end is None else 1)
    if learning_rate_end is None and learning_rate_steps:
        raise ValueError(f"{owner}: learning_rate_steps needs learning_rate_end, which is not given")
    if max_grad_norm is not None:
        check_positive(owner, max_grad_norm=max_grad_norm)
    check_optimizer(owner, optimizer, learning_rate, optimizer_args)
