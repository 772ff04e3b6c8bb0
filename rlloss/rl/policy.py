"""Policy losses on log-probabilities, so that any action space works.

Every loss is to be minimised and added: ``entropy_loss`` is minus the entropy. Advantages, action values, weights and
old log-probabilities are constants: gradients reach the new log-probabilities (or the logits) only.

In order: losses of the action taken; losses of all actions; regularisers; log-densities of continuous actions; and
:class:`PolicyLoss`, what an agent's actor takes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from rlloss.core.checks import (
    check_choice,
    check_float,
    check_mask,
    check_ndim,
    check_non_negative,
    check_number,
    check_positive,
    check_same_shape,
    check_shape,
)
from rlloss.core.module import Loss
from rlloss.core.reduction import Reduction, fill_masked, promote, reduce_loss
from rlloss.supervised.classification import ClassificationLoss, CrossEntropyLoss, kl_divergence

DrawnFrom: TypeAlias = Literal["new", "old"]


def _prepare(function: str, mask: Tensor | None, log_prob: Tensor, **constants: Tensor) -> list[Tensor]:
    """Check tensors of one shape, stop the gradient of all but the first, fill what the mask removes."""
    check_float(function, log_prob=log_prob, **constants)
    check_same_shape(function, log_prob=log_prob, **constants)
    check_mask(function, mask, tuple(log_prob.shape))
    tensors = promote(log_prob, *(constant.detach() for constant in constants.values()))
    return [fill_masked(mask, tensor) for tensor in tensors]


def _prepare_actions(function: str, mask: Tensor | None, logits: Tensor, **constants: Tensor) -> list[Tensor]:
    """As :func:`_prepare`, for tensors ``(..., A)`` and a mask of ``(...)``."""
    check_float(function, logits=logits, **constants)
    check_ndim(function, "logits", logits, 1, "(..., A)")
    check_same_shape(function, logits=logits, **constants)
    shape = tuple(logits.shape[:-1])
    check_mask(function, mask, shape)
    keep = None if mask is None else mask.expand(shape).unsqueeze(-1)
    tensors = promote(logits, *(constant.detach() for constant in constants.values()))
    return [fill_masked(keep, tensor) for tensor in tensors]


def policy_gradient_loss(
    log_prob: Tensor,
    advantage: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Policy-gradient loss: ``-log pi(a|s) A``, whose gradient is the REINFORCE or actor-critic estimate.

    What is given for A makes the algorithm: the return is REINFORCE, the return minus the state's value REINFORCE with
    a baseline, :func:`gae` an advantage actor-critic, and the advantages of :func:`vtrace` are IMPALA's loss.

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


def _check_clip(function: str, clip: float, dual_clip: float | None) -> None:
    check_positive(function, clip=clip)
    if dual_clip is not None:
        check_number(function, "dual_clip", dual_clip, low=1.0, low_open=True)


def clipped_surrogate_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    *,
    clip: float = 0.2,
    dual_clip: float | None = None,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """PPO's clipped surrogate: ``-min(rho A, clamp(rho, 1 - clip, 1 + clip) A)``.

    ``rho = exp(log_prob - old_log_prob)`` is the ratio of the new probability to the old. The minimum leaves the loss
    of an action with A < 0 unbounded as its ratio grows; ``dual_clip`` bounds it there by ``-dual_clip A``.

    Args:
        log_prob: Log-probability of the action taken, under the policy that learns; any shape, floating-point.
        old_log_prob: The same under the policy that acted, same shape; no gradient flows to it.
        advantage: Advantage, same shape; no gradient flows to it.
        clip: How far the ratio may move before its gradient stops, > 0.
        dual_clip: The ratio from which on an action with a negative advantage has no gradient, > 1 (the paper has 3);
            None for no such bound.
        weight: Factor per element, broadcastable to ``log_prob``.
        mask: Bool, broadcastable to ``log_prob``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``log_prob`` for ``"none"``.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``clip`` <= 0, ``dual_clip`` <= 1, an unknown reduction.

    Reference:
        Schulman et al., "Proximal Policy Optimization Algorithms", 2017.
        Ye et al., "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning", AAAI 2020.

    Example:
        >>> log_prob, old_log_prob = torch.tensor([0.0]), torch.tensor([-2.0])
        >>> clipped_surrogate_loss(log_prob, old_log_prob, torch.tensor([1.0]))
        tensor(-1.2000)
        >>> clipped_surrogate_loss(log_prob, old_log_prob, torch.tensor([-1.0]), dual_clip=3.0)
        tensor(3.)
    """
    _check_clip("clipped_surrogate_loss", clip, dual_clip)
    log_prob, old_log_prob, advantage = _prepare(
        "clipped_surrogate_loss", mask, log_prob, old_log_prob=old_log_prob, advantage=advantage
    )
    # The minimum bounds the ratio below where the advantage is negative and above elsewhere. The bounds are put on its
    # logarithm: a ratio that overflows where it is clipped would have a NaN gradient.
    log_ratio = log_prob - old_log_prob
    lowest = math.log1p(-clip) if clip < 1.0 else -math.inf
    highest = math.inf if dual_clip is None else math.log(dual_clip)
    log_ratio = torch.where(advantage < 0, log_ratio.clamp(lowest, highest), log_ratio.clamp(max=math.log1p(clip)))
    loss = -torch.exp(log_ratio) * advantage
    return reduce_loss("clipped_surrogate_loss", loss, weight=weight, mask=mask, reduction=reduction)


def advantage_weighted_regression_loss(
    log_prob: Tensor,
    advantage: Tensor,
    *,
    temperature: float = 1.0,
    max_weight: float = 20.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Advantage-weighted regression: ``-min(exp(A / temperature), max_weight) log pi(a|s)``.

    It imitates the actions that were taken, the better ones more; no action is pushed away, so the data may come from
    any policy.

    Args:
        log_prob: Log-probability of the action taken, any shape, floating-point.
        advantage: Advantage, same shape; no gradient flows to it.
        temperature: Advantage by which the weight grows e-fold, > 0; the paper's beta.
        max_weight: Largest weight, > 0.
        weight: Factor per element, broadcastable to ``log_prob``.
        mask: Bool, broadcastable to ``log_prob``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``log_prob`` for ``"none"``.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``temperature`` or ``max_weight`` <= 0, an unknown reduction.

    Reference:
        Peng et al., "Advantage-Weighted Regression: Simple and Scalable Off-Policy Reinforcement Learning", 2019.

    Example:
        >>> log_prob, advantage = torch.tensor([-1.0, -1.0]), torch.tensor([0.0, 100.0])
        >>> advantage_weighted_regression_loss(log_prob, advantage, reduction="none")
        tensor([ 1., 20.])
    """
    check_positive("advantage_weighted_regression_loss", temperature=temperature, max_weight=max_weight)
    log_prob, advantage = _prepare("advantage_weighted_regression_loss", mask, log_prob, advantage=advantage)
    # Bounded before the exponential, which would overflow.
    loss = -torch.exp((advantage / temperature).clamp(max=math.log(max_weight))) * log_prob
    return reduce_loss("advantage_weighted_regression_loss", loss, weight=weight, mask=mask, reduction=reduction)


def _policy_value(logits: Tensor, q: Tensor) -> Tensor:
    """``sum_a pi(a) q(a)`` over the actions that are possible."""
    return (torch.softmax(logits, dim=-1) * torch.where(logits > -torch.inf, q, 0.0)).sum(-1)


def all_action_policy_gradient_loss(
    logits: Tensor,
    q: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Policy gradient over all actions: ``-sum_a pi(a|s) q(s, a)``, the negative of the policy's value.

    The expectation over actions that :func:`policy_gradient_loss` takes samples of, so without their variance. There is
    no baseline: one that does not depend on the action changes the loss by a constant and its gradient not at all.

    Args:
        logits: ``(..., A)``, floating-point. An action with a logit of -inf is impossible: its value is not read.
        q: ``(..., A)``, action values; no gradient flows to them.
        weight: Factor per element, broadcastable to ``(...)``.
        mask: Bool, broadcastable to ``(...)``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(...)`` for ``"none"``; in the units of ``q``.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, an unknown reduction.

    Reference:
        Sutton et al., "Policy Gradient Methods for Reinforcement Learning with Function Approximation", NIPS 1999.
        Allen et al., "Mean Actor Critic", 2017.

    Example:
        >>> all_action_policy_gradient_loss(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]))
        tensor(-2.)
    """
    logits, q = _prepare_actions("all_action_policy_gradient_loss", mask, logits, q=q)
    loss = -_policy_value(logits, q)
    return reduce_loss("all_action_policy_gradient_loss", loss, weight=weight, mask=mask, reduction=reduction)


class AllActionPolicyLoss(Loss, ABC):
    """What an actor minimises that learns from the values of all actions: a loss of logits and action values."""

    @abstractmethod
    def forward(self, logits: Tensor, q: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the loss of the policy's ``logits`` ``(..., A)`` by the action values ``q`` ``(..., A)``."""


class AllActionPolicyGradientLoss(AllActionPolicyLoss):
    """:func:`all_action_policy_gradient_loss` as a module."""

    def forward(self, logits: Tensor, q: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """See :func:`all_action_policy_gradient_loss`."""
        return all_action_policy_gradient_loss(logits, q, weight=weight, mask=mask, reduction=self.reduction)


def regret_policy_gradient_loss(
    logits: Tensor,
    q: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Regret policy gradient: ``sum_a max(0, q(s, a) - sum_b pi(b|s) q(s, b))``.

    The regret of not having taken the actions that are better than the policy. Its gradient is that of
    :func:`all_action_policy_gradient_loss` times the number of such actions.

    Args:
        logits: ``(..., A)``, floating-point. An action with a logit of -inf is impossible and not regretted.
        q: ``(..., A)``, action values; no gradient flows to them.
        weight: Factor per element, broadcastable to ``(...)``.
        mask: Bool, broadcastable to ``(...)``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(...)`` for ``"none"``; in the units of ``q``, >= 0.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, an unknown reduction.

    Reference:
        Srinivasan et al., "Actor-Critic Policy Optimization in Partially Observable Multiagent Environments", NeurIPS
        2018.

    Example:
        >>> regret_policy_gradient_loss(torch.zeros(1, 3), torch.tensor([[3.0, 2.0, -2.0]]))
        tensor(3.)
    """
    logits, q = _prepare_actions("regret_policy_gradient_loss", mask, logits, q=q)
    regret = (q - _policy_value(logits, q).unsqueeze(-1)).clamp(min=0.0)
    loss = torch.where(logits > -torch.inf, regret, 0.0).sum(-1)
    return reduce_loss("regret_policy_gradient_loss", loss, weight=weight, mask=mask, reduction=reduction)


class RegretPolicyGradientLoss(AllActionPolicyLoss):
    """:func:`regret_policy_gradient_loss` as a module."""

    def forward(self, logits: Tensor, q: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """See :func:`regret_policy_gradient_loss`."""
        return regret_policy_gradient_loss(logits, q, weight=weight, mask=mask, reduction=self.reduction)


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
    (logits,) = _prepare_actions("entropy_loss", mask, logits)
    log_p = torch.log_softmax(logits, dim=-1)
    possible = log_p > -torch.inf
    loss = (log_p.exp() * torch.where(possible, log_p, 0.0)).sum(-1)
    return reduce_loss("entropy_loss", loss, weight=weight, mask=mask, reduction=reduction)


class EntropyLoss(Loss):
    """:func:`entropy_loss` as a module."""

    def forward(self, logits: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """See :func:`entropy_loss`."""
        return entropy_loss(logits, weight=weight, mask=mask, reduction=self.reduction)


def policy_kl_loss(
    logits: Tensor,
    old_logits: Tensor,
    *,
    reverse: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Divergence of a categorical policy from an old one: ``KL(old || new) = sum_a old(a) log(old(a) / new(a))``.

    It is :func:`kl_divergence` with the actions on the last dimension. ``reverse=True`` is ``KL(new || old)``, which
    keeps the new policy from actions that the old one avoids. Where only log-probabilities of the actions taken are at
    hand, :func:`policy_kl_penalty` estimates the two.

    Args:
        logits: ``(..., A)``, of the policy that learns, floating-point.
        old_logits: ``(..., A)``, of the policy to stay near; no gradient flows to them.
        reverse: Whether to take ``KL(new || old)``.
        weight: Factor per element, broadcastable to ``(...)``.
        mask: Bool, broadcastable to ``(...)``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(...)`` for ``"none"``; in nats, >= 0. An action that is impossible (a logit of -inf) under one of
        the two alone counts as one of the smallest positive probability: the result is large but finite.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, an unknown reduction.

    Reference:
        Schulman et al., "Proximal Policy Optimization Algorithms", 2017.

    Example:
        >>> policy_kl_loss(torch.zeros(1, 2), torch.tensor([[0.0, 1.0986]]))
        tensor(0.1308)
    """
    logits, old_logits = _prepare_actions("policy_kl_loss", mask, logits, old_logits=old_logits)
    class_dim = min(1, logits.ndim - 1)
    loss = kl_divergence(
        logits.movedim(-1, class_dim),
        old_logits.movedim(-1, class_dim),
        target_from_logits=True,
        reverse=reverse,
        reduction="none",
    )
    return reduce_loss("policy_kl_loss", loss, weight=weight, mask=mask, reduction=reduction)


class PolicyKLLoss(Loss):
    """:func:`policy_kl_loss` as a module."""

    def __init__(self, *, reverse: bool = False, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        self.reverse = reverse

    def forward(
        self, logits: Tensor, old_logits: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`policy_kl_loss`."""
        return policy_kl_loss(
            logits, old_logits, reverse=self.reverse, weight=weight, mask=mask, reduction=self.reduction
        )


def policy_kl_penalty(
    log_prob: Tensor,
    old_log_prob: Tensor,
    *,
    drawn_from: DrawnFrom = "new",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Estimate of a policy's divergence from an old one: ``exp(r) - 1 - r``, ``r = old_log_prob - log_prob``.

    Schulman's k3: never negative, and of little variance. Over actions drawn from the new policy its mean is
    ``KL(new || old)``. Over actions drawn from the old one, as in a rollout that several epochs learn from, it is no
    divergence: there ``drawn_from="old"`` turns the sign of r, and the mean is ``KL(old || new)``.

    Both ways the mean gradient is that of ``KL(old || new)``, because the actions are constants to it; near each other,
    where a penalty is to keep them, the two divergences are the same to second order.

    Args:
        log_prob: Log-probability of the action taken, under the policy that learns; any shape, floating-point.
        old_log_prob: The same under the policy to stay near, same shape; no gradient flows to it.
        drawn_from: Which of the two policies drew the actions, ``"new"`` or ``"old"``.
        weight: Factor per element, broadcastable to ``log_prob``.
        mask: Bool, broadcastable to ``log_prob``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``log_prob`` for ``"none"``; in nats, >= 0.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, an unknown ``drawn_from`` or reduction.

    Reference:
        Schulman, "Approximating KL Divergence", 2020.

    Example:
        >>> policy_kl_penalty(torch.tensor([-1.0, -2.0]), torch.tensor([-1.0, -1.0]), reduction="none")
        tensor([0.0000, 0.7183])
    """
    check_choice("policy_kl_penalty", "drawn_from", drawn_from, ("new", "old"))
    log_prob, old_log_prob = _prepare("policy_kl_penalty", mask, log_prob, old_log_prob=old_log_prob)
    r = old_log_prob - log_prob if drawn_from == "new" else log_prob - old_log_prob
    loss = torch.expm1(r) - r
    return reduce_loss("policy_kl_penalty", loss, weight=weight, mask=mask, reduction=reduction)


class PolicyKLPenaltyLoss(Loss):
    """:func:`policy_kl_penalty` as a module."""

    def __init__(self, *, drawn_from: DrawnFrom = "new", reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_choice("PolicyKLPenaltyLoss", "drawn_from", drawn_from, ("new", "old"))
        self.drawn_from: DrawnFrom = drawn_from

    def forward(
        self, log_prob: Tensor, old_log_prob: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`policy_kl_penalty`."""
        return policy_kl_penalty(
            log_prob, old_log_prob, drawn_from=self.drawn_from, weight=weight, mask=mask, reduction=self.reduction
        )


def _gaussian_log_prob(function: str, mean: Tensor, log_std: Tensor, **actions: Tensor) -> Tensor:
    check_float(function, **actions, mean=mean, log_std=log_std)
    check_ndim(function, "mean", mean, 1, "(..., D)")
    check_same_shape(function, **actions, mean=mean)
    if log_std.ndim == 1:
        check_shape(function, "log_std", log_std, (mean.shape[-1],), "one per dimension of the action")
    else:
        check_same_shape(function, mean=mean, log_std=log_std)
    action, mean, log_std = promote(*actions.values(), mean, log_std)
    z = (action - mean) * torch.exp(-log_std)
    return -(0.5 * z.square() + log_std + 0.5 * math.log(2.0 * math.pi)).sum(-1)


def gaussian_log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of independent Gaussians: ``-sum_d (z_d^2 / 2 + log_std_d + log(2 pi) / 2)``.

    ``z = (action - mean) / exp(log_std)``.

    Args:
        action: ``(..., D)``, floating-point.
        mean: ``(..., D)``, means.
        log_std: Logarithms of the standard deviations, ``(..., D)``, or ``(D,)`` where all have the same.

    Returns:
        Log-densities ``(...)``, in nats; a density may be above 1.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype.

    Example:
        >>> gaussian_log_prob(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(2))
        tensor([-1.8379])
    """
    return _gaussian_log_prob("gaussian_log_prob", mean, log_std, action=action)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    """Entropy of independent Gaussians: ``sum_d (log_std_d + log(2 pi e) / 2)``.

    Args:
        log_std: Logarithms of the standard deviations, ``(..., D)``, floating-point.

    Returns:
        Entropies ``(...)``, in nats; a narrow distribution has a negative one.

    Raises:
        ValueError: A wrong shape or dtype.

    Example:
        >>> gaussian_entropy(torch.zeros(2))
        tensor(2.8379)
    """
    check_float("gaussian_entropy", log_std=log_std)
    check_ndim("gaussian_entropy", "log_std", log_std, 1, "(..., D)")
    (log_std,) = promote(log_std)
    return (log_std + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)


def squashed_gaussian_log_prob(pre_tanh: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of an action in (-1, 1) that is the tanh of a Gaussian: ``log N(u) - sum_d log(1 - tanh(u_d)^2)``.

    It takes u and not the action ``tanh(u)``, from which u cannot be told apart once the tanh rounds to 1: keep u with
    the transition. An action that is moved to bounds, ``low + (tanh(u) + 1) / 2 (high - low)``, has a density that
    differs by the constant ``-sum_d log((high_d - low_d) / 2)``, which no gradient and no ratio sees. The entropy has
    no closed form: minus the mean of this over samples estimates it.

    Args:
        pre_tanh: u, ``(..., D)``, floating-point: what was drawn, before the tanh.
        mean: ``(..., D)``, means of u.
        log_std: Logarithms of the standard deviations of u, ``(..., D)``, or ``(D,)`` where all have the same.

    Returns:
        Log-densities of ``tanh(u)``, ``(...)``, in nats.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype.

    Reference:
        Haarnoja et al., "Soft Actor-Critic: Off-Policy Maximum Entropy Deep Reinforcement Learning with a Stochastic
        Actor", ICML 2018.

    Example:
        >>> squashed_gaussian_log_prob(torch.tensor([[0.0], [100.0]]), torch.tensor([[0.0], [100.0]]), torch.zeros(1))
        tensor([ -0.9189, 197.6948])
    """
    log_prob = _gaussian_log_prob("squashed_gaussian_log_prob", mean, log_std, pre_tanh=pre_tanh)
    u = pre_tanh.to(log_prob.dtype)
    # 1 - tanh(u)^2 is 0 from u = 10 on in float32; its logarithm is this for every u.
    log_slope = 2.0 * (math.log(2.0) - u + F.logsigmoid(2.0 * u))
    return log_prob - log_slope.sum(-1)


class PolicyLoss(Loss, ABC):
    """What an actor minimises: a loss of new and old log-probabilities and advantages.

    Attributes:
        needs_old_log_prob: Whether ``old_log_prob`` is used; an agent need not compute it where it is not.
    """

    needs_old_log_prob: bool = False

    @property
    def presumes_probabilities(self) -> bool:
        """Whether the loss means something for log-probabilities (<= 0) alone, and nothing for log-densities."""
        return False

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

    @property
    def presumes_probabilities(self) -> bool:
        """True but for cross-entropy: other criteria weigh ``1 - p``, and a density may exceed 1."""
        return not isinstance(self.criterion, CrossEntropyLoss)

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
    """:func:`clipped_surrogate_loss` as a module; with several epochs this is PPO.

    Args:
        clip: How far the ratio may move before its gradient stops, > 0.
        dual_clip: The ratio from which on an action with a negative advantage has no gradient, > 1; None for no bound.
        kl_coefficient: Factor of the penalty on the divergence from the policy that acted, >= 0: what is added is
            ``kl_coefficient * policy_kl_penalty(log_prob, old_log_prob, drawn_from="old")``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: An argument out of range; shapes that differ; no ``old_log_prob``; an unknown reduction.

    Example:
        >>> loss = ClippedSurrogateLoss(kl_coefficient=1.0)
        >>> loss(torch.tensor([-1.0]), torch.tensor([0.0]), torch.tensor([0.0]))
        tensor(0.3679)
    """

    needs_old_log_prob = True

    def __init__(
        self,
        *,
        clip: float = 0.2,
        dual_clip: float | None = None,
        kl_coefficient: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        _check_clip("ClippedSurrogateLoss", clip, dual_clip)
        check_non_negative("ClippedSurrogateLoss", kl_coefficient=kl_coefficient)
        self.clip = clip
        self.dual_clip = dual_clip
        self.kl_coefficient = kl_coefficient

    def forward(
        self,
        log_prob: Tensor,
        old_log_prob: Tensor | None,
        advantage: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :class:`ClippedSurrogateLoss`."""
        if old_log_prob is None:
            raise ValueError("ClippedSurrogateLoss: old_log_prob must be given")
        loss = clipped_surrogate_loss(
            log_prob,
            old_log_prob,
            advantage,
            clip=self.clip,
            dual_clip=self.dual_clip,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )
        if self.kl_coefficient == 0.0:
            return loss
        penalty = policy_kl_penalty(
            log_prob, old_log_prob, drawn_from="old", weight=weight, mask=mask, reduction=self.reduction
        )
        return loss + self.kl_coefficient * penalty


class AdvantageWeightedRegressionLoss(PolicyLoss):
    """:func:`advantage_weighted_regression_loss` as a module."""

    def __init__(self, *, temperature: float = 1.0, max_weight: float = 20.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_positive("AdvantageWeightedRegressionLoss", temperature=temperature, max_weight=max_weight)
        self.temperature = temperature
        self.max_weight = max_weight

    def forward(
        self,
        log_prob: Tensor,
        old_log_prob: Tensor | None,
        advantage: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`advantage_weighted_regression_loss`; ``old_log_prob`` is not used."""
        return advantage_weighted_regression_loss(
            log_prob,
            advantage,
            temperature=self.temperature,
            max_weight=self.max_weight,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )
