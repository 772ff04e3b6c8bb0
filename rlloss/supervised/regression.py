"""Regression losses: ``(input, target)`` of one shape, elementwise unless noted.

Below, ``a = input - target`` is the error. ``target`` and ``weight`` are constants: gradients reach ``input`` only.
``weight``, ``mask`` and ``reduction`` work as :mod:`rlloss.core.reduction` says, in every function here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rlloss.core.checks import (
    check_choice,
    check_float,
    check_mask,
    check_non_negative,
    check_number,
    check_positive,
    check_range,
    check_real,
    check_same_shape,
)
from rlloss.core.module import Loss
from rlloss.core.reduction import Reduction, fill_masked, promote, reduce_kernel, reduce_loss


def _prepare(function: str, input: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Check, convert to the computing dtype, stop the target's gradient, fill what the mask removes."""
    check_float(function, input=input)
    check_real(function, target=target)
    check_same_shape(function, input=input, target=target)
    check_mask(function, mask, tuple(input.shape))
    input, target = promote(input, target.detach())
    return fill_masked(mask, input), fill_masked(mask, target)


class RegressionLoss(Loss, ABC):
    """A loss of ``(input, target)`` of one shape, both real: what a TD loss or a critic can take as criterion.

    One that predicts a distribution of the target has inputs ``(..., K)``, and says which value they mean.

    Attributes:
        num_outputs: How many numbers a prediction consists of, K; with 1, the input has the target's shape.
    """

    num_outputs: int = 1

    def value(self, input: Tensor) -> Tensor:
        """The prediction ``(...)`` that an input means: the input itself, unless a subclass predicts otherwise."""
        return input

    @abstractmethod
    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the loss of ``input`` against ``target``."""


def mae_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Mean absolute error, L1: ``|a|``.

    Args:
        input: Predictions, any shape, floating-point.
        target: Targets, same shape, in the units of ``input``.
        weight: Factor per element, broadcastable to ``input``.
        mask: Bool, broadcastable to ``input``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``input`` for ``"none"``; in the units of ``input``.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, an unknown reduction.

    Example:
        >>> mae_loss(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 2.0]))
        tensor(2.)
    """
    input, target = _prepare("mae_loss", input, target, mask)
    return reduce_kernel("mae_loss", F.l1_loss, input, target, weight=weight, mask=mask, reduction=reduction)


class MAELoss(RegressionLoss):
    """:func:`mae_loss` as a module."""

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`mae_loss`."""
        return mae_loss(input, target, weight=weight, mask=mask, reduction=self.reduction)


def mse_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Mean squared error, L2: ``a^2`` (no factor 1/2).

    Args:
        input: Predictions, any shape, floating-point.
        target: Targets, same shape, in the units of ``input``.
        weight: Factor per element, broadcastable to ``input``.
        mask: Bool, broadcastable to ``input``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``input`` for ``"none"``; in the squared units of ``input``.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, an unknown reduction.

    Example:
        >>> mse_loss(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 2.0]))
        tensor(5.)
    """
    input, target = _prepare("mse_loss", input, target, mask)
    return reduce_kernel("mse_loss", F.mse_loss, input, target, weight=weight, mask=mask, reduction=reduction)


class MSELoss(RegressionLoss):
    """:func:`mse_loss` as a module."""

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`mse_loss`."""
        return mse_loss(input, target, weight=weight, mask=mask, reduction=self.reduction)


def rmse_loss(
    input: Tensor,
    target: Tensor,
    *,
    eps: float = 0.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Root mean squared error: ``sqrt(MSE + eps)``, the square root of the *reduced* squared error.

    At zero error and ``eps=0`` the square root has no derivative; the gradient is 0 there, not NaN.

    Args:
        input: Predictions, any shape, floating-point.
        target: Targets, same shape, in the units of ``input``.
        eps: Added under the root, >= 0, in the squared units of ``input``.
        weight: Factor per squared error, broadcastable to ``input``, >= 0.
        mask: Bool, broadcastable to ``input``; False removes.
        reduction: ``"mean"`` roots the mean, ``"sum"`` roots the sum, ``"none"`` roots each squared error.

    Returns:
        Scalar, or the shape of ``input`` for ``"none"``; in the units of ``input``.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``eps`` < 0, an unknown reduction.

    Example:
        >>> rmse_loss(torch.tensor([1.0, 5.0]), torch.tensor([0.0, 0.0]), reduction="sum")
        tensor(5.0990)
    """
    check_non_negative("rmse_loss", eps=eps)
    input, target = _prepare("rmse_loss", input, target, mask)
    loss = F.mse_loss(input, target, reduction="none")
    squared = reduce_loss("rmse_loss", loss, weight=weight, mask=mask, reduction=reduction)
    if eps:
        # Added where something was kept: what the mask removes, and an empty batch, stay 0.
        kept = torch.ones_like(loss, dtype=torch.bool) if mask is None else mask.expand_as(loss)
        squared = torch.where(kept if reduction == "none" else kept.any(), squared + eps, squared)
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), squared * 0.0)


class RMSELoss(RegressionLoss):
    """:func:`rmse_loss` as a module."""

    def __init__(self, *, eps: float = 0.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_non_negative("RMSELoss", eps=eps)
        self.eps = eps

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`rmse_loss`."""
        return rmse_loss(input, target, eps=self.eps, weight=weight, mask=mask, reduction=self.reduction)


Norm = Literal["range", "mean"]


def _check_norm(function: str, norm: Norm | float) -> None:
    if isinstance(norm, str):
        check_choice(function, "norm", norm, ("range", "mean"))
    else:
        check_positive(function, norm=norm)


def _target_norm(target: Tensor, norm: Norm | float, mask: Tensor | None) -> Tensor | float:
    """The scale of the targets that are kept; 1 where it would be 0 or nothing is kept."""
    if not isinstance(norm, str):
        return norm
    if target.numel() == 0:
        return 1.0
    if norm == "mean":
        kept = fill_masked(mask, torch.ones_like(target)).sum()
        scale = (target.sum() / kept.clamp(min=1.0)).abs()
    else:
        scale = fill_masked(mask, target, -math.inf).amax() - fill_masked(mask, target, math.inf).amin()
    return torch.where(scale > 0, scale, 1.0)


def nmae_loss(
    input: Tensor,
    target: Tensor,
    *,
    norm: Norm | float = "range",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Normalised mean absolute error: ``|a| / norm``.

    ``norm`` is taken over all targets that the mask keeps: ``"range"`` is max - min, ``"mean"`` is the absolute
    value of the mean. A norm of 0 (constant targets) counts as 1, as in scikit-learn's scalers.

    Args:
        input: Predictions, any shape, floating-point.
        target: Targets, same shape, in the units of ``input``.
        norm: ``"range"``, ``"mean"`` or a number > 0 in the units of ``input``.
        weight: Factor per element, broadcastable to ``input``.
        mask: Bool, broadcastable to ``input``; False removes, from the norm as well.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``input`` for ``"none"``; without a unit.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, a ``norm`` that is unknown or <= 0, an unknown reduction.

    Example:
        >>> nmae_loss(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 4.0]))
        tensor(0.5000)
    """
    _check_norm("nmae_loss", norm)
    input, target = _prepare("nmae_loss", input, target, mask)
    loss = F.l1_loss(input, target, reduction="none") / _target_norm(target, norm, mask)
    return reduce_loss("nmae_loss", loss, weight=weight, mask=mask, reduction=reduction)


class NMAELoss(RegressionLoss):
    """:func:`nmae_loss` as a module."""

    def __init__(self, *, norm: Norm | float = "range", reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        _check_norm("NMAELoss", norm)
        self.norm: Norm | float = norm

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`nmae_loss`."""
        return nmae_loss(input, target, norm=self.norm, weight=weight, mask=mask, reduction=self.reduction)


def huber_loss(
    input: Tensor,
    target: Tensor,
    *,
    delta: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Huber loss: ``a^2 / 2`` where ``|a| <= delta``, ``delta (|a| - delta / 2)`` elsewhere.

    Args:
        input: Predictions, any shape, floating-point.
        target: Targets, same shape, in the units of ``input``.
        delta: Where the quadratic branch ends, > 0, in the units of ``input``.
        weight: Factor per element, broadcastable to ``input``.
        mask: Bool, broadcastable to ``input``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``input`` for ``"none"``; in the squared units of ``input``.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``delta`` <= 0, an unknown reduction.

    Reference:
        Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics, 1964.

    Example:
        >>> huber_loss(torch.tensor([0.5, 3.0]), torch.tensor([0.0, 0.0]), reduction="none")
        tensor([0.1250, 2.5000])
    """
    check_positive("huber_loss", delta=delta)
    input, target = _prepare("huber_loss", input, target, mask)
    kernel = partial(F.huber_loss, delta=delta)
    return reduce_kernel("huber_loss", kernel, input, target, weight=weight, mask=mask, reduction=reduction)


class HuberLoss(RegressionLoss):
    """:func:`huber_loss` as a module."""

    def __init__(self, *, delta: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_positive("HuberLoss", delta=delta)
        self.delta = delta

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`huber_loss`."""
        return huber_loss(input, target, delta=self.delta, weight=weight, mask=mask, reduction=self.reduction)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    *,
    beta: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Smooth L1: ``a^2 / (2 beta)`` where ``|a| < beta``, ``|a| - beta / 2`` elsewhere.

    It is ``huber_loss(delta=beta) / beta``: its slope is +-1 far out, whatever ``beta`` is.

    Args:
        input: Predictions, any shape, floating-point.
        target: Targets, same shape, in the units of ``input``.
        beta: Where the quadratic branch ends, >= 0, in the units of ``input``; 0 is the absolute error.
        weight: Factor per element, broadcastable to ``input``.
        mask: Bool, broadcastable to ``input``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``input`` for ``"none"``; in the units of ``input``.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``beta`` < 0, an unknown reduction.

    Reference:
        Girshick, "Fast R-CNN", ICCV 2015.

    Example:
        >>> smooth_l1_loss(torch.tensor([0.5, 3.0]), torch.tensor([0.0, 0.0]), beta=0.5, reduction="none")
        tensor([0.2500, 2.7500])
    """
    check_non_negative("smooth_l1_loss", beta=beta)
    input, target = _prepare("smooth_l1_loss", input, target, mask)
    kernel = partial(F.smooth_l1_loss, beta=beta)
    return reduce_kernel("smooth_l1_loss", kernel, input, target, weight=weight, mask=mask, reduction=reduction)


class SmoothL1Loss(RegressionLoss):
    """:func:`smooth_l1_loss` as a module."""

    def __init__(self, *, beta: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_non_negative("SmoothL1Loss", beta=beta)
        self.beta = beta

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`smooth_l1_loss`."""
        return smooth_l1_loss(input, target, beta=self.beta, weight=weight, mask=mask, reduction=self.reduction)


def asymmetric_huber_loss(
    input: Tensor,
    target: Tensor,
    *,
    delta: float = 1.0,
    alpha: float = 1.0,
    continuous: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Huber loss that weighs under-estimation (``a < 0``) differently from over-estimation.

    With ``h`` the Huber loss: ``alpha h(a)`` where ``a < -delta``, ``h(a)`` elsewhere.

    That is the source article's formula; it scales the linear branch alone and therefore jumps at ``a = -delta``
    from ``delta^2 / 2`` to ``alpha delta^2 / 2``. ``continuous=True`` scales the whole negative side,
    ``alpha h(a)`` where ``a < 0``, which has no jump.

    Args:
        input: Predictions, any shape, floating-point.
        target: Targets, same shape, in the units of ``input``.
        delta: Where the quadratic branch ends, > 0, in the units of ``input``.
        alpha: Factor of under-estimation, >= 0; 1 gives :func:`huber_loss`.
        continuous: Scale the whole negative side instead of its linear branch.
        weight: Factor per element, broadcastable to ``input``.
        mask: Bool, broadcastable to ``input``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``input`` for ``"none"``; in the squared units of ``input``.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``delta`` <= 0, ``alpha`` < 0, an unknown reduction.

    Reference:
        Chadha and Jain, "Loss Functions", Distilled AI, 2020.

    Example:
        >>> asymmetric_huber_loss(torch.tensor([-3.0, 3.0]), torch.zeros(2), alpha=2.0, reduction="none")
        tensor([5.0000, 2.5000])
    """
    check_positive("asymmetric_huber_loss", delta=delta)
    check_non_negative("asymmetric_huber_loss", alpha=alpha)
    input, target = _prepare("asymmetric_huber_loss", input, target, mask)
    huber = F.huber_loss(input, target, delta=delta, reduction="none")
    scaled = input - target < (0.0 if continuous else -delta)
    loss = torch.where(scaled, alpha * huber, huber)
    return reduce_loss("asymmetric_huber_loss", loss, weight=weight, mask=mask, reduction=reduction)


class AsymmetricHuberLoss(RegressionLoss):
    """:func:`asymmetric_huber_loss` as a module."""

    def __init__(
        self,
        *,
        delta: float = 1.0,
        alpha: float = 1.0,
        continuous: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_positive("AsymmetricHuberLoss", delta=delta)
        check_non_negative("AsymmetricHuberLoss", alpha=alpha)
        self.delta = delta
        self.alpha = alpha
        self.continuous = continuous

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`asymmetric_huber_loss`."""
        return asymmetric_huber_loss(
            input,
            target,
            delta=self.delta,
            alpha=self.alpha,
            continuous=self.continuous,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )


def log_cosh_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Logarithm of the hyperbolic cosine: ``log cosh a``, with gradient ``tanh a``.

    About ``a^2 / 2`` near zero and ``|a| - log 2`` far out; computed without overflow.

    Args:
        input: Predictions, any shape, floating-point.
        target: Targets, same shape, in the units of ``input``.
        weight: Factor per element, broadcastable to ``input``.
        mask: Bool, broadcastable to ``input``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``input`` for ``"none"``.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, an unknown reduction.

    Reference:
        Chen et al., "Log Hyperbolic Cosine Loss Improves Variational Auto-Encoder", 2018.

    Example:
        >>> log_cosh_loss(torch.tensor([1.0]), torch.tensor([0.0]))
        tensor(0.4338)
    """
    input, target = _prepare("log_cosh_loss", input, target, mask)
    error = input - target
    loss = torch.logaddexp(error, -error) - math.log(2.0)
    return reduce_loss("log_cosh_loss", loss, weight=weight, mask=mask, reduction=reduction)


class LogCoshLoss(RegressionLoss):
    """:func:`log_cosh_loss` as a module."""

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`log_cosh_loss`."""
        return log_cosh_loss(input, target, weight=weight, mask=mask, reduction=self.reduction)


def mape_loss(
    input: Tensor,
    target: Tensor,
    *,
    eps: float = 1e-8,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Mean absolute percentage error, as a fraction: ``|a| / max(|target|, eps)``.

    Args:
        input: Predictions, any shape, floating-point.
        target: Targets, same shape, in the units of ``input``.
        eps: Smallest denominator, > 0, in the units of ``input``.
        weight: Factor per element, broadcastable to ``input``.
        mask: Bool, broadcastable to ``input``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``input`` for ``"none"``; a fraction: 1.0 is 100 %.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``eps`` <= 0, an unknown reduction.

    Reference:
        de Myttenaere et al., "Mean Absolute Percentage Error for regression models", Neurocomputing, 2016.

    Example:
        >>> mape_loss(torch.tensor([90.0, 220.0]), torch.tensor([100.0, 200.0]))
        tensor(0.1000)
    """
    check_positive("mape_loss", eps=eps)
    input, target = _prepare("mape_loss", input, target, mask)
    loss = (input - target).abs() / target.abs().clamp(min=eps)
    return reduce_loss("mape_loss", loss, weight=weight, mask=mask, reduction=reduction)


class MAPELoss(RegressionLoss):
    """:func:`mape_loss` as a module."""

    def __init__(self, *, eps: float = 1e-8, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_positive("MAPELoss", eps=eps)
        self.eps = eps

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`mape_loss`."""
        return mape_loss(input, target, eps=self.eps, weight=weight, mask=mask, reduction=self.reduction)


def msle_loss(
    input: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Mean squared logarithmic error: ``(log(1 + input) - log(1 + target))^2``.

    Args:
        input: Predictions > -1, any shape, floating-point. At -1 and below the result is infinite or NaN.
        target: Targets > -1, same shape.
        weight: Factor per element, broadcastable to ``input``.
        mask: Bool, broadcastable to ``input``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``input`` for ``"none"``.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, an unknown reduction.

    Example:
        >>> msle_loss(torch.tensor([0.0]), torch.tensor([1.0]))
        tensor(0.4805)
    """
    input, target = _prepare("msle_loss", input, target, mask)
    check_range("msle_loss", "input", input, mask, low=-1.0)
    check_range("msle_loss", "target", target, mask, low=-1.0)
    loss = F.mse_loss(torch.log1p(input), torch.log1p(target), reduction="none")
    return reduce_loss("msle_loss", loss, weight=weight, mask=mask, reduction=reduction)


class MSLELoss(RegressionLoss):
    """:func:`msle_loss` as a module."""

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`msle_loss`."""
        return msle_loss(input, target, weight=weight, mask=mask, reduction=self.reduction)


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    *,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Negative log-likelihood of counts under a Poisson distribution.

    ``exp(input) - target * input`` where ``input`` is the logarithm of the rate, or
    ``input - target * log(input + eps)`` where it is the rate. ``full=True`` adds Stirling's approximation of
    ``log(target!)`` for targets above 1. Equal to :func:`torch.nn.functional.poisson_nll_loss`.

    Args:
        input: Log-rates (any real number) or rates (>= 0), any shape, floating-point.
        target: Counts >= 0, same shape.
        log_input: Whether ``input`` is the logarithm of the rate.
        full: Whether to add the term that does not depend on ``input``.
        eps: Added to the rate under the logarithm, > 0; only used with ``log_input=False``.
        weight: Factor per element, broadcastable to ``input``.
        mask: Bool, broadcastable to ``input``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``input`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``eps`` <= 0, an unknown reduction.

    Example:
        >>> poisson_nll_loss(torch.tensor([0.0]), torch.tensor([3]))
        tensor(1.)
    """
    check_positive("poisson_nll_loss", eps=eps)
    input, target = _prepare("poisson_nll_loss", input, target, mask)
    check_range("poisson_nll_loss", "target", target, mask)
    kernel = partial(F.poisson_nll_loss, log_input=log_input, full=full, eps=eps)
    return reduce_kernel("poisson_nll_loss", kernel, input, target, weight=weight, mask=mask, reduction=reduction)


class PoissonNLLLoss(RegressionLoss):
    """:func:`poisson_nll_loss` as a module."""

    def __init__(
        self, *, log_input: bool = True, full: bool = False, eps: float = 1e-8, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction=reduction)
        check_positive("PoissonNLLLoss", eps=eps)
        self.log_input = log_input
        self.full = full
        self.eps = eps

    def value(self, input: Tensor) -> Tensor:
        """The rate, which an input is the logarithm of with ``log_input``."""
        return input.exp() if self.log_input else input

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`poisson_nll_loss`."""
        return poisson_nll_loss(
            input,
            target,
            log_input=self.log_input,
            full=self.full,
            eps=self.eps,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )


def quantile_loss(
    input: Tensor,
    target: Tensor,
    *,
    quantile: float = 0.5,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Quantile (pinball) loss: ``quantile * -a`` where ``a < 0``, ``(1 - quantile) * a`` elsewhere.

    Its minimiser is the quantile of the targets; 0.5 gives half the absolute error.

    Args:
        input: Predictions, any shape, floating-point.
        target: Targets, same shape, in the units of ``input``.
        quantile: Quantile, in (0, 1).
        weight: Factor per element, broadcastable to ``input``.
        mask: Bool, broadcastable to ``input``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``input`` for ``"none"``; in the units of ``input``.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``quantile`` outside (0, 1), an unknown reduction.

    Reference:
        Koenker and Bassett, "Regression Quantiles", Econometrica, 1978.

    Example:
        >>> quantile_loss(torch.tensor([-1.0, 1.0]), torch.zeros(2), quantile=0.75, reduction="none")
        tensor([0.7500, 0.2500])
    """
    check_number("quantile_loss", "quantile", quantile, low=0.0, high=1.0, low_open=True, high_open=True)
    input, target = _prepare("quantile_loss", input, target, mask)
    error = input - target
    loss = torch.maximum(-quantile * error, (1.0 - quantile) * error)
    return reduce_loss("quantile_loss", loss, weight=weight, mask=mask, reduction=reduction)


class QuantileLoss(RegressionLoss):
    """:func:`quantile_loss` as a module."""

    def __init__(self, *, quantile: float = 0.5, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_number("QuantileLoss", "quantile", quantile, low=0.0, high=1.0, low_open=True, high_open=True)
        self.quantile = quantile

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`quantile_loss`."""
        return quantile_loss(input, target, quantile=self.quantile, weight=weight, mask=mask, reduction=self.reduction)


def expectile_loss(
    input: Tensor,
    target: Tensor,
    *,
    expectile: float = 0.5,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Expectile loss: ``expectile * a^2`` where ``a < 0``, ``(1 - expectile) * a^2`` elsewhere.

    An asymmetric squared error; 0.5 gives half the squared error. Above 0.5 it pulls the prediction
    towards the larger targets, as implicit Q-learning does.

    Args:
        input: Predictions, any shape, floating-point.
        target: Targets, same shape, in the units of ``input``.
        expectile: Expectile, in (0, 1).
        weight: Factor per element, broadcastable to ``input``.
        mask: Bool, broadcastable to ``input``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``input`` for ``"none"``; in the squared units of ``input``.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``expectile`` outside (0, 1), an unknown reduction.

    Reference:
        Newey and Powell, "Asymmetric Least Squares Estimation and Testing", Econometrica, 1987.
        Kostrikov et al., "Offline Reinforcement Learning with Implicit Q-Learning", ICLR 2022.

    Example:
        >>> expectile_loss(torch.tensor([-2.0, 2.0]), torch.zeros(2), expectile=0.75, reduction="none")
        tensor([3., 1.])
    """
    check_number("expectile_loss", "expectile", expectile, low=0.0, high=1.0, low_open=True, high_open=True)
    input, target = _prepare("expectile_loss", input, target, mask)
    squared = F.mse_loss(input, target, reduction="none")
    loss = torch.where(input < target, expectile * squared, (1.0 - expectile) * squared)
    return reduce_loss("expectile_loss", loss, weight=weight, mask=mask, reduction=reduction)


class ExpectileLoss(RegressionLoss):
    """:func:`expectile_loss` as a module."""

    def __init__(self, *, expectile: float = 0.5, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_number("ExpectileLoss", "expectile", expectile, low=0.0, high=1.0, low_open=True, high_open=True)
        self.expectile = expectile

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`expectile_loss`."""
        return expectile_loss(
            input, target, expectile=self.expectile, weight=weight, mask=mask, reduction=self.reduction
        )


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor,
    *,
    full: bool = False,
    eps: float = 1e-6,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Negative log-likelihood under a Gaussian of predicted mean and variance: ``(log v + a^2 / v) / 2``.

    ``v = max(var, eps)``; as in torch the clamp does not stop the gradient, so a variance that fell below ``eps``
    can recover. ``full=True`` adds ``log(2 pi) / 2``. Torch's own function is not called because it reads the
    variance back from the device to check its sign.

    Args:
        input: Predicted means, any shape, floating-point.
        target: Targets, same shape, in the units of ``input``.
        var: Predicted variances >= 0, same shape, in the squared units of ``input``; gradients reach it.
        full: Whether to add the constant.
        eps: Smallest variance, > 0.
        weight: Factor per element, broadcastable to ``input``.
        mask: Bool, broadcastable to ``input``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``input`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``eps`` <= 0, an unknown reduction.

    Reference:
        Nix and Weigend, "Estimating the mean and variance of the target probability distribution", ICNN 1994.

    Example:
        >>> gaussian_nll_loss(torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([4.0]))
        tensor(1.1931)
    """
    check_positive("gaussian_nll_loss", eps=eps)
    check_float("gaussian_nll_loss", input=input, var=var)
    check_same_shape("gaussian_nll_loss", input=input, var=var)
    input, target = _prepare("gaussian_nll_loss", input, target, mask)
    input, target, var = promote(input, target, var)
    check_range("gaussian_nll_loss", "var", var, mask)
    var = fill_masked(mask, var, 1.0)
    var = var.detach().clamp(min=eps) + (var - var.detach())
    loss = 0.5 * (torch.log(var) + F.mse_loss(input, target, reduction="none") / var)
    if full:
        loss = loss + 0.5 * math.log(2.0 * math.pi)
    return reduce_loss("gaussian_nll_loss", loss, weight=weight, mask=mask, reduction=reduction)


class GaussianNLLLoss(Loss):
    """:func:`gaussian_nll_loss` as a module."""

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_positive("GaussianNLLLoss", eps=eps)
        self.full = full
        self.eps = eps

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        var: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`gaussian_nll_loss`."""
        return gaussian_nll_loss(
            input,
            target,
            var,
            full=self.full,
            eps=self.eps,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )
