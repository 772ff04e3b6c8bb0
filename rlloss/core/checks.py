"""Argument checks: every error names the function, the argument, what came and what was wanted.

No check reads a value from a device. The one that would (labels in range) is off until
:func:`value_checks` turns it on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

_value_checks_enabled = False


@contextmanager
def value_checks(enabled: bool = True) -> Iterator[None]:
    """Turn on checks that read tensor values, such as labels in range.

    They synchronise with the device, so they are off by default: use them to find a bug, not to train.

    Args:
        enabled: Whether the checks run inside the ``with`` block.

    Yields:
        Nothing.

    Example:
        >>> import torch, rlloss.functional as F
        >>> with value_checks():
        ...     F.cross_entropy(torch.zeros(1, 3), torch.tensor([7]))
        Traceback (most recent call last):
        ...
        ValueError: cross_entropy: target must hold class indices in [0, 3), got values in [7, 7]
    """
    global _value_checks_enabled
    before = _value_checks_enabled
    _value_checks_enabled = enabled
    try:
        yield
    finally:
        _value_checks_enabled = before


def check_tensor(function: str, **tensors: object) -> None:
    """Raise a TypeError unless every argument is a tensor."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{function}: {name} must be a torch.Tensor, got {type(tensor).__name__}")


def check_float(function: str, **tensors: Tensor) -> None:
    """Raise a ValueError unless every tensor has a real floating-point dtype."""
    check_tensor(function, **tensors)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{function}: {name} must have a floating-point dtype, got {tensor.dtype}")


def check_real(function: str, **tensors: Tensor) -> None:
    """Raise a ValueError unless every tensor holds real numbers (floating-point or integer, not bool)."""
    check_tensor(function, **tensors)
    for name, tensor in tensors.items():
        if tensor.is_complex() or tensor.dtype == torch.bool:
            raise ValueError(f"{function}: {name} must have a floating-point or integer dtype, got {tensor.dtype}")


def check_indices(function: str, **tensors: Tensor) -> None:
    """Raise a ValueError unless every tensor has an integer dtype."""
    check_tensor(function, **tensors)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
            raise ValueError(f"{function}: {name} must have an integer dtype, got {tensor.dtype}")


def check_labels(function: str, name: str, labels: Tensor, num_classes: int, keep: Tensor | None) -> None:
    """Raise a ValueError when a kept label is outside [0, num_classes); only inside :func:`value_checks`."""
    if not _value_checks_enabled:
        return
    kept = labels if keep is None else labels[keep.expand_as(labels)]
    if kept.numel() and (int(kept.min()) < 0 or int(kept.max()) >= num_classes):
        raise ValueError(
            f"{function}: {name} must hold class indices in [0, {num_classes}), "
            f"got values in [{int(kept.min())}, {int(kept.max())}]"
        )


def check_signs(function: str, name: str, signs: Tensor, keep: Tensor | None) -> None:
    """Raise a ValueError when a kept value is neither -1 nor +1; only inside :func:`value_checks`."""
    if _value_checks_enabled:
        _check_values(function, name, signs, signs.abs() == 1, keep, "hold -1 and +1 only")


def check_range(
    function: str, name: str, values: Tensor, keep: Tensor | None, *, low: float = 0.0, high: float = math.inf
) -> None:
    """Raise a ValueError when a kept value is NaN or outside [low, high]; only inside :func:`value_checks`.

    Beyond by some rounding is inside: a mask of ones that was resized may hold 1.0000001.
    """
    if not _value_checks_enabled:
        return
    room = 8 * torch.finfo(values.dtype).eps if values.is_floating_point() else 0.0
    right = (values >= low - room) & (values <= high + room)
    _check_values(function, name, values, right, keep, f"be in [{low:g}, {high:g}{')' if high == math.inf else ']'}")


def _check_values(function: str, name: str, values: Tensor, right: Tensor, keep: Tensor | None, wanted: str) -> None:
    wrong = values[~right] if keep is None else values[~right & keep.expand_as(values)]
    if wrong.numel():
        raise ValueError(f"{function}: {name} must {wanted}, got {wrong[0].item()}")


def check_same_shape(function: str, **tensors: Tensor) -> None:
    """Raise a ValueError unless all tensors have the same shape: nothing broadcasts silently."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        got = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{function}: {' and '.join(shapes)} must have the same shape, got {got}")


def check_shape(function: str, name: str, tensor: Tensor, wanted: tuple[int, ...], why: str) -> None:
    """Raise a ValueError unless ``tensor`` has the shape ``wanted``."""
    if tuple(tensor.shape) != wanted:
        raise ValueError(f"{function}: {name} must have shape {wanted} ({why}), got {tuple(tensor.shape)}")


def check_ndim(function: str, name: str, tensor: Tensor, minimum: int, wanted: str) -> None:
    """Raise a ValueError when ``tensor`` has fewer than ``minimum`` dimensions."""
    if tensor.ndim < minimum:
        raise ValueError(f"{function}: {name} must have shape {wanted}, got {tuple(tensor.shape)}")


def check_broadcastable(function: str, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless ``tensor`` broadcasts to ``shape`` without enlarging it."""
    got = tuple(tensor.shape)
    fits = len(got) <= len(shape) and all(a in (1, b) for a, b in zip(reversed(got), reversed(shape), strict=False))
    if not fits:
        raise ValueError(f"{function}: {name} must broadcast to the loss's shape {shape}, got {got}")


def check_mask(function: str, mask: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless ``mask`` is None or a bool tensor that broadcasts to ``shape``."""
    if mask is None:
        return
    check_tensor(function, mask=mask)
    if mask.dtype != torch.bool:
        raise ValueError(f"{function}: mask must have dtype torch.bool, got {mask.dtype}")
    check_broadcastable(function, "mask", mask, shape)


def check_number(
    function: str,
    name: str,
    value: float,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = False,
) -> None:
    """Raise a ValueError unless ``value`` is a finite number between ``low`` and ``high``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{function}: {name} must be a number, got {type(value).__name__}")
    too_low = value < low or (low_open and value == low)
    too_high = value > high or (high_open and value == high)
    # Not isfinite, which torch.compile cannot trace for a number that changes between calls.
    if too_low or too_high or not -math.inf < value < math.inf:
        left = "(" if low_open or low == -math.inf else "["
        right = ")" if high_open or high == math.inf else "]"
        raise ValueError(f"{function}: {name} must be in {left}{low:g}, {high:g}{right}, got {value!r}")


def check_integer(function: str, name: str, value: int, *, low: int | None = 0, high: int | None = None) -> None:
    """Raise a TypeError unless ``value`` is an int, a ValueError unless it is between ``low`` and ``high``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{function}: {name} must be an integer, got {value!r} ({type(value).__name__})")
    if (low is not None and value < low) or (high is not None and value > high):
        wanted = f">= {low}" if high is None else f"in [{low}, {high}]"
        raise ValueError(f"{function}: {name} must be {wanted}, got {value}")


def check_numbers(function: str, name: str, values: Tensor | Sequence[float] | float) -> None:
    """Raise a TypeError or ValueError unless ``values`` is a tensor, or a number >= 0 or several of them."""
    if isinstance(values, Tensor):
        return
    for value in values if isinstance(values, Sequence) and not isinstance(values, str) else [values]:
        check_number(function, name, value, low=0.0)


def check_positive(function: str, **numbers: float) -> None:
    """Raise a ValueError unless every number is finite and greater than zero."""
    for name, value in numbers.items():
        check_number(function, name, value, low=0.0, low_open=True)


def check_non_negative(function: str, **numbers: float) -> None:
    """Raise a ValueError unless every number is finite and at least zero."""
    for name, value in numbers.items():
        check_number(function, name, value, low=0.0)


def check_choice(function: str, name: str, value: object, choices: tuple[str | int, ...]) -> None:
    """Raise a ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{function}: {name} must be one of {', '.join(map(str, choices))}, got {value!r}")
