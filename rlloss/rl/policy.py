"""Policy losses on log-probabilities, so that any action space works.

Every loss is to be minimised and added: ``entropy_loss`` is minus the entropy. Advantages, weights and old
log-probabilities are constants: gradients reach the new log-probabilities (or the logits) only.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from rlloss.core.checks import check_float, check_mask, check_ndim, check_positive, check_same_shape
from rlloss.core.module import Loss
from rlloss.core.reduction import Reduction, fill_masked, promote, reduce_loss
from rlloss.supervised.classification import ClassificationLoss, CrossEntropyLoss


def _prepare(function: str, mask: Tensor | None, log_prob: Tensor, **constants: Tensor) -> list[Tensor]:
    """Check tensors of one shape, stop the gradient of all but the first, fill what the mask removes."""
    check_float(function, log_prob=log_prob, **constants)
    check_same_shape(function, log_prob=log_prob, **constants)
    check_mask(function, mask, tuple(log_prob.shape))
    tensors = promote(log_prob, *(constant.detach() for constant in constants.values()))
    return [fill_masked(mask, tensor) for tensor in tensors]


def policy_gradient_loss(
    log_prob: Tensor,
    advantage: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Policy-gradient loss: ``-log pi(a|s) A``, whose gradient is the REINFORCE or actor-critic estimate.

    The source article prints the gradient ``-E[sum grad log pi * A]`` under the name of the loss; this is the loss that
    has that gradient, with the mean over steps for the expectation (``reduction="sum"`` sums them).

    Args:
        log_prob: Log-probability of the action taken, any shape, floating-point.
        advantage: Advantage, return or action value, same shape; no gradient flows to it.
        weight: Factor per element, broadcastable to ``log_prob``.
        mask: Bool, broadcastable to ``log_prob``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``log_prob`` for ``"none"``.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, an unknown reduction.

    Reference:
        Williams, "Simple statistical gradient-following algorithms", Machine Learning, 1992.
        Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning", ICML 2016.

    Example:
        >>> policy_gradient_loss(torch.tensor([-1.0, -2.0]), torch.tensor([3.0, -1.0]))
        tensor(0.5000)
    """
    log_prob, advantage = _prepare("policy_gradient_loss", mask, log_prob, advantage=advantage)
    loss = -log_prob * advantage
    return reduce_loss("policy_gradient_loss", loss, weight=weight, mask=mask, reduction=reduction)


def clipped_surrogate_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    *,
    clip: float = 0.2,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """PPO's clipped surrogate: ``-min(rho A, clamp(rho, 1 - clip, 1 + clip) A)``.

    ``rho = exp(log_prob - old_log_prob)`` is the ratio of the new probability to the old.

    Args:
        log_prob: Log-probability of the action taken, under the policy that learns; any shape, floating-point.
        old_log_prob: The same under the policy that acted, same shape; no gradient flows to it.
        advantage: Advantage, same shape; no gradient flows to it.
        clip: How far the ratio may move before its gradient stops, > 0.
        weight: Factor per element, broadcastable to ``log_prob``.
        mask: Bool, broadcastable to ``log_prob``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``log_prob`` for ``"none"``.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``clip`` <= 0, an unknown reduction.

    Reference:
        Schulman et al., "Proximal Policy Optimization Algorithms", 2017.

    Example:
        >>> log_prob, old_log_prob = torch.tensor([0.0]), torch.tensor([-1.0])
        >>> clipped_surrogate_loss(log_prob, old_log_prob, torch.tensor([1.0]))
        tensor(-1.2000)
    """
    check_positive("clipped_surrogate_loss", clip=clip)
    log_prob, old_log_prob, advantage = _prepare(
        "clipped_surrogate_loss", mask, log_prob, old_log_prob=old_log_prob, advantage=advantage
    )
    # The minimum bounds the ratio below where the advantage is negative and above elsewhere. The bounds are put on its
    # logarithm: a ratio that overflows where it is clipped would have a NaN gradient.
    log_ratio = log_prob - old_log_prob
    lowest = math.log1p(-clip) if clip < 1.0 else -math.inf
    log_ratio = torch.where(advantage < 0, log_ratio.clamp(min=lowest), log_ratio.clamp(max=math.log1p(clip)))
    loss = -torch.exp(log_ratio) * advantage
    return reduce_loss("clipped_surrogate_loss", loss, weight=weight, mask=mask, reduction=reduction)


def entropy_loss(
    logits: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Minus the entropy of a categorical policy: ``sum_a p_a log p_a``; adding it keeps the policy random.

    Args:
        logits: ``(..., A)``, floating-point. An action with a logit of -inf is impossible and counts 0.
        weight: Factor per element, broadcastable to ``(...)``.
        mask: Bool, broadcastable to ``(...)``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(...)`` for ``"none"``; in nats, between -log A and 0.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, an unknown reduction.

    Reference:
        Williams and Peng, "Function optimization using connectionist reinforcement learning algorithms", 1991.

    Example:
        >>> entropy_loss(torch.zeros(1, 2))
        tensor(-0.6931)
    """
    check_float("entropy_loss", logits=logits)
    check_ndim("entropy_loss", "logits", logits, 1, "(..., A)")
    shape = tuple(logits.shape[:-1])
    check_mask("entropy_loss", mask, shape)
    (logits,) = promote(logits)
    if mask is not None:
        logits = fill_masked(mask.expand(shape).unsqueeze(-1), logits)
    log_p = torch.log_softmax(logits, dim=-1)
    possible = log_p > -torch.inf
    loss = (log_p.exp() * torch.where(possible, log_p, 0.0)).sum(-1)
    return reduce_loss("entropy_loss", loss, weight=weight, mask=mask, reduction=reduction)


class EntropyLoss(Loss):
    """:func:`entropy_loss` as a module."""

    def forward(self, logits: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """See :func:`entropy_loss`."""
        return entropy_loss(logits, weight=weight, mask=mask, reduction=self.reduction)


class PolicyLoss(Loss, ABC):
    """What an actor minimises: a loss of new and old log-probabilities and advantages.

    Attributes:
        needs_old_log_prob: Whether ``old_log_prob`` is used; an agent need not compute it where it is not.
    """

    needs_old_log_prob: bool = False

    @abstractmethod
    def forward(
        self,
        log_prob: Tensor,
        old_log_prob: Tensor | None,
        advantage: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of the actions with ``log_prob``, weighed by ``advantage``."""


class PolicyGradientLoss(PolicyLoss):
    """Policy gradient as a classification loss that the advantage weighs: ``A criterion(log pi(a|s))``.

    Cross-entropy gives :func:`policy_gradient_loss`. Focal and poly loss are functions of the log-probability of one
    class too, so each can take its place; they presume probabilities, so discrete actions.

    Args:
        criterion: Cross-entropy, focal or poly loss; only its function of ``log p_t`` is used.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        TypeError: ``criterion`` is not a classification loss.
        ValueError: ``criterion`` is not a function of ``log p_t`` alone; shapes that differ; an unknown reduction.

    Reference:
        Williams, "Simple statistical gradient-following algorithms", Machine Learning, 1992.

    Example:
        >>> loss = PolicyGradientLoss()
        >>> loss(torch.tensor([-1.0, -2.0]), None, torch.tensor([3.0, -1.0]))
        tensor(0.5000)
    """

    def __init__(self, criterion: ClassificationLoss | None = None, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        criterion = CrossEntropyLoss() if criterion is None else criterion
        if not isinstance(criterion, ClassificationLoss):
            raise TypeError(
                f"PolicyGradientLoss: criterion must be a ClassificationLoss, got {type(criterion).__name__}"
            )
        criterion.of_log_prob(torch.zeros(1))  # raises where the criterion is not a function of log p_t
        self.criterion = criterion

    def forward(
        self,
        log_prob: Tensor,
        old_log_prob: Tensor | None,
        advantage: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :class:`PolicyGradientLoss`; ``old_log_prob`` is not used."""
        log_prob, advantage = _prepare("PolicyGradientLoss", mask, log_prob, advantage=advantage)
        loss = self.criterion.of_log_prob(log_prob) * advantage
        return reduce_loss("PolicyGradientLoss", loss, weight=weight, mask=mask, reduction=self.reduction)


class ClippedSurrogateLoss(PolicyLoss):
    """:func:`clipped_surrogate_loss` as a module; with several epochs this is PPO."""

    needs_old_log_prob = True

    def __init__(self, *, clip: float = 0.2, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_positive("ClippedSurrogateLoss", clip=clip)
        self.clip = clip

    def forward(
        self,
        log_prob: Tensor,
        old_log_prob: Tensor | None,
        advantage: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`clipped_surrogate_loss`."""
        if old_log_prob is None:
            raise ValueError("ClippedSurrogateLoss: old_log_prob must be given")
        return clipped_surrogate_loss(
            log_prob,
            old_log_prob,
            advantage,
            clip=self.clip,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )
