"""Gradient steps: any optimiser of torch.optim, on parameters that lie in one flat tensor where that is the same."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# These update every element by itself, so one flat tensor of all parameters gives the same numbers as many small
# ones, in one kernel launch instead of one per parameter.
_ELEMENTWISE = {
    "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD",
}  # fmt: skip
# These need a closure that is called again, or sparse gradients.
_UNSUPPORTED = {"LBFGS", "SparseAdam", "Optimizer"}


def make_optimizer(
    owner: str, parameters: list[nn.Parameter], name: str, learning_rate: float, arguments: Mapping[str, Any]
) -> torch.optim.Optimizer:
    """An optimiser of torch.optim by name.

    Args:
        owner: Who asks, for errors.
        parameters: What it updates.
        name: Name in torch.optim, ``"Adam"`` for instance.
        learning_rate: Step size.
        arguments: The optimiser's other arguments by name.

    Raises:
        ValueError: No such optimiser, or arguments that it refuses.
    """
    cls: Any = getattr(torch.optim, name, None)
    known = sorted(n for n in torch.optim.__all__ if n[0].isupper() and n not in _UNSUPPORTED)
    if name not in known:
        raise ValueError(f"{owner}: optimizer must be one of {', '.join(known)}, got {name!r}")
    given = dict(arguments)
    if "fused" in inspect.signature(cls).parameters and not {"fused", "foreach", "differentiable"} & given.keys():
        given["fused"] = True
    try:
        optimizer: torch.optim.Optimizer = cls(parameters, lr=learning_rate, **given)
        return optimizer
    except (TypeError, ValueError) as error:
        raise ValueError(f"{owner}: optimizer {name} refuses its arguments: {error}") from error


def check_optimizer(owner: str, name: str, learning_rate: float, arguments: Mapping[str, Any]) -> None:
    """Raise a ValueError where :func:`make_optimizer` would."""
    make_optimizer(owner, [nn.Parameter(torch.zeros(2, 2))], name, learning_rate, arguments)


def flatten_parameters(module: nn.Module) -> nn.Parameter:
    """Move all parameters of ``module`` into one flat tensor, of which they become views."""
    parameters = list(module.parameters())
    flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
    offset = 0
    for p in parameters:
        p.data = flat.data[offset : offset + p.numel()].view_as(p)
        offset += p.numel()
    return flat


class Learner:
    """Takes gradient steps on a module's parameters.

    Args:
        owner: Who learns, for errors.
        module: Whose parameters are updated; on its device already.
        optimizer: Name in torch.optim.
        learning_rate: Step size.
        optimizer_args: The optimiser's other arguments.
        max_grad_norm: Largest norm of the gradient of all parameters; None for no clipping.
    """

    def __init__(
        self,
        owner: str,
        module: nn.Module,
        *,
        optimizer: str,
        learning_rate: float,
        optimizer_args: Mapping[str, Any],
        max_grad_norm: float | None,
    ) -> None:
        self.parameters = list(module.parameters())
        self.flat = flatten_parameters(module) if optimizer in _ELEMENTWISE else None
        updated = self.parameters if self.flat is None else [self.flat]
        self.optimizer = make_optimizer(owner, updated, optimizer, learning_rate, optimizer_args)
        self.max_grad_norm = max_grad_norm

    def step(self, loss: Tensor) -> Tensor:
        """Update the parameters along the gradient of ``loss``; return the gradient's norm before clipping."""
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True, materialize_grads=True)
        if self.flat is not None:
            self.flat.grad = torch.cat([gradient.reshape(-1) for gradient in gradients])
            norm: Tensor = torch.linalg.vector_norm(self.flat.grad)
            if self.max_grad_norm is not None:
                self.flat.grad.mul_((self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        else:
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient
            norm = torch.nn.utils.get_total_norm(gradients)
            if self.max_grad_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(self.parameters, self.max_grad_norm, norm)
        self.optimizer.step()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.optimizer.load_state_dict(state)
