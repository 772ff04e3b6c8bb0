"""Classification losses on logits: ``p`` is a probability, ``p_t`` the probability of the true class.

The class dimension is 1, as in torch: logits ``(N, C, ...)`` or ``(C,)`` against class indices ``(N, ...)`` or ``()``.
``target`` and ``weight`` are constants: gradients reach the logits only. ``weight``, ``mask`` and ``reduction`` work as
:mod:`rlloss.core.reduction` says. A label equal to ``ignore_index`` counts in neither the sum nor the count, in every
function here; as in torch, its logits have to be finite for all that (it is ``mask`` that keeps NaN from the gradient).
With ``from_logits=False`` the multi-class functions normalise the probabilities to a sum of 1 over the classes, and
count one of 0 as the smallest positive number of the dtype, a constant: the loss is large but finite, and its gradient
there is 0. A logit of -inf, an impossible class, is fine beside class indices; elsewhere logits have to be finite.

In order: cross-entropy, focal and poly loss; divergences between distributions; hinge losses on scores.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from rlloss.core.checks import (
    check_broadcastable,
    check_choice,
    check_float,
    check_indices,
    check_integer,
    check_labels,
    check_mask,
    check_ndim,
    check_non_negative,
    check_number,
    check_numbers,
    check_positive,
    check_range,
    check_real,
    check_same_shape,
    check_shape,
    check_signs,
    check_tensor,
)
from rlloss.core.module import Loss
from rlloss.core.reduction import (
    Reduction,
    check_reduction,
    divide_by_count,
    fill_masked,
    promote,
    reduce_kernel,
    reduce_loss,
)
from rlloss.core.vectors import full_precision

# A number per class.
ClassWeight: TypeAlias = Tensor | Sequence[float]


def _class_dim(logits: Tensor) -> int:
    return 0 if logits.ndim == 1 else 1


def _loss_shape(logits: Tensor) -> tuple[int, ...]:
    """The logits' shape without the class dimension: the shape of the unreduced loss."""
    dim = _class_dim(logits)
    return (*logits.shape[:dim], *logits.shape[dim + 1 :])


def _fill_classes(mask: Tensor | None, logits: Tensor, value: float = 0.0) -> Tensor:
    """Fill the logits of what a mask in the loss's shape removes."""
    if mask is None:
        return logits
    return fill_masked(mask.expand(_loss_shape(logits)).unsqueeze(_class_dim(logits)), logits, value)


def _prepare_indices(
    function: str, logits: Tensor, target: Tensor, mask: Tensor | None, ignore_index: int, name: str = "logits"
) -> tuple[Tensor, Tensor, Tensor]:
    """Check and fill logits and class indices; return them with the mask of the labels that are kept."""
    check_integer(function, "ignore_index", ignore_index, low=None)
    check_float(function, **{name: logits})
    check_ndim(function, name, logits, 1, "(N, C, ...) or (C,)")
    check_indices(function, target=target)
    shape = _loss_shape(logits)
    check_shape(function, "target", target, shape, f"the shape of {name} without its class dimension")
    check_mask(function, mask, shape)
    target = target.long()  # before the comparison: -100 would wrap around to a label of a small dtype
    keep = target != ignore_index
    if mask is not None:
        keep = keep & mask
    check_labels(function, "target", target, logits.shape[_class_dim(logits)], keep)
    (logits,) = promote(logits)
    # Class 0 stands in for what is left out: any valid index will do, since reduce_loss drops it.
    return _fill_classes(mask, logits), fill_masked(keep, target, 0), keep


def _as_logits(logits: Tensor, from_logits: bool) -> Tensor:
    """Logits as they are, or the logarithm of probabilities, which the softmax that follows normalises."""
    return logits if from_logits else logits.clamp(min=torch.finfo(logits.dtype).tiny).log()


def _check_class_weight(function: str, class_weight: ClassWeight | None, logits: Tensor) -> Tensor | None:
    if class_weight is None:
        return None
    check_numbers(function, "class_weight", class_weight)
    if not isinstance(class_weight, Tensor):
        class_weight = torch.tensor(class_weight, dtype=logits.dtype, device=logits.device)
    check_float(function, class_weight=class_weight)
    check_shape(function, "class_weight", class_weight, (logits.shape[_class_dim(logits)],), "one per class")
    return class_weight.detach().to(logits.dtype)


def _log_p_t(logits: Tensor, target: Tensor, from_logits: bool) -> Tensor:
    """Log-probability of the true class, in the shape of the loss."""
    return -F.cross_entropy(_as_logits(logits, from_logits), target, reduction="none")


class ClassificationLoss(Loss, ABC):
    """A loss of the log-probability of the true class: what a policy-gradient loss can take as criterion."""

    @abstractmethod
    def forward(
        self, logits: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the loss of ``logits`` against ``target``."""

    @abstractmethod
    def of_log_prob(self, log_prob: Tensor) -> Tensor:
        """The unreduced loss as a function of ``log p_t`` alone; a ValueError where it is not one."""


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weight: ClassWeight | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    from_logits: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross-entropy: ``-sum_c y_c log p_c``, for a class index ``-log p_t``.

    Equal to :func:`torch.nn.functional.cross_entropy` for all its arguments; ``class_weight`` is torch's ``weight``,
    and with class indices the mean divides by the sum of the class weights of the labels that are kept, as torch does.
    The source article prints the sum inside the denominator, ``-1 / (N sum t log s)``: a misprint of
    ``-(1 / N) sum t log s``, which is what is computed here.

    Args:
        logits: ``(N, C, ...)`` or ``(C,)``, floating-point; probabilities in [0, 1] with ``from_logits=False``.
        target: Class indices ``(N, ...)`` or ``()`` in [0, C), or class probabilities in the shape of ``logits``.
        class_weight: ``(C,)``, a factor per class; a tensor or a sequence.
        label_smoothing: Share of the target that is spread evenly over the classes, in [0, 1].
        ignore_index: Label that is left out, only with class indices.
        from_logits: Whether ``logits`` are logits; otherwise probabilities.
        weight: Factor per element, broadcastable to the unreduced loss.
        mask: Bool, broadcastable to the unreduced loss; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(N, ...)`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``label_smoothing`` outside [0, 1], an unknown reduction.

    Example:
        >>> cross_entropy(torch.tensor([[0.0, 0.0], [0.0, 100.0]]), torch.tensor([0, 1]), reduction="none")
        tensor([0.6931, -0.0000])
    """
    check_number("cross_entropy", "label_smoothing", label_smoothing, low=0.0, high=1.0)
    check_reduction("cross_entropy", reduction)
    check_tensor("cross_entropy", logits=logits, target=target)
    if target.is_floating_point():
        return _soft_cross_entropy(logits, target, class_weight, label_smoothing, from_logits, weight, mask, reduction)
    logits, target, keep = _prepare_indices("cross_entropy", logits, target, mask, ignore_index)
    class_weight = _check_class_weight("cross_entropy", class_weight, logits)
    at_once = weight is None and mask is None and reduction != "none" and logits.numel() > 0
    loss = F.cross_entropy(
        _as_logits(logits, from_logits),
        target.where(keep, ignore_index),
        weight=class_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction="sum" if at_once else "none",
    )
    count = None if class_weight is None else class_weight[target]
    if not at_once:
        return reduce_loss("cross_entropy", loss, weight=weight, mask=keep, reduction=reduction, count=count)
    if reduction == "sum":
        return loss
    return divide_by_count(loss, (keep if count is None else fill_masked(keep, count)).sum())


def _soft_cross_entropy(
    logits: Tensor,
    target: Tensor,
    class_weight: ClassWeight | None,
    label_smoothing: float,
    from_logits: bool,
    weight: Tensor | None,
    mask: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """Cross-entropy against class probabilities; the mean divides by the number of samples, as in torch."""
    check_float("cross_entropy", logits=logits)
    check_ndim("cross_entropy", "logits", logits, 1, "(N, C, ...) or (C,)")
    check_same_shape("cross_entropy", logits=logits, target=target)
    check_mask("cross_entropy", mask, _loss_shape(logits))
    logits, target = promote(logits, target.detach())
    class_weight = _check_class_weight("cross_entropy", class_weight, logits)
    logits, target = _fill_classes(mask, logits), _fill_classes(mask, target)
    check_range("cross_entropy", "target", target, None, high=1.0)
    loss = F.cross_entropy(
        _as_logits(logits, from_logits),
        target,
        weight=class_weight,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    return reduce_loss("cross_entropy", loss, weight=weight, mask=mask, reduction=reduction)


class CrossEntropyLoss(ClassificationLoss):
    """:func:`cross_entropy` as a module."""

    class_weight: Tensor | None

    def __init__(
        self,
        *,
        class_weight: ClassWeight | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        from_logits: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_number("CrossEntropyLoss", "label_smoothing", label_smoothing, low=0.0, high=1.0)
        class_weight = _as_buffer("CrossEntropyLoss", "class_weight", class_weight)
        self.register_buffer("class_weight", class_weight, persistent=False)
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.from_logits = from_logits

    def forward(
        self, logits: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`cross_entropy`."""
        return cross_entropy(
            logits,
            target,
            class_weight=self.class_weight,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            from_logits=self.from_logits,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )

    def of_log_prob(self, log_prob: Tensor) -> Tensor:
        """``-log p_t``."""
        if self.class_weight is not None or self.label_smoothing:
            raise ValueError(
                "CrossEntropyLoss: with class_weight or label_smoothing the loss is not a function of the "
                "log-probability of one class, which a policy-gradient loss needs"
            )
        return -log_prob


def _as_buffer(function: str, name: str, values: Tensor | Sequence[float] | float | None) -> Tensor | None:
    """A tensor keeps its precision, numbers become float32, which lives on every device."""
    if values is None:
        return None
    check_numbers(function, name, values)
    if isinstance(values, Tensor) and values.is_floating_point():
        return values
    return torch.as_tensor(values, dtype=torch.float32)


def _prepare_binary(
    function: str, logits: Tensor, target: Tensor, mask: Tensor | None, from_logits: bool
) -> tuple[Tensor, Tensor]:
    """Check, convert and fill logits (or probabilities) and the probabilities of the positive class."""
    check_float(function, logits=logits)
    check_tensor(function, target=target)
    check_same_shape(function, logits=logits, target=target)
    check_mask(function, mask, tuple(logits.shape))
    logits, target = promote(logits, target.detach())
    check_range(function, "target", target, mask, high=1.0)
    if not from_logits:
        check_range(function, "logits", logits, mask, high=1.0)
    return fill_masked(mask, logits, 0.5), fill_masked(mask, target)


def _binary_entropy(logits: Tensor, target: Tensor, from_logits: bool) -> Tensor:
    """``-(y log p + (1 - y) log(1 - p))``, elementwise."""
    if from_logits:
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    with full_precision(logits):  # on CUDA, torch refuses this function under autocast, float32 or not
        return F.binary_cross_entropy(logits, target, reduction="none")


def binary_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    pos_weight: Tensor | Sequence[float] | float | None = None,
    label_smoothing: float = 0.0,
    from_logits: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Binary cross-entropy, elementwise: ``-(w y log p + (1 - y) log(1 - p))``, ``p = sigmoid(logits)``.

    Binary and multi-label. ``w`` is ``pos_weight``; a smoothed target is ``y (1 - e) + e / 2``. With
    ``from_logits=False`` each logarithm is at least -100, as in torch. The source article prints the sum inside the
    denominator, ``-1 / (N sum ...)``: a misprint of the mean that is computed here.

    Args:
        logits: Any shape, floating-point; probabilities in [0, 1] with ``from_logits=False``.
        target: Same shape, in [0, 1]; floating-point, integer or bool.
        pos_weight: Factor of the positive term, >= 0; a number, or several (or a tensor) broadcastable to ``logits``.
        label_smoothing: Share of the target that is spread over both classes, in [0, 1].
        from_logits: Whether ``logits`` are logits; otherwise probabilities.
        weight: Factor per element, broadcastable to ``logits``.
        mask: Bool, broadcastable to ``logits``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``logits`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``label_smoothing`` outside [0, 1], an unknown reduction.

    Example:
        >>> binary_cross_entropy(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]), pos_weight=3.0, reduction="none")
        tensor([2.0794, 0.6931])
    """
    check_number("binary_cross_entropy", "label_smoothing", label_smoothing, low=0.0, high=1.0)
    logits, target = _prepare_binary("binary_cross_entropy", logits, target, mask, from_logits)
    if label_smoothing:
        target = target * (1.0 - label_smoothing) + 0.5 * label_smoothing
    positive = _check_pos_weight(pos_weight, logits)
    if from_logits:
        kernel = partial(F.binary_cross_entropy_with_logits, pos_weight=positive)
        return reduce_kernel(
            "binary_cross_entropy", kernel, logits, target, weight=weight, mask=mask, reduction=reduction
        )
    if positive is None:
        loss = _binary_entropy(logits, target, from_logits)
    else:
        loss = positive * target * _binary_entropy(logits, torch.ones_like(logits), from_logits)
        loss = loss + (1.0 - target) * _binary_entropy(logits, torch.zeros_like(logits), from_logits)
    return reduce_loss("binary_cross_entropy", loss, weight=weight, mask=mask, reduction=reduction)


def _check_pos_weight(pos_weight: Tensor | Sequence[float] | float | None, logits: Tensor) -> Tensor | None:
    if pos_weight is None:
        return None
    check_numbers("binary_cross_entropy", "pos_weight", pos_weight)
    if not isinstance(pos_weight, Tensor):
        pos_weight = torch.tensor(pos_weight, dtype=logits.dtype, device=logits.device)
    check_float("binary_cross_entropy", pos_weight=pos_weight)
    check_broadcastable("binary_cross_entropy", "pos_weight", pos_weight, tuple(logits.shape))
    return pos_weight.detach().to(logits.dtype)


class BinaryCrossEntropyLoss(Loss):
    """:func:`binary_cross_entropy` as a module."""

    pos_weight: Tensor | None

    def __init__(
        self,
        *,
        pos_weight: Tensor | Sequence[float] | float | None = None,
        label_smoothing: float = 0.0,
        from_logits: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_number("BinaryCrossEntropyLoss", "label_smoothing", label_smoothing, low=0.0, high=1.0)
        self.register_buffer(
            "pos_weight", _as_buffer("BinaryCrossEntropyLoss", "pos_weight", pos_weight), persistent=False
        )
        self.label_smoothing = label_smoothing
        self.from_logits = from_logits

    def forward(
        self, logits: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`binary_cross_entropy`."""
        return binary_cross_entropy(
            logits,
            target,
            pos_weight=self.pos_weight,
            label_smoothing=self.label_smoothing,
            from_logits=self.from_logits,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )


def _focus(miss: Tensor, gamma: float) -> Tensor:
    """``(1 - p_t)^gamma``; the clamp keeps the gradient of a power < 1 finite at p_t = 1."""
    return miss.clamp(min=torch.finfo(miss.dtype).tiny) ** gamma


def _focal(log_p_t: Tensor, gamma: float) -> Tensor:
    """``-(1 - p_t)^gamma log p_t``."""
    # Below the clamp 1 - p_t is 1 in any case; without it, log p_t = -inf has the gradient 0 * inf.
    return -_focus(-torch.expm1(log_p_t.clamp(min=math.log(torch.finfo(log_p_t.dtype).tiny))), gamma) * log_p_t


def _class_alpha(function: str, alpha: Tensor | Sequence[float] | float, logits: Tensor, target: Tensor) -> Tensor:
    """The factor of each sample: one number for all, or that of its class."""
    if isinstance(alpha, int | float):
        return torch.full((), float(alpha), dtype=logits.dtype, device=logits.device)
    per_class = torch.as_tensor(alpha, dtype=logits.dtype, device=logits.device).detach()
    check_shape(function, "alpha", per_class, (logits.shape[_class_dim(logits)],), "one per class")
    return per_class[target]


def focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: Tensor | Sequence[float] | float | None = None,
    ignore_index: int = -100,
    from_logits: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Focal loss, multi-class: ``-alpha (1 - p_t)^gamma log p_t``.

    ``gamma=0`` gives cross-entropy. ``alpha`` multiplies; the mean divides by the number of samples.

    Args:
        logits: ``(N, C, ...)`` or ``(C,)``, floating-point; probabilities in [0, 1] with ``from_logits=False``.
        target: Class indices ``(N, ...)`` or ``()`` in [0, C).
        gamma: Focusing exponent, >= 0.
        alpha: A number >= 0 that weighs every class alike, or one number per class, ``(C,)``.
        ignore_index: Label that is left out.
        from_logits: Whether ``logits`` are logits; otherwise probabilities.
        weight: Factor per element, broadcastable to the unreduced loss.
        mask: Bool, broadcastable to the unreduced loss; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(N, ...)`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``gamma`` or ``alpha`` < 0, an unknown reduction.

    Reference:
        Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.

    Example:
        >>> focal_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([0]), gamma=1.0)
        tensor(0.3466)
    """
    check_non_negative("focal_loss", gamma=gamma)
    if alpha is not None:
        check_numbers("focal_loss", "alpha", alpha)
    logits, target, keep = _prepare_indices("focal_loss", logits, target, mask, ignore_index)
    loss = _focal(_log_p_t(logits, target, from_logits), gamma)
    if alpha is not None:
        loss = loss * _class_alpha("focal_loss", alpha, logits, target)
    return reduce_loss("focal_loss", loss, weight=weight, mask=keep, reduction=reduction)


class FocalLoss(ClassificationLoss):
    """:func:`focal_loss` as a module."""

    alpha: Tensor | float | None

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        alpha: Tensor | Sequence[float] | float | None = None,
        ignore_index: int = -100,
        from_logits: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_non_negative("FocalLoss", gamma=gamma)
        self.gamma = gamma
        if isinstance(alpha, int | float):
            check_numbers("FocalLoss", "alpha", alpha)
            self.alpha = alpha
        else:
            self.register_buffer("alpha", _as_buffer("FocalLoss", "alpha", alpha), persistent=False)
        self.ignore_index = ignore_index
        self.from_logits = from_logits

    def forward(
        self, logits: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`focal_loss`."""
        return focal_loss(
            logits,
            target,
            gamma=self.gamma,
            alpha=self.alpha,
            ignore_index=self.ignore_index,
            from_logits=self.from_logits,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )

    def of_log_prob(self, log_prob: Tensor) -> Tensor:
        """``-alpha (1 - p_t)^gamma log p_t``; one alpha for all classes."""
        if not isinstance(self.alpha, int | float | None):
            raise ValueError(
                "FocalLoss: with one alpha per class the loss is not a function of the log-probability of one "
                "class, which a policy-gradient loss needs"
            )
        loss = _focal(log_prob, self.gamma)
        return loss if self.alpha is None else self.alpha * loss


def binary_focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float | None = None,
    from_logits: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Binary focal loss, elementwise: ``-alpha_t (1 - p_t)^gamma log p_t``, ``p_t = p`` for positives, else ``1 - p``.

    Binary and multi-label, ``p = sigmoid(logits)``. ``gamma=0`` gives :func:`binary_cross_entropy`. ``alpha`` weighs
    positives, ``1 - alpha`` negatives; the paper's choice is 0.25 with ``gamma=2``. A soft target y takes
    ``p_t = y p + (1 - y) (1 - p)`` and likewise alpha_t, as torchvision's sigmoid focal loss does.

    Args:
        logits: Any shape, floating-point; probabilities in [0, 1] with ``from_logits=False``.
        target: Same shape, in [0, 1]; floating-point, integer or bool.
        gamma: Focusing exponent, >= 0.
        alpha: Factor of the positives, in [0, 1]; None weighs both classes by 1.
        from_logits: Whether ``logits`` are logits; otherwise probabilities.
        weight: Factor per element, broadcastable to ``logits``.
        mask: Bool, broadcastable to ``logits``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``logits`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``gamma`` < 0, ``alpha`` outside [0, 1], an unknown reduction.

    Reference:
        Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.

    Example:
        >>> binary_focal_loss(torch.tensor([0.0, 0.0]), torch.tensor([1, 0]), alpha=0.25, reduction="none")
        tensor([0.0433, 0.1300])
    """
    _check_binary_focal("binary_focal_loss", gamma, alpha)
    logits, target = _prepare_binary("binary_focal_loss", logits, target, mask, from_logits)
    p, not_p = (torch.sigmoid(logits), torch.sigmoid(-logits)) if from_logits else (logits, 1.0 - logits)
    loss = _focus(torch.lerp(p, not_p, target), gamma) * _binary_entropy(logits, target, from_logits)
    if alpha is not None:
        loss = loss * ((1.0 - alpha) + (2.0 * alpha - 1.0) * target)
    return reduce_loss("binary_focal_loss", loss, weight=weight, mask=mask, reduction=reduction)


def _check_binary_focal(function: str, gamma: float, alpha: float | None) -> None:
    check_non_negative(function, gamma=gamma)
    if alpha is not None:
        check_number(function, "alpha", alpha, low=0.0, high=1.0)


class BinaryFocalLoss(Loss):
    """:func:`binary_focal_loss` as a module."""

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        alpha: float | None = None,
        from_logits: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        _check_binary_focal("BinaryFocalLoss", gamma, alpha)
        self.gamma = gamma
        self.alpha = alpha
        self.from_logits = from_logits

    def forward(
        self, logits: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`binary_focal_loss`."""
        return binary_focal_loss(
            logits,
            target,
            gamma=self.gamma,
            alpha=self.alpha,
            from_logits=self.from_logits,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )


def _poly_terms(log_p_t: Tensor, epsilon: Sequence[float] | float, divide_by_order: bool) -> Tensor:
    """``sum_i eps_i (1 - p_t)^i``, each term divided by its order on request."""
    coefficients = [epsilon] if isinstance(epsilon, int | float) else list(epsilon)
    miss = -torch.expm1(log_p_t)
    power, total = torch.ones_like(miss), torch.zeros_like(miss)
    for order, coefficient in enumerate(coefficients, start=1):
        power = power * miss
        total = total + power * (coefficient / order if divide_by_order else coefficient)
    return total


def _check_epsilon(function: str, epsilon: Sequence[float] | float) -> None:
    for value in [epsilon] if isinstance(epsilon, int | float) else epsilon:
        check_number(function, "epsilon", value)


def poly_loss(
    logits: Tensor,
    target: Tensor,
    *,
    epsilon: Sequence[float] | float = 1.0,
    label_smoothing: float = 0.0,
    divide_by_order: bool = False,
    ignore_index: int = -100,
    from_logits: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """PolyLoss: cross-entropy with its first polynomial coefficients changed, ``CE + sum_i eps_i (1 - p_t)^i``.

    A number is Poly-1; a sequence of N numbers is Poly-N; 0 gives cross-entropy. Since
    ``-log p_t = sum_j (1 - p_t)^j / j``, eps_i is *added to* the coefficient 1/i, as in the paper. The source article
    divides term i by i as well; ``divide_by_order=True`` does that. Label smoothing smooths the cross-entropy; p_t
    stays that of the label.

    Args:
        logits: ``(N, C, ...)`` or ``(C,)``, floating-point; probabilities in [0, 1] with ``from_logits=False``.
        target: Class indices ``(N, ...)`` or ``()`` in [0, C).
        epsilon: Coefficient of ``1 - p_t``, or of its powers 1, 2, ..., N.
        label_smoothing: Share of the target that is spread evenly over the classes, in [0, 1].
        divide_by_order: Divide term i by i, as the source article prints it.
        ignore_index: Label that is left out.
        from_logits: Whether ``logits`` are logits; otherwise probabilities.
        weight: Factor per element, broadcastable to the unreduced loss.
        mask: Bool, broadcastable to the unreduced loss; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(N, ...)`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``label_smoothing`` outside [0, 1], an unknown reduction.

    Reference:
        Leng et al., "PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions", ICLR 2022.

    Example:
        >>> poly_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([0]), epsilon=2.0)
        tensor(1.6931)
    """
    check_number("poly_loss", "label_smoothing", label_smoothing, low=0.0, high=1.0)
    _check_epsilon("poly_loss", epsilon)
    logits, target, keep = _prepare_indices("poly_loss", logits, target, mask, ignore_index)
    log_p_t = _log_p_t(logits, target, from_logits)
    entropy = -log_p_t
    if label_smoothing:
        entropy = F.cross_entropy(
            _as_logits(logits, from_logits), target, label_smoothing=label_smoothing, reduction="none"
        )
    loss = entropy + _poly_terms(log_p_t, epsilon, divide_by_order)
    return reduce_loss("poly_loss", loss, weight=weight, mask=keep, reduction=reduction)


class PolyLoss(ClassificationLoss):
    """:func:`poly_loss` as a module."""

    def __init__(
        self,
        *,
        epsilon: Sequence[float] | float = 1.0,
        label_smoothing: float = 0.0,
        divide_by_order: bool = False,
        ignore_index: int = -100,
        from_logits: bool = True,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_number("PolyLoss", "label_smoothing", label_smoothing, low=0.0, high=1.0)
        _check_epsilon("PolyLoss", epsilon)
        self.epsilon = epsilon
        self.label_smoothing = label_smoothing
        self.divide_by_order = divide_by_order
        self.ignore_index = ignore_index
        self.from_logits = from_logits

    def forward(
        self, logits: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`poly_loss`."""
        return poly_loss(
            logits,
            target,
            epsilon=self.epsilon,
            label_smoothing=self.label_smoothing,
            divide_by_order=self.divide_by_order,
            ignore_index=self.ignore_index,
            from_logits=self.from_logits,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )

    def of_log_prob(self, log_prob: Tensor) -> Tensor:
        """``-log p_t + sum_i eps_i (1 - p_t)^i``."""
        if self.label_smoothing:
            raise ValueError(
                "PolyLoss: with label_smoothing the loss is not a function of the log-probability of one class, "
                "which a policy-gradient loss needs"
            )
        return -log_prob + _poly_terms(log_prob, self.epsilon, self.divide_by_order)


def _prepare_distributions(
    function: str,
    logits: Tensor,
    target: Tensor,
    mask: Tensor | None,
    from_logits: bool,
    target_from_logits: bool,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Check and fill model and target; return the softened log-probabilities of both."""
    check_positive(function, temperature=temperature)
    check_float(function, logits=logits, target=target)
    check_ndim(function, "logits", logits, 1, "(N, C, ...) or (C,)")
    check_same_shape(function, logits=logits, target=target)
    check_mask(function, mask, _loss_shape(logits))
    logits, target = promote(logits, target.detach())
    logits, target = _fill_classes(mask, logits, 1.0), _fill_classes(mask, target, 1.0)
    if not from_logits:
        check_range(function, "logits", logits, None)
    if not target_from_logits:
        check_range(function, "target", target, None)
    model = _log_probabilities(logits, from_logits, temperature)
    return model, _log_probabilities(target, target_from_logits, temperature)


def _log_probabilities(values: Tensor, from_logits: bool, temperature: float) -> Tensor:
    """Log-probabilities softened by the temperature; a probability of 0 counts as the smallest positive number."""
    floor, dim = torch.finfo(values.dtype).tiny, _class_dim(values)
    if not from_logits and temperature == 1.0:
        p = values / values.sum(dim, keepdim=True).clamp(min=floor)
        return p.clamp(min=floor).log()
    if not from_logits:
        values = torch.where(values > 0, values.clamp(min=floor).log(), -torch.inf)
    log_p = torch.log_softmax(values if temperature == 1.0 else values / temperature, dim)
    return torch.where(log_p > -torch.inf, log_p, math.log(floor))


def _relative_entropy(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``sum_c p_c (log p_c - log q_c)``."""
    return (log_p.exp() * (log_p - log_q)).sum(_class_dim(log_p))


def kl_divergence(
    logits: Tensor,
    target: Tensor,
    *,
    from_logits: bool = True,
    target_from_logits: bool = False,
    temperature: float = 1.0,
    reverse: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Kullback-Leibler divergence of the model p from the target q: ``sum_c q_c log(q_c / p_c)``.

    It is the cross-entropy of q and p minus the entropy of q, so both have the same gradient. ``reverse=True`` swaps
    the two, ``sum_c p_c log(p_c / q_c)``, which makes the model seek one mode of the target instead of covering all.
    With a temperature T both become ``softmax(log-probability / T)`` and the loss is multiplied by T^2, so that the
    size of the gradient does not depend on T: knowledge distillation.

    Args:
        logits: ``(N, C, ...)`` or ``(C,)``, floating-point; probabilities in [0, 1] with ``from_logits=False``.
        target: Same shape, floating-point: probabilities, or logits with ``target_from_logits=True``.
        from_logits: Whether ``logits`` are logits; otherwise probabilities.
        target_from_logits: Whether ``target`` holds logits; otherwise probabilities.
        temperature: Softens both distributions, > 0.
        reverse: Whether to take the divergence of the target from the model.
        weight: Factor per element, broadcastable to the unreduced loss.
        mask: Bool, broadcastable to the unreduced loss; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``. The mean is over distributions, torch's ``"batchmean"``.

    Returns:
        Scalar, or ``(N, ...)`` for ``"none"``; in nats, >= 0 up to rounding. Probabilities are normalised; where one
        is 0 and the other is not, it counts as the smallest positive number of the dtype, so the result is large but
        finite.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``temperature`` <= 0, an unknown reduction.

    Reference:
        Kullback and Leibler, "On Information and Sufficiency", Annals of Mathematical Statistics, 1951.
        Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.

    Example:
        >>> kl_divergence(torch.zeros(1, 2), torch.tensor([[0.25, 0.75]]))
        tensor(0.1308)
    """
    model, q = _prepare_distributions(
        "kl_divergence", logits, target, mask, from_logits, target_from_logits, temperature
    )
    loss = temperature**2 * (_relative_entropy(model, q) if reverse else _relative_entropy(q, model))
    return reduce_loss("kl_divergence", loss, weight=weight, mask=mask, reduction=reduction)


class KLDivergenceLoss(Loss):
    """:func:`kl_divergence` as a module."""

    def __init__(
        self,
        *,
        from_logits: bool = True,
        target_from_logits: bool = False,
        temperature: float = 1.0,
        reverse: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_positive("KLDivergenceLoss", temperature=temperature)
        self.from_logits = from_logits
        self.target_from_logits = target_from_logits
        self.temperature = temperature
        self.reverse = reverse

    def forward(
        self, logits: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`kl_divergence`."""
        return kl_divergence(
            logits,
            target,
            from_logits=self.from_logits,
            target_from_logits=self.target_from_logits,
            temperature=self.temperature,
            reverse=self.reverse,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )


def js_divergence(
    logits: Tensor,
    target: Tensor,
    *,
    from_logits: bool = True,
    target_from_logits: bool = False,
    temperature: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Jensen-Shannon divergence of model p and target q: ``(KL(p, m) + KL(q, m)) / 2``, ``m = (p + q) / 2``.

    Symmetric in p and q, and bounded: at most log 2. The temperature works as in :func:`kl_divergence`; the factor T^2
    multiplies the bound as well.

    Args:
        logits: ``(N, C, ...)`` or ``(C,)``, floating-point; probabilities in [0, 1] with ``from_logits=False``.
        target: Same shape, floating-point: probabilities, or logits with ``target_from_logits=True``.
        from_logits: Whether ``logits`` are logits; otherwise probabilities.
        target_from_logits: Whether ``target`` holds logits; otherwise probabilities.
        temperature: Softens both distributions, > 0.
        weight: Factor per element, broadcastable to the unreduced loss.
        mask: Bool, broadcastable to the unreduced loss; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(N, ...)`` for ``"none"``; in nats, between 0 and log 2 up to rounding.
        Probabilities are normalised.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``temperature`` <= 0, an unknown reduction.

    Reference:
        Lin, "Divergence Measures Based on the Shannon Entropy", IEEE Transactions on Information Theory, 1991.

    Example:
        >>> js_divergence(torch.tensor([[0.0, 100.0]]), torch.tensor([[1.0, 0.0]]))
        tensor(0.6931)
    """
    p, q = _prepare_distributions("js_divergence", logits, target, mask, from_logits, target_from_logits, temperature)
    middle = torch.logaddexp(p, q) - math.log(2.0)
    loss = 0.5 * temperature**2 * (_relative_entropy(p, middle) + _relative_entropy(q, middle))
    return reduce_loss("js_divergence", loss, weight=weight, mask=mask, reduction=reduction)


class JSDivergenceLoss(Loss):
    """:func:`js_divergence` as a module."""

    def __init__(
        self,
        *,
        from_logits: bool = True,
        target_from_logits: bool = False,
        temperature: float = 1.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_positive("JSDivergenceLoss", temperature=temperature)
        self.from_logits = from_logits
        self.target_from_logits = target_from_logits
        self.temperature = temperature

    def forward(
        self, logits: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`js_divergence`."""
        return js_divergence(
            logits,
            target,
            from_logits=self.from_logits,
            target_from_logits=self.target_from_logits,
            temperature=self.temperature,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )


def _prepare_signs(function: str, score: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Check and fill scores and targets in {-1, +1}; return ``y s``, by how much each score is on the right side."""
    check_float(function, score=score)
    check_real(function, target=target)
    check_same_shape(function, score=score, target=target)
    check_mask(function, mask, tuple(score.shape))
    check_signs(function, "target", target, mask)
    score, target = promote(score, target.detach())
    return fill_masked(mask, target) * fill_masked(mask, score)


def hinge_loss(
    score: Tensor,
    target: Tensor,
    *,
    margin: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Hinge loss, elementwise: ``max(0, margin - y s)``.

    Args:
        score: Scores s of the positive class, any shape, floating-point.
        target: Classes y, same shape, -1 or +1 (not 0 or 1).
        margin: How far on the right side a score costs nothing, >= 0.
        weight: Factor per element, broadcastable to ``score``.
        mask: Bool, broadcastable to ``score``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``score`` for ``"none"``.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``margin`` < 0, an unknown reduction.

    Reference:
        Cortes and Vapnik, "Support-Vector Networks", Machine Learning, 1995.

    Example:
        >>> hinge_loss(torch.tensor([0.5, 0.5]), torch.tensor([1, -1]), reduction="none")
        tensor([0.5000, 1.5000])
    """
    check_non_negative("hinge_loss", margin=margin)
    loss = (margin - _prepare_signs("hinge_loss", score, target, mask)).clamp(min=0.0)
    return reduce_loss("hinge_loss", loss, weight=weight, mask=mask, reduction=reduction)


class HingeLoss(Loss):
    """:func:`hinge_loss` as a module."""

    def __init__(self, *, margin: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_non_negative("HingeLoss", margin=margin)
        self.margin = margin

    def forward(
        self, score: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`hinge_loss`."""
        return hinge_loss(score, target, margin=self.margin, weight=weight, mask=mask, reduction=self.reduction)


def squared_hinge_loss(
    score: Tensor,
    target: Tensor,
    *,
    margin: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Squared hinge loss, elementwise: ``max(0, margin - y s)^2``; it has a gradient without a jump.

    Args:
        score: Scores s of the positive class, any shape, floating-point.
        target: Classes y, same shape, -1 or +1 (not 0 or 1).
        margin: How far on the right side a score costs nothing, >= 0.
        weight: Factor per element, broadcastable to ``score``.
        mask: Bool, broadcastable to ``score``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``score`` for ``"none"``.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``margin`` < 0, an unknown reduction.

    Reference:
        Lee and Mangasarian, "SSVM: A Smooth Support Vector Machine", Computational Optimization and Applications, 2001.

    Example:
        >>> squared_hinge_loss(torch.tensor([0.5, 0.5]), torch.tensor([1, -1]), reduction="none")
        tensor([0.2500, 2.2500])
    """
    check_non_negative("squared_hinge_loss", margin=margin)
    loss = (margin - _prepare_signs("squared_hinge_loss", score, target, mask)).clamp(min=0.0).square()
    return reduce_loss("squared_hinge_loss", loss, weight=weight, mask=mask, reduction=reduction)


class SquaredHingeLoss(Loss):
    """:func:`squared_hinge_loss` as a module."""

    def __init__(self, *, margin: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_non_negative("SquaredHingeLoss", margin=margin)
        self.margin = margin

    def forward(
        self, score: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`squared_hinge_loss`."""
        return squared_hinge_loss(score, target, margin=self.margin, weight=weight, mask=mask, reduction=self.reduction)


def soft_margin_loss(
    score: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Soft margin loss, elementwise: ``log(1 + exp(-y s))``, a hinge without a corner.

    It is :func:`binary_cross_entropy` with classes named -1 and +1. Torch's own function is not called because its
    exponential overflows at ``y s = -89`` in float32.

    Args:
        score: Scores s of the positive class, any shape, floating-point.
        target: Classes y, same shape, -1 or +1 (not 0 or 1).
        weight: Factor per element, broadcastable to ``score``.
        mask: Bool, broadcastable to ``score``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``score`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, an unknown reduction.

    Example:
        >>> soft_margin_loss(torch.tensor([0.0, 1000.0]), torch.tensor([1, -1]), reduction="none")
        tensor([6.9315e-01, 1.0000e+03])
    """
    loss = -F.logsigmoid(_prepare_signs("soft_margin_loss", score, target, mask))
    return reduce_loss("soft_margin_loss", loss, weight=weight, mask=mask, reduction=reduction)


class SoftMarginLoss(Loss):
    """:func:`soft_margin_loss` as a module."""

    def forward(
        self, score: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`soft_margin_loss`."""
        return soft_margin_loss(score, target, weight=weight, mask=mask, reduction=self.reduction)


HingeVariant = Literal["weston-watkins", "crammer-singer"]


def _check_multiclass_hinge(function: str, margin: float, p: int, variant: str) -> None:
    check_non_negative(function, margin=margin)
    check_choice(function, "p", p, (1, 2))
    check_choice(function, "variant", variant, ("weston-watkins", "crammer-singer"))


def multiclass_hinge_loss(
    scores: Tensor,
    target: Tensor,
    *,
    margin: float = 1.0,
    p: int = 1,
    variant: HingeVariant = "weston-watkins",
    class_weight: ClassWeight | None = None,
    ignore_index: int = -100,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Multi-class hinge loss (multi-class SVM): ``sum_{c != t} max(0, margin - s_t + s_c)^p / C``.

    That is Weston and Watkins', divided by the number of classes C and equal to
    :func:`torch.nn.functional.multi_margin_loss`. Crammer and Singer's counts the strongest rival alone:
    ``max_{c != t} max(0, margin - s_t + s_c)^p``.

    Args:
        scores: ``(N, C, ...)`` or ``(C,)``, floating-point.
        target: Class indices t, ``(N, ...)`` or ``()``, in [0, C).
        margin: By how much the true class must lead to cost nothing, >= 0.
        p: Exponent, 1 or 2.
        variant: ``"weston-watkins"`` or ``"crammer-singer"``.
        class_weight: ``(C,)``, a factor for the samples of each class; the mean divides by their number, as in torch.
        ignore_index: Label that is left out.
        weight: Factor per element, broadcastable to the unreduced loss.
        mask: Bool, broadcastable to the unreduced loss; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(N, ...)`` for ``"none"``.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``margin`` < 0, unknown ``p``, ``variant`` or reduction.

    Reference:
        Weston and Watkins, "Support Vector Machines for Multi-Class Pattern Recognition", ESANN 1999.
        Crammer and Singer, "On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines", JMLR, 2001.

    Example:
        >>> scores, target = torch.tensor([[0.1, 0.2, 0.4, 0.8]]), torch.tensor([3])
        >>> multiclass_hinge_loss(scores, target)
        tensor(0.3250)
        >>> multiclass_hinge_loss(scores, target, variant="crammer-singer")
        tensor(0.6000)
    """
    _check_multiclass_hinge("multiclass_hinge_loss", margin, p, variant)
    scores, target, keep = _prepare_indices("multiclass_hinge_loss", scores, target, mask, ignore_index, "scores")
    class_weight = _check_class_weight("multiclass_hinge_loss", class_weight, scores)
    dim = _class_dim(scores)
    label = target.unsqueeze(dim)
    lead = (scores - scores.gather(dim, label)).scatter(dim, label, -torch.inf)
    excess = (lead + margin).clamp(min=0.0)
    if p == 2:
        excess = excess.square()
    loss = excess.mean(dim) if variant == "weston-watkins" else excess.amax(dim)
    if class_weight is not None:
        loss = loss * class_weight[target]
    return reduce_loss("multiclass_hinge_loss", loss, weight=weight, mask=keep, reduction=reduction)


class MulticlassHingeLoss(Loss):
    """:func:`multiclass_hinge_loss` as a module."""

    class_weight: Tensor | None

    def __init__(
        self,
        *,
        margin: float = 1.0,
        p: int = 1,
        variant: HingeVariant = "weston-watkins",
        class_weight: ClassWeight | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        _check_multiclass_hinge("MulticlassHingeLoss", margin, p, variant)
        self.margin = margin
        self.p = p
        self.variant: HingeVariant = variant
        class_weight = _as_buffer("MulticlassHingeLoss", "class_weight", class_weight)
        self.register_buffer("class_weight", class_weight, persistent=False)
        self.ignore_index = ignore_index

    def forward(
        self, scores: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`multiclass_hinge_loss`."""
        return multiclass_hinge_loss(
            scores,
            target,
            margin=self.margin,
            p=self.p,
            variant=self.variant,
            class_weight=self.class_weight,
            ignore_index=self.ignore_index,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )
