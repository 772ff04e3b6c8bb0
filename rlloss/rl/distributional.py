"""Distributions in the place of values: targets on a support, losses against them, and the losses of agents.

A distribution over a support of K increasing values is a tensor ``(..., K)``, the support ``(K,)``; its mean is the
value. Quantiles are a distribution too: K equally likely values, which the network moves.

Two ways to use one: :class:`HLGaussLoss` and :class:`TwoHotLoss` are regression losses, so every :class:`TDLoss` and
every critic takes them; :class:`CategoricalTDLoss` and :class:`QuantileTDLoss` learn the distribution of the return.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from rlloss.core.actions import at_action
from rlloss.core.checks import (
    check_float,
    check_indices,
    check_integer,
    check_labels,
    check_mask,
    check_ndim,
    check_non_negative,
    check_number,
    check_positive,
    check_range,
    check_real,
    check_same_shape,
    check_shape,
)
from rlloss.core.reduction import Reduction, check_reduction, fill_masked, promote, reduce_loss
from rlloss.rl.value import (
    TDLoss,
    ValueLoss,
    ValueLossOutput,
    signed_hyperbolic,
    signed_parabolic,
)
from rlloss.supervised.regression import RegressionLoss


def _check_support(function: str, support: Tensor) -> None:
    check_float(function, support=support)
    if support.ndim != 1 or support.shape[0] < 2:
        raise ValueError(f"{function}: support must have shape (K,) with K >= 2, got {tuple(support.shape)}")


def two_hot(value: Tensor, support: Tensor) -> Tensor:
    """Share a value between the two nearest points of a support, so that the mean is the value.

    ``p_k = (z_{k+1} - v) / (z_{k+1} - z_k)`` and ``p_{k+1} = 1 - p_k`` for v between z_k and z_{k+1}, 0 elsewhere.

    Args:
        value: v, ``(...)``, floating-point; what is beyond the support counts as its end.
        support: z, ``(K,)``, increasing, K >= 2.

    Returns:
        Probabilities ``(..., K)``.

    Raises:
        ValueError: A wrong shape or dtype.

    Reference:
        Schrittwieser et al., "Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model", Nature, 2020.

    Example:
        >>> two_hot(torch.tensor([0.25, 5.0]), torch.tensor([-1.0, 0.0, 1.0]))
        tensor([[0.0000, 0.7500, 0.2500],
                [0.0000, 0.0000, 1.0000]])
    """
    _check_support("two_hot", support)
    check_float("two_hot", value=value)
    value, support = promote(value, support)
    # How far the value is on its way from each point to the next; 1 before the first interval and 0 after the last.
    way = (value.unsqueeze(-1) - support[:-1]) / support.diff()
    # On a point between two intervals the gradient is that of the interval above alone.
    way = torch.where((way >= 0.0) & (way < 1.0), way, way.detach().clamp(0.0, 1.0))
    before, after = torch.ones_like(way[..., :1]), torch.zeros_like(way[..., :1])
    return torch.cat([before, way], -1) - torch.cat([way, after], -1)


def hl_gauss(value: Tensor, support: Tensor, *, sigma: float) -> Tensor:
    """Spread a value over bins as a Gaussian of its mean: ``p_k = P(e_k < X < e_{k+1}) / P(e_0 < X < e_K)``.

    ``X ~ N(v, sigma^2)``; e are the bins' edges, half-way between their centres, and as far outside at both ends.

    Args:
        value: v, ``(...)``, floating-point; what is beyond the support counts as its end.
        support: The bins' centres, ``(K,)``, increasing, K >= 2.
        sigma: Standard deviation, > 0, in the units of ``value``; 0.75 of a bin's width is usual.

    Returns:
        Probabilities ``(..., K)``.

    Raises:
        ValueError: A wrong shape or dtype, ``sigma`` <= 0.

    Reference:
        Imani and White, "Improving Regression Performance with Distributional Losses", ICML 2018.
        Farebrother et al., "Stop Regressing: Training Value Functions via Classification for Scalable Deep RL",
        ICML 2024.

    Example:
        >>> hl_gauss(torch.tensor([0.0]), torch.tensor([-1.0, 0.0, 1.0]), sigma=0.75)
        tensor([[0.2407, 0.5186, 0.2407]])
    """
    check_positive("hl_gauss", sigma=sigma)
    _check_support("hl_gauss", support)
    check_float("hl_gauss", value=value)
    value, support = promote(value, support)
    value = torch.minimum(torch.maximum(value, support[0]), support[-1])
    half = support.diff() / 2.0
    edges = torch.cat([support[:1] - half[:1], support[:-1] + half, support[-1:] + half[-1:]])
    cumulative = torch.erf((edges - value.unsqueeze(-1)) / (math.sqrt(2.0) * sigma))
    return cumulative.diff(dim=-1) / (cumulative[..., -1:] - cumulative[..., :1])


def categorical_projection(next_probs: Tensor, reward: Tensor, discount: Tensor, support: Tensor) -> Tensor:
    """C51's target: the distribution of ``r + d Z(s')`` on the support, each atom shared by :func:`two_hot`.

    Args:
        next_probs: ``(..., K)``, distribution of the successor's return, of the action chosen there.
        reward: ``(...)``, floating-point.
        discount: ``(...)``, gamma * (1 - terminated), in [0, 1].
        support: ``(K,)``, increasing, K >= 2.

    Returns:
        Probabilities ``(..., K)``.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype.

    Reference:
        Bellemare, Dabney and Munos, "A Distributional Perspective on Reinforcement Learning", ICML 2017.

    Example:
        >>> next_probs, support = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([0.0, 1.0, 2.0])
        >>> categorical_projection(next_probs, torch.tensor([0.5]), torch.tensor([0.9]), support)
        tensor([[0.0000, 0.6000, 0.4000]])
    """
    name = "categorical_projection"
    _check_support(name, support)
    check_float(name, next_probs=next_probs, reward=reward, discount=discount)
    check_range(name, "next_probs", next_probs, None, high=1.0)
    check_same_shape(name, reward=reward, discount=discount)
    wanted = (*reward.shape, support.shape[0])
    check_shape(name, "next_probs", next_probs, wanted, "reward's shape and the support's length")
    next_probs, reward, discount, support = promote(next_probs, reward, discount, support)
    return _project(next_probs, reward.unsqueeze(-1) + discount.unsqueeze(-1) * support, support)


def _project(probs: Tensor, atoms: Tensor, support: Tensor) -> Tensor:
    """The distribution of atoms ``(..., K)`` with some probabilities, on the support."""
    return (probs.unsqueeze(-1) * two_hot(atoms, support)).sum(-2)


def _cross_entropy(
    function: str,
    logits: Tensor,
    probs: Tensor,
    weight: Tensor | None,
    mask: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """``-sum_k p_k log softmax(z)_k`` over the last dimension, what a mask ``(...)`` removes filled already."""
    logits, probs = promote(logits, probs)
    loss = -(probs * torch.log_softmax(logits, dim=-1)).sum(-1)
    return reduce_loss(function, loss, weight=weight, mask=mask, reduction=reduction)


def _fill_rows(mask: Tensor | None, tensor: Tensor) -> Tensor:
    """Fill the rows ``(..., K)`` that a mask ``(...)`` removes."""
    return tensor if mask is None else fill_masked(mask.expand(tensor.shape[:-1]).unsqueeze(-1), tensor)


def categorical_value_loss(
    logits: Tensor,
    action: Tensor,
    target_probs: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cross-entropy of the distribution of the action taken: ``-sum_k p_k log softmax(z(s, a))_k``.

    Args:
        logits: z, ``(..., A, K)``, floating-point.
        action: ``(...)``, actions taken, integers in [0, A).
        target_probs: p, ``(..., K)``, from :func:`categorical_projection` for instance; no gradient flows to them.
        weight: Factor per element, such as the importance weights of prioritised replay.
        mask: Bool, broadcastable to ``action``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(...)`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, an unknown reduction.

    Reference:
        Bellemare, Dabney and Munos, "A Distributional Perspective on Reinforcement Learning", ICML 2017.

    Example:
        >>> logits, target_probs = torch.zeros(1, 2, 4), torch.tensor([[0.0, 0.5, 0.5, 0.0]])
        >>> categorical_value_loss(logits, torch.tensor([1]), target_probs)
        tensor(1.3863)
    """
    name = "categorical_value_loss"
    check_float(name, logits=logits, target_probs=target_probs)
    check_ndim(name, "logits", logits, 2, "(..., A, K)")
    shape = tuple(logits.shape[:-2])
    check_indices(name, action=action)
    check_shape(name, "action", action, shape, "logits without actions and atoms")
    check_shape(name, "target_probs", target_probs, (*shape, logits.shape[-1]), "logits without actions")
    check_mask(name, mask, shape)
    check_labels(name, "action", action, logits.shape[-2], mask)
    logits, target_probs = promote(logits, target_probs.detach())
    chosen = _fill_rows(mask, at_action(logits, fill_masked(mask, action, 0)))
    target_probs = _fill_rows(mask, target_probs)
    check_range(name, "target_probs", target_probs, None, high=1.0)
    return _cross_entropy(name, chosen, target_probs, weight, mask, reduction)


def quantile_huber_loss(
    quantiles: Tensor,
    target: Tensor,
    levels: Tensor | None = None,
    *,
    kappa: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Quantile Huber loss: ``sum_i mean_j |tau_i - [u_ij < 0]| huber(u_ij) / kappa``, ``u_ij = target_j - theta_i``.

    The sum is over predicted, the mean over target quantiles; huber has the threshold kappa. ``kappa=0`` is the limit,
    quantile regression: ``|tau_i - [u_ij < 0]| |u_ij|``.

    Args:
        quantiles: theta, ``(..., K)``, predicted quantiles, floating-point.
        target: ``(..., M)``, samples or quantiles of the target; no gradient flows to them.
        levels: tau, ``(..., K)``, the level of each predicted quantile, in [0, 1] (drawn at random in IQN); by default
            the middles ``(i + 1/2) / K`` of K equal parts.
        kappa: Where the square ends, >= 0, in the units of the quantiles.
        weight: Factor per element, broadcastable to ``(...)``.
        mask: Bool, broadcastable to ``(...)``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(...)`` for ``"none"``; in the units of the quantiles.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``kappa`` < 0, an unknown reduction.

    Reference:
        Dabney et al., "Distributional Reinforcement Learning with Quantile Regression", AAAI 2018.
        Dabney et al., "Implicit Quantile Networks for Distributional Reinforcement Learning", ICML 2018.

    Example:
        >>> quantile_huber_loss(torch.tensor([[0.0, 2.0]]), torch.tensor([[3.0]]))
        tensor(1.)
    """
    name = "quantile_huber_loss"
    check_non_negative(name, kappa=kappa)
    check_reduction(name, reduction)
    check_float(name, quantiles=quantiles, target=target)
    check_ndim(name, "quantiles", quantiles, 1, "(..., K)")
    check_ndim(name, "target", target, 1, "(..., M)")
    shape = tuple(quantiles.shape[:-1])
    check_shape(name, "target", target, (*shape, target.shape[-1]), "(..., M) with the prefix of quantiles")
    if target.shape[-1] == 0:
        raise ValueError(f"{name}: target must hold at least one sample, got shape {tuple(target.shape)}")
    check_mask(name, mask, shape)
    quantiles, target = promote(quantiles, target.detach())
    if levels is None:
        number = quantiles.shape[-1]
        levels = (torch.arange(number, dtype=quantiles.dtype, device=quantiles.device) + 0.5) / max(number, 1)
        levels = levels.expand(quantiles.shape)
    check_float(name, levels=levels)
    check_same_shape(name, quantiles=quantiles, levels=levels)
    check_range(name, "levels", levels, None if mask is None else mask.unsqueeze(-1), high=1.0)
    quantiles, target, levels = (_fill_rows(mask, x) for x in (quantiles, target, levels.detach().to(quantiles.dtype)))
    error = target.unsqueeze(-2) - quantiles.unsqueeze(-1)
    size = error.abs()
    if kappa > 0.0:
        size = torch.where(size <= kappa, 0.5 / kappa * error.square(), size - 0.5 * kappa)
    loss = ((levels.unsqueeze(-1) - (error < 0).to(error.dtype)).abs() * size).mean(-1).sum(-1)
    return reduce_loss(name, loss, weight=weight, mask=mask, reduction=reduction)


def _check_bounds(function: str, low: float, high: float, name: str, number: int) -> None:
    check_number(function, "low", low)
    check_number(function, "high", high, low=low, low_open=True)
    check_integer(function, name, number, low=2)


def _support(low: float, high: float, number: int, like: Tensor) -> Tensor:
    """Equally spaced values, made where they are needed: in the dtype and on the device of what they meet."""
    return torch.linspace(low, high, number, dtype=like.dtype, device=like.device)


def _check_distribution(function: str, logits: Tensor, target: Tensor, bins: int, mask: Tensor | None) -> None:
    """Check logits ``(..., K)`` against values ``(...)``."""
    check_float(function, input=logits)
    check_real(function, target=target)
    check_shape(function, "input", logits, (*target.shape, bins), "the target's shape and the number of bins")
    check_mask(function, mask, tuple(target.shape))


class HistogramLoss(RegressionLoss):
    """Cross-entropy of a predicted histogram, logits ``(..., K)``, against one made of the target."""

    def __init__(self, *, low: float, high: float, num_bins: int, reduction: Reduction) -> None:
        super().__init__(reduction=reduction)
        _check_bounds(type(self).__name__, low, high, "num_bins", num_bins)
        self.low = low
        self.high = high
        self.num_bins = num_bins
        self.num_outputs = num_bins

    def value(self, input: Tensor) -> Tensor:
        """The mean of the histogram, ``(...)``."""
        (logits,) = promote(input)
        return (torch.softmax(logits, dim=-1) * _support(self.low, self.high, self.num_bins, logits)).sum(-1)

    def _loss(self, input: Tensor, probs: Tensor, weight: Tensor | None, mask: Tensor | None) -> Tensor:
        return _cross_entropy(type(self).__name__, _fill_rows(mask, input), probs, weight, mask, self.reduction)


class TwoHotLoss(HistogramLoss):
    """Regression as classification: cross-entropy of a histogram against the target's :func:`two_hot`.

    A prediction is ``num_bins`` logits; their histogram's mean is the value. A :class:`TDLoss` or a critic takes it as
    it takes any regression loss.

    Args:
        low: Lowest value of the support; targets below it count as it.
        high: Highest value of the support; choose both so that they hold every return.
        num_bins: Points of the support, K >= 2, equally spaced.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: ``high`` <= ``low``, too few bins, shapes that do not fit, an unknown reduction.

    Reference:
        Schrittwieser et al., "Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model", Nature, 2020.

    Example:
        >>> loss = TwoHotLoss(low=-1.0, high=1.0, num_bins=3)
        >>> loss(torch.zeros(1, 3), torch.tensor([0.5]))
        tensor(1.0986)
        >>> loss.value(torch.zeros(1, 3))
        tensor([0.])
    """

    def __init__(
        self, *, low: float = -100.0, high: float = 100.0, num_bins: int = 101, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(low=low, high=high, num_bins=num_bins, reduction=reduction)

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Loss of logits ``(..., K)`` against values ``(...)``."""
        _check_distribution("TwoHotLoss", input, target, self.num_bins, mask)
        (target,) = promote(fill_masked(mask, target.detach()))
        probs = two_hot(target, _support(self.low, self.high, self.num_bins, target))
        return self._loss(input, probs, weight, mask)


class HLGaussLoss(HistogramLoss):
    """Regression as classification: cross-entropy of a histogram against the target's :func:`hl_gauss`.

    A prediction is ``num_bins`` logits; their histogram's mean is the value. A :class:`TDLoss` or a critic takes it as
    it takes any regression loss.

    Args:
        low: Lowest bin's centre; targets below it count as it.
        high: Highest bin's centre.
        num_bins: Bins, K >= 2, equally wide.
        sigma: Standard deviation of the target's Gaussian, > 0, in bins.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: ``high`` <= ``low``, too few bins, ``sigma`` <= 0, shapes that do not fit, an unknown reduction.

    Reference:
        Imani and White, "Improving Regression Performance with Distributional Losses", ICML 2018.
        Farebrother et al., "Stop Regressing: Training Value Functions via Classification for Scalable Deep RL",
        ICML 2024.

    Example:
        >>> HLGaussLoss(low=-1.0, high=1.0, num_bins=3)(torch.zeros(1, 3), torch.tensor([0.5]))
        tensor(1.0986)
    """

    def __init__(
        self,
        *,
        low: float = -100.0,
        high: float = 100.0,
        num_bins: int = 101,
        sigma: float = 0.75,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(low=low, high=high, num_bins=num_bins, reduction=reduction)
        check_positive("HLGaussLoss", sigma=sigma)
        self.sigma = sigma

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Loss of logits ``(..., K)`` against values ``(...)``."""
        _check_distribution("HLGaussLoss", input, target, self.num_bins, mask)
        sigma = self.sigma * (self.high - self.low) / (self.num_bins - 1)
        (target,) = promote(fill_masked(mask, target.detach()))
        probs = hl_gauss(target, _support(self.low, self.high, self.num_bins, target), sigma=sigma)
        return self._loss(input, probs, weight, mask)


class TwoHotTDLoss(TDLoss):
    """Temporal-difference loss with :class:`TwoHotLoss` for its criterion.

    Args:
        low: Lowest value of the support, in the units of the outputs (compressed ones with ``rescale``).
        high: Highest value of the support.
        num_bins: Points of the support, >= 2.
        double: Let the online network choose the successor's action.
        rescale: As in :class:`~rlloss.rl.value.TDLoss`.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Reference:
        Schrittwieser et al., "Mastering Atari, Go, Chess and Shogi by Planning with a Learned Model", Nature, 2020.

    Example:
        >>> loss = TwoHotTDLoss(low=-1.0, high=1.0, num_bins=3)
        >>> outputs, action, one = torch.zeros(1, 2, 3), torch.tensor([0]), torch.tensor([1.0])
        >>> loss(outputs, action, one, one, outputs)
        ValueLossOutput(loss=tensor(1.0986), td_error=tensor([1.]))
    """

    def __init__(
        self,
        *,
        low: float = -100.0,
        high: float = 100.0,
        num_bins: int = 101,
        double: bool = False,
        rescale: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        criterion = TwoHotLoss(low=low, high=high, num_bins=num_bins, reduction=reduction)
        super().__init__(criterion, double=double, rescale=rescale)
        self.low = low
        self.high = high
        self.num_bins = num_bins
        self.reduction = reduction


class HLGaussTDLoss(TDLoss):
    """Temporal-difference loss with :class:`HLGaussLoss` for its criterion.

    Args:
        low: Lowest bin's centre, in the units of the outputs (compressed ones with ``rescale``).
        high: Highest bin's centre.
        num_bins: Bins, >= 2.
        sigma: Standard deviation of the target's Gaussian, > 0, in bins.
        double: Let the online network choose the successor's action.
        rescale: As in :class:`~rlloss.rl.value.TDLoss`.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Reference:
        Farebrother et al., "Stop Regressing: Training Value Functions via Classification for Scalable Deep RL",
        ICML 2024.

    Example:
        >>> loss = HLGaussTDLoss(low=-1.0, high=1.0, num_bins=3)
        >>> outputs, action, one = torch.zeros(1, 2, 3), torch.tensor([0]), torch.tensor([1.0])
        >>> loss(outputs, action, one, one, outputs)
        ValueLossOutput(loss=tensor(1.0986), td_error=tensor([1.]))
    """

    def __init__(
        self,
        *,
        low: float = -100.0,
        high: float = 100.0,
        num_bins: int = 101,
        sigma: float = 0.75,
        double: bool = False,
        rescale: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        criterion = HLGaussLoss(low=low, high=high, num_bins=num_bins, sigma=sigma, reduction=reduction)
        super().__init__(criterion, double=double, rescale=rescale)
        self.low = low
        self.high = high
        self.num_bins = num_bins
        self.sigma = sigma
        self.reduction = reduction


class ReturnDistributionLoss(ValueLoss):
    """What C51 and QR-DQN share: the distribution of the successor's greedy action, backed up, is the target.

    A subclass says which values the outputs of an action stand for, and with which probabilities.
    """

    def __init__(self, *, double: bool, rescale: bool, reduction: Reduction) -> None:
        super().__init__()
        check_reduction(type(self).__name__, reduction)
        self.double = double
        self.rescale = rescale
        self.reduction: Reduction = reduction

    @abstractmethod
    def distribution(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and values, each broadcastable to the outputs ``(..., K)``."""

    @abstractmethod
    def distance(
        self, outputs: Tensor, probs: Tensor, values: Tensor, *, weight: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """The reduced loss of outputs ``(..., K)`` against a distribution of the same shape."""

    def q_values(self, outputs: Tensor) -> Tensor:
        """The means of the distributions, ``(..., A)``."""
        probs, values = self.distribution(outputs)
        return (probs * (signed_parabolic(values) if self.rescale else values)).sum(-1)

    def forward(
        self,
        outputs: Tensor,
        action: Tensor,
        reward: Tensor,
        discount: Tensor,
        next_outputs: Tensor,
        *,
        selector_outputs: Tensor | None = None,
        target_outputs: Tensor | None = None,
        next_action: Tensor | None = None,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> ValueLossOutput:
        """See :meth:`ValueLoss.forward`; the TD error is that of the means."""
        name = type(self).__name__
        chosen = self._chosen(outputs, action, mask)
        self._check_wanted(outputs, next_outputs=(True, next_outputs), selector_outputs=(self.double, selector_outputs))
        check_float(name, reward=reward, discount=discount)
        check_same_shape(name, action=action, reward=reward, discount=discount)
        chosen = _fill_rows(mask, chosen)
        with torch.no_grad():
            selector = selector_outputs if self.double and selector_outputs is not None else next_outputs
            greedy = self.q_values(selector).argmax(-1)
            probs, values = self.distribution(_fill_rows(mask, self._chosen(next_outputs, greedy, None)))
            values = self._back_up(fill_masked(mask, reward), fill_masked(mask, discount), values)
            own_probs, own_values = self.distribution(chosen)
            td_error = (probs * values).sum(-1) - (own_probs * own_values).sum(-1)
        loss = self.distance(chosen, probs, values, weight=weight, mask=mask)
        return ValueLossOutput(loss, fill_masked(mask, td_error))

    def _back_up(self, reward: Tensor, discount: Tensor, values: Tensor) -> Tensor:
        """``r + d z`` of values ``(..., K)``; under the rescaling, between its inverse and itself."""
        reward, discount, values = promote(reward.unsqueeze(-1), discount.unsqueeze(-1), values)
        if self.rescale:
            return signed_hyperbolic(reward + discount * signed_parabolic(values))
        return reward + discount * values


class CategoricalTDLoss(ReturnDistributionLoss):
    """C51: the distribution of the return on a fixed support, ``categorical_projection`` by cross-entropy.

    An action has ``num_atoms`` outputs, logits of the support's values.

    Args:
        low: Lowest value of the support, in the units of the outputs (compressed ones with ``rescale``).
        high: Highest value of the support; returns beyond count as its ends (though the TD error, which priorities are
            made of, is that of the return itself).
        num_atoms: Values of the support, >= 2, equally spaced.
        double: Let the online network choose the successor's action.
        rescale: Whether the support holds values under :func:`~rlloss.rl.value.signed_hyperbolic`.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: ``high`` <= ``low``, too few atoms, ``double`` without ``selector_outputs``, shapes that do not fit.

    Reference:
        Bellemare, Dabney and Munos, "A Distributional Perspective on Reinforcement Learning", ICML 2017.

    Example:
        >>> loss = CategoricalTDLoss(low=-1.0, high=1.0, num_atoms=3)
        >>> outputs, action, one = torch.zeros(1, 2, 3), torch.tensor([0]), torch.tensor([1.0])
        >>> loss(outputs, action, one, one, outputs)
        ValueLossOutput(loss=tensor(1.0986), td_error=tensor([1.]))
    """

    def __init__(
        self,
        *,
        low: float = -10.0,
        high: float = 10.0,
        num_atoms: int = 51,
        double: bool = False,
        rescale: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(double=double, rescale=rescale, reduction=reduction)
        _check_bounds("CategoricalTDLoss", low, high, "num_atoms", num_atoms)
        self.low = low
        self.high = high
        self.num_atoms = num_atoms
        self.outputs_per_action = num_atoms

    def distribution(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """The softmax of the outputs, and the support."""
        (logits,) = promote(outputs)
        return torch.softmax(logits, dim=-1), _support(self.low, self.high, self.num_atoms, logits)

    def distance(
        self, outputs: Tensor, probs: Tensor, values: Tensor, *, weight: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """Cross-entropy against the distribution's projection on the support."""
        target = _project(probs, values, _support(self.low, self.high, self.num_atoms, values))
        return _cross_entropy("CategoricalTDLoss", outputs, target, weight, mask, self.reduction)


class QuantileTDLoss(ReturnDistributionLoss):
    """QR-DQN: quantiles of the return by quantile regression, :func:`quantile_huber_loss`.

    An action has ``num_quantiles`` outputs, the quantiles at the middles of as many equal parts of [0, 1].

    Args:
        num_quantiles: K, >= 2.
        kappa: Where the Huber loss stops to be a square, >= 0; 0 is quantile regression proper.
        double: Let the online network choose the successor's action.
        rescale: Whether the quantiles are values under :func:`~rlloss.rl.value.signed_hyperbolic`.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: A hyper-parameter out of range, ``double`` without ``selector_outputs``, shapes that do not fit.

    Reference:
        Dabney et al., "Distributional Reinforcement Learning with Quantile Regression", AAAI 2018.

    Example:
        >>> outputs, action, one = torch.zeros(1, 2, 4), torch.tensor([0]), torch.tensor([1.0])
        >>> QuantileTDLoss(num_quantiles=4)(outputs, action, one, one, outputs)
        ValueLossOutput(loss=tensor(1.), td_error=tensor([1.]))
    """

    def __init__(
        self,
        *,
        num_quantiles: int = 51,
        kappa: float = 1.0,
        double: bool = False,
        rescale: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(double=double, rescale=rescale, reduction=reduction)
        # With one output an action's dimension of outputs is left out: the median is not worth a second shape.
        check_integer("QuantileTDLoss", "num_quantiles", num_quantiles, low=2)
        check_non_negative("QuantileTDLoss", kappa=kappa)
        self.num_quantiles = num_quantiles
        self.kappa = kappa
        self.outputs_per_action = num_quantiles

    def distribution(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs, all equally likely."""
        (values,) = promote(outputs)
        return torch.full_like(values[..., :1], 1.0 / self.num_quantiles), values

    def distance(
        self, outputs: Tensor, probs: Tensor, values: Tensor, *, weight: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """Quantile regression against the target's quantiles."""
        return quantile_huber_loss(
            outputs, values, kappa=self.kappa, weight=weight, mask=mask, reduction=self.reduction
        )
