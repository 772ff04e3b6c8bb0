"""The base of every loss class."""

from __future__ import annotations

import inspect

from torch import Tensor, nn

from rlloss.core.reduction import Reduction, check_reduction


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
        names = [name for name in inspect.signature(type(self)).parameters if hasattr(self, name)]
        values = {name: getattr(self, name) for name in names}
        return ", ".join(
            f"{name}={value!r}" for name, value in values.items() if not isinstance(value, nn.Module | Tensor)
        )
