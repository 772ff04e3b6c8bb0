"""The base of every loss class."""

from __future__ import annotations

import inspect

from torch import Tensor, nn

from rlloss.core.reduction import Reduction, check_reduction


def show_hyper_parameters(module: nn.Module) -> str:
    """The constructor's arguments with their values, but for the modules and parameters that torch shows itself."""
    names = [name for name in inspect.signature(type(module)).parameters if hasattr(module, name)]
    values = {name: getattr(module, name) for name in names}
    return ", ".join(
        f"{name}={value.tolist() if isinstance(value, Tensor) and not value.is_meta else value!r}"
        for name, value in values.items()
        if not isinstance(value, nn.Module | nn.Parameter)
    )


class Loss(nn.Module):
    """A loss function with its hyper-parameters.

    A subclass stores every constructor argument under the argument's own name, so that its representation
    (and the configuration file of a run) can be read back from the object.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, see :mod:`rlloss.core.reduction`.

    Raises:
        ValueError: Unknown reduction.
    """

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_reduction(type(self).__name__, reduction)
        self.reduction: Reduction = reduction

    def extra_repr(self) -> str:
        """The hyper-parameters, as in the constructor call."""
        return show_hyper_parameters(self)
