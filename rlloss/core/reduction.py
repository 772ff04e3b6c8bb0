"""Weight, mask and reduction: the only place that averages.

Every loss follows the same three steps: :func:`promote` its tensors to the precision it computes in,
:func:`fill_masked` what the mask removes, and :func:`reduce_loss` the unreduced loss (:func:`reduce_kernel` where torch
has it).

* ``weight`` (floating-point, broadcastable to the unreduced loss) multiplies.
* ``mask`` (bool, broadcastable to the unreduced loss; True keeps) removes: what it removes counts in neither
  the sum nor the count, and a NaN there reaches neither value nor gradient.
* ``mean`` is sum(weight * loss over what is kept) / count(kept). Nothing kept gives 0 with a gradient of 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from rlloss.core.checks import check_broadcastable, check_choice, check_float, check_mask
from rlloss.core.distributed import mean_over_processes

Reduction: TypeAlias = Literal["none", "mean", "sum"]


def check_reduction(function: str, reduction: str) -> None:
    """Raise a ValueError unless ``reduction`` is none, mean or sum."""
    check_choice(function, "reduction", reduction, ("none", "mean", "sum"))


def promote(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Convert the tensors to the one dtype that they are computed in: float64 stays, less becomes float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return tuple(tensor.to(dtype) for tensor in tensors)


def fill_masked(mask: Tensor | None, tensor: Tensor, value: float = 0.0) -> Tensor:
    """Replace what the mask removes before it is computed with.

    Masking the result alone is not enough: the gradient of a NaN that is multiplied by zero is NaN.
    """
    return tensor if mask is None else torch.where(mask, tensor, value)


def reduce_loss(
    function: str,
    loss: Tensor,
    *,
    weight: Tensor | None,
    mask: Tensor | None,
    reduction: Reduction,
    count: Tensor | None = None,
    gather: bool = False,
) -> Tensor:
    """Weigh, mask and reduce an unreduced loss.

    Args:
        function: Name of the calling function, for errors.
        loss: Unreduced loss.
        weight: Floating-point factor, broadcastable to ``loss``; a constant (no gradient flows to it).
        mask: Bool, broadcastable to ``loss``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        count: What each element counts in the mean's denominator, broadcastable to ``loss``; 1 by default.
        gather: Whether the batch is spread over processes: the mean divides by their average count, so that the
            average of their means is the mean over the whole batch.

    Returns:
        Scalar, or a tensor of ``loss``'s shape for ``"none"``.

    Raises:
        ValueError: Wrong dtype or shape of ``weight`` or ``mask``, or an unknown reduction.
    """
    check_reduction(function, reduction)
    check_mask(function, mask, tuple(loss.shape))
    if weight is not None:
        check_float(function, weight=weight)
        check_broadcastable(function, "weight", weight, tuple(loss.shape))
        loss = loss * fill_masked(mask, weight.detach().to(loss.dtype))
    loss = fill_masked(mask, loss)
    if reduction == "none":
        return loss
    if reduction == "sum" or loss.numel() == 0:
        return loss.sum()
    if mask is None and count is None:
        return loss.mean()
    kept = torch.ones_like(loss) if count is None else count.detach().to(loss.dtype).expand_as(loss)
    total = fill_masked(mask, kept).sum()
    if gather:
        total = mean_over_processes(total)
    return divide_by_count(loss.sum(), total)


def divide_by_count(total: Tensor, count: Tensor) -> Tensor:
    """The mean of what adds up to ``total``; where nothing counts, the total itself, which is 0."""
    return total / torch.where(count == 0, 1, count)


def reduce_kernel(
    function: str,
    kernel: Callable[..., Tensor],
    *tensors: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """Call an elementwise loss of torch and reduce it; with nothing to weigh or mask, torch does that on its way.

    This saves a pass over the elements forward and another one backward, half of the time of a cheap loss.

    Args:
        function: Name of the calling function, for errors.
        kernel: Takes the tensors and ``reduction``.
        tensors: What the kernel takes, the first in the shape of the loss.
        weight: As for :func:`reduce_loss`.
        mask: As for :func:`reduce_loss`; the tensors are filled already.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or a tensor of the loss's shape for ``"none"``.

    Raises:
        ValueError: As :func:`reduce_loss`.
    """
    check_reduction(function, reduction)
    if weight is None and mask is None and tensors[0].numel() > 0:
        return kernel(*tensors, reduction=reduction)
    return reduce_loss(function, kernel(*tensors, reduction="none"), weight=weight, mask=mask, reduction=reduction)
