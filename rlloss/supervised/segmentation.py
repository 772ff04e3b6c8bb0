"""Segmentation losses: how badly the predicted region overlaps the true one, a number per sample.

Two forms, told apart by the target's shape; sequences, images and volumes alike:

* binary: ``logits`` and ``target`` of one shape ``(N, ...)``; all that follows the batch dimension is one region.
  Several regions that may overlap, ``(N, C, ...)``, are several samples: flatten the first two dimensions;
* multi-class: ``logits`` ``(N, C, ...)`` against class indices ``(N, ...)``; a region per class.

Below, p is the predicted probability and g the truth (0 or 1) of an element; sums run over the elements of a sample,
for each class. ``mask`` has the target's shape and removes elements, and so does a label equal to ``ignore_index``, in
both forms; a sample with no element left is left out itself. ``weight`` is a factor per unreduced loss. ``target`` and
``weight`` are constants: gradients reach the logits only. ``reduction`` works as :mod:`rlloss.core.reduction` says.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rlloss.core.checks import (
    check_float,
    check_indices,
    check_integer,
    check_labels,
    check_mask,
    check_ndim,
    check_non_negative,
    check_range,
    check_tensor,
)
from rlloss.core.module import Loss
from rlloss.core.reduction import Reduction, fill_masked, promote, reduce_loss


class _Regions(NamedTuple):
    """Probabilities and truth ``(N, C, elements)``, 0 where left out, and the samples that have an element left."""

    p: Tensor
    g: Tensor
    keep: Tensor


def _prepare(
    function: str, logits: Tensor, target: Tensor, from_logits: bool, ignore_index: int, mask: Tensor | None
) -> _Regions:
    """Check the arguments, take probabilities and bring both forms to ``(N, C, elements)``."""
    binary = _check_shapes(function, logits, target, from_logits)
    check_integer(function, "ignore_index", ignore_index, low=None)
    check_mask(function, mask, tuple(target.shape))
    target = target.detach() if target.is_floating_point() else target.long()  # in uint8, -100 would equal 156
    keep = target != ignore_index if mask is None else (target != ignore_index) & mask
    if binary:
        check_range(function, "target", target, keep, high=1.0)
        logits, truth = promote(_flatten(logits, 1).unsqueeze(1), _flatten(target, 1).unsqueeze(1))
    else:
        check_labels(function, "target", target, logits.shape[1], keep)
        (logits,) = promote(_flatten(logits, 2))
        classes = torch.arange(logits.shape[1], device=logits.device).unsqueeze(-1)
        truth = (_flatten(target, 1).unsqueeze(1) == classes).to(logits.dtype)
    keep = _flatten(keep, 1).unsqueeze(1)
    if not from_logits:
        p = fill_masked(keep, logits)
    elif binary:
        p = torch.sigmoid(fill_masked(keep, logits, -torch.inf))
    else:
        p = fill_masked(keep, torch.softmax(fill_masked(keep, logits), dim=1))
    return _Regions(p, fill_masked(keep, truth), keep.any(-1))


def _check_shapes(function: str, logits: Tensor, target: Tensor, from_logits: bool) -> bool:
    """Check the tensors; return whether the form is the binary one."""
    check_float(function, logits=logits)
    check_tensor(function, target=target)
    check_ndim(function, "logits", logits, 1, "(N, ...) or (N, C, ...)")
    if target.shape == logits.shape:
        return True
    if target.shape != logits.shape[:1] + logits.shape[2:]:
        raise ValueError(
            f"{function}: target must have the shape of logits (binary) or that without its class dimension 1 "
            f"(multi-class), got logits {tuple(logits.shape)}, target {tuple(target.shape)}"
        )
    check_indices(function, target=target)
    if from_logits and logits.shape[1] == 1:
        raise ValueError(
            f"{function}: logits of one class have a softmax of 1 whatever they are, so no gradient; give target their "
            f"shape (binary), got logits {tuple(logits.shape)}, target {tuple(target.shape)}"
        )
    return False


def _flatten(tensor: Tensor, start: int) -> Tensor:
    """Make the dimensions from ``start`` on one; a missing dimension counts as 1."""
    return tensor.unsqueeze(-1).flatten(start)


def _one_minus(numerator: Tensor, denominator: Tensor) -> Tensor:
    """``1 - numerator / denominator``; where both are 0 it is 1."""
    return 1.0 - numerator / torch.where(denominator > 0, denominator, 1.0)


def _reduce(
    function: str, loss: Tensor, keep: Tensor, per_class: bool, weight: Tensor | None, reduction: Reduction
) -> Tensor:
    """Average the losses ``(N, C)`` over the classes, unless asked not to, and reduce."""
    if not per_class:
        loss, keep = loss.mean(1), keep.squeeze(1)
    return reduce_loss(function, loss, weight=weight, mask=keep, reduction=reduction)


def dice_loss(
    logits: Tensor,
    target: Tensor,
    *,
    from_logits: bool = True,
    squared: bool = True,
    smooth: float = 1.0,
    per_class: bool = False,
    ignore_index: int = -100,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Dice loss: ``1 - (2 sum p g + smooth) / (sum p^2 + sum g^2 + smooth)``.

    The source article prints the coefficient D, which is to be maximised; the loss is 1 - D. ``squared=False`` has
    plain sums in the denominator, ``sum p + sum g``, which is :func:`tversky_loss` with both factors 1/2.

    Args:
        logits: ``(N, ...)`` or ``(N, C, ...)``, floating-point; probabilities in [0, 1] with ``from_logits=False``.
        target: The shape of ``logits``, in [0, 1]; or class indices ``(N, ...)`` in [0, C).
        from_logits: Whether ``logits`` are logits (of a sigmoid in the binary form, of a softmax over C in the other);
            otherwise probabilities.
        squared: Whether the denominator has squares; otherwise plain sums.
        smooth: Added to numerator and denominator, >= 0. With 0, a class that is neither predicted nor present costs
            1, the limit of the formula; with more than 0 it costs 0.
        per_class: Whether to leave out the mean over classes.
        ignore_index: Label that is left out.
        weight: Factor per unreduced loss, broadcastable to it.
        mask: Bool, broadcastable to ``target``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or for ``"none"`` ``(N,)``, with ``per_class`` ``(N, C)`` (C = 1 in the binary form); in [0, 1].

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``smooth`` < 0, an unknown reduction.

    Reference:
        Milletari et al., "V-Net: Fully Convolutional Neural Networks for Volumetric Medical Image Segmentation",
        3DV 2016.

    Example:
        >>> p, target = torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[1, 1, 0]])
        >>> dice_loss(p, target, from_logits=False, smooth=0.0)
        tensor(0.0769)
        >>> dice_loss(p, target, from_logits=False, smooth=0.0, squared=False)
        tensor(0.1429)
    """
    check_non_negative("dice_loss", smooth=smooth)
    p, g, keep = _prepare("dice_loss", logits, target, from_logits, ignore_index, mask)
    size = p.square().sum(-1) + g.square().sum(-1) if squared else p.sum(-1) + g.sum(-1)
    loss = _one_minus(2.0 * (p * g).sum(-1) + smooth, size + smooth)
    return _reduce("dice_loss", loss, keep, per_class, weight, reduction)


class DiceLoss(Loss):
    """:func:`dice_loss` as a module."""

    def __init__(
        self,
        *,
        from_logits: bool = True,
        squared: bool = True,
        smooth: float = 1.0,
        per_class: bool = False,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_non_negative("DiceLoss", smooth=smooth)
        self.from_logits = from_logits
        self.squared = squared
        self.smooth = smooth
        self.per_class = per_class
        self.ignore_index = ignore_index

    def forward(
        self, logits: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`dice_loss`."""
        return dice_loss(
            logits,
            target,
            from_logits=self.from_logits,
            squared=self.squared,
            smooth=self.smooth,
            per_class=self.per_class,
            ignore_index=self.ignore_index,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )


def tversky_loss(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    from_logits: bool = True,
    smooth: float = 1.0,
    per_class: bool = False,
    ignore_index: int = -100,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Tversky loss: ``1 - (tp + smooth) / (tp + alpha fp + beta fn + smooth)``.

    ``tp = sum p g`` are the true positives, ``fp = sum p (1 - g)`` the false ones and ``fn = sum (1 - p) g`` what was
    missed; ``beta > alpha`` favours recall. 1/2 and 1/2 give the plain Dice loss with ``2 smooth``; 1 and 1 give
    :func:`jaccard_loss`.

    Args:
        logits: ``(N, ...)`` or ``(N, C, ...)``, floating-point; probabilities in [0, 1] with ``from_logits=False``.
        target: The shape of ``logits``, in [0, 1]; or class indices ``(N, ...)`` in [0, C).
        alpha: Factor of the false positives, >= 0.
        beta: Factor of the false negatives, >= 0.
        from_logits: Whether ``logits`` are logits (of a sigmoid in the binary form, of a softmax over C in the other);
            otherwise probabilities.
        smooth: Added to numerator and denominator, >= 0. With 0, a class that is neither predicted nor present costs
            1, the limit of the formula; with more than 0 it costs 0.
        per_class: Whether to leave out the mean over classes.
        ignore_index: Label that is left out.
        weight: Factor per unreduced loss, broadcastable to it.
        mask: Bool, broadcastable to ``target``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or for ``"none"`` ``(N,)``, with ``per_class`` ``(N, C)`` (C = 1 in the binary form); in [0, 1].

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``alpha``, ``beta`` or ``smooth`` < 0, an unknown reduction.

    Reference:
        Salehi et al., "Tversky Loss Function for Image Segmentation Using 3D Fully Convolutional Deep Networks",
        MLMI 2017.

    Example:
        >>> p, target = torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[1, 1, 0]])
        >>> tversky_loss(p, target, alpha=0.3, beta=0.7, from_logits=False, smooth=0.0)
        tensor(0.1892)
    """
    check_non_negative("tversky_loss", alpha=alpha, beta=beta, smooth=smooth)
    p, g, keep = _prepare("tversky_loss", logits, target, from_logits, ignore_index, mask)
    overlap = (p * g).sum(-1)
    wrong = alpha * (p.sum(-1) - overlap) + beta * (g.sum(-1) - overlap)
    loss = _one_minus(overlap + smooth, overlap + wrong + smooth)
    return _reduce("tversky_loss", loss, keep, per_class, weight, reduction)


class TverskyLoss(Loss):
    """:func:`tversky_loss` as a module."""

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        beta: float = 0.5,
        from_logits: bool = True,
        smooth: float = 1.0,
        per_class: bool = False,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_non_negative("TverskyLoss", alpha=alpha, beta=beta, smooth=smooth)
        self.alpha = alpha
        self.beta = beta
        self.from_logits = from_logits
        self.smooth = smooth
        self.per_class = per_class
        self.ignore_index = ignore_index

    def forward(
        self, logits: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`tversky_loss`."""
        return tversky_loss(
            logits,
            target,
            alpha=self.alpha,
            beta=self.beta,
            from_logits=self.from_logits,
            smooth=self.smooth,
            per_class=self.per_class,
            ignore_index=self.ignore_index,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )


def jaccard_loss(
    logits: Tensor,
    target: Tensor,
    *,
    from_logits: bool = True,
    smooth: float = 1.0,
    per_class: bool = False,
    ignore_index: int = -100,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Jaccard loss, intersection over union: ``1 - (sum p g + smooth) / (sum p + sum g - sum p g + smooth)``.

    Args:
        logits: ``(N, ...)`` or ``(N, C, ...)``, floating-point; probabilities in [0, 1] with ``from_logits=False``.
        target: The shape of ``logits``, in [0, 1]; or class indices ``(N, ...)`` in [0, C).
        from_logits: Whether ``logits`` are logits (of a sigmoid in the binary form, of a softmax over C in the other);
            otherwise probabilities.
        smooth: Added to numerator and denominator, >= 0. With 0, a class that is neither predicted nor present costs
            1, the limit of the formula; with more than 0 it costs 0.
        per_class: Whether to leave out the mean over classes.
        ignore_index: Label that is left out.
        weight: Factor per unreduced loss, broadcastable to it.
        mask: Bool, broadcastable to ``target``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or for ``"none"`` ``(N,)``, with ``per_class`` ``(N, C)`` (C = 1 in the binary form); in [0, 1].

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``smooth`` < 0, an unknown reduction.

    Reference:
        Rahman and Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation",
        ISVC 2016.

    Example:
        >>> p, target = torch.tensor([[1.0, 0.5, 0.0]]), torch.tensor([[1, 1, 0]])
        >>> jaccard_loss(p, target, from_logits=False, smooth=0.0)
        tensor(0.2500)
    """
    check_non_negative("jaccard_loss", smooth=smooth)
    p, g, keep = _prepare("jaccard_loss", logits, target, from_logits, ignore_index, mask)
    overlap = (p * g).sum(-1)
    loss = _one_minus(overlap + smooth, p.sum(-1) + g.sum(-1) - overlap + smooth)
    return _reduce("jaccard_loss", loss, keep, per_class, weight, reduction)


class JaccardLoss(Loss):
    """:func:`jaccard_loss` as a module."""

    def __init__(
        self,
        *,
        from_logits: bool = True,
        smooth: float = 1.0,
        per_class: bool = False,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_non_negative("JaccardLoss", smooth=smooth)
        self.from_logits = from_logits
        self.smooth = smooth
        self.per_class = per_class
        self.ignore_index = ignore_index

    def forward(
        self, logits: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`jaccard_loss`."""
        return jaccard_loss(
            logits,
            target,
            from_logits=self.from_logits,
            smooth=self.smooth,
            per_class=self.per_class,
            ignore_index=self.ignore_index,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )
