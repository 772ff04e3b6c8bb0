"""Ranking losses: ``scores`` and ``labels`` of shape ``(..., L)``, one list on the last dimension.

Below, ``s`` is a score and ``y`` a label. The unreduced loss has shape ``(...)``, one number a list; lists of
different lengths are padded, and the mask ``(..., L)`` removes the padding. The pairwise losses are sums over all
ordered pairs of a list, i = j among them, as the source article prints them; their mean divides by the number of pairs.
They need no L^2 memory, see :mod:`rlloss.core.pairs`. ``labels``, ``target`` and ``weight`` are constants: gradients
reach the scores only. ``weight`` and ``reduction`` work as :mod:`rlloss.core.reduction` says.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from rlloss.core.checks import (
    check_float,
    check_mask,
    check_ndim,
    check_number,
    check_positive,
    check_range,
    check_real,
    check_same_shape,
    check_signs,
)
from rlloss.core.module import Loss
from rlloss.core.pairs import hinge_pairs, logistic_pairs, softplus, tied_pairs, widen
from rlloss.core.reduction import Reduction, fill_masked, promote, reduce_loss


def _prepare_lists(function: str, scores: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Check, convert, stop the labels' gradient, fill what the mask removes; 1 for what it keeps and 0 elsewhere."""
    check_float(function, scores=scores)
    check_real(function, labels=labels)
    check_ndim(function, "scores", scores, 1, "(..., L)")
    check_same_shape(function, scores=scores, labels=labels)
    check_mask(function, mask, tuple(scores.shape))
    scores, labels = promote(scores, labels.detach())
    kept = fill_masked(mask, torch.ones_like(labels))
    return fill_masked(mask, scores), fill_masked(mask, labels), kept


def _reduce_lists(function: str, loss: Tensor, count: Tensor, weight: Tensor | None, reduction: Reduction) -> Tensor:
    """Reduce one loss a list, each of which counts ``count`` in the mean; a list that counts nothing is left out."""
    return reduce_loss(function, loss, weight=weight, mask=count > 0, count=count, reduction=reduction)


def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    *,
    margin: float = 0.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Margin ranking loss, elementwise: ``max(0, -y (x1 - x2) + margin)``.

    Equal to :func:`torch.nn.functional.margin_ranking_loss`. With ``y = 1`` the first score should be the higher one by
    ``margin``: ``max(0, m - s+ + s-)``, the form that the source article sums over positive and negative scores. Its
    other form, ``max(0, f + margin - f')`` of a true triple's f and a corrupted one's f', is of a score that should be
    *low* for what is true: give f' first.

    Args:
        input1: First scores, any shape, floating-point.
        input2: Second scores, same shape; gradients reach both.
        target: 1 where the first should be higher, -1 where the second should; same shape.
        margin: By how much it should be higher, in the units of the scores.
        weight: Factor per element, broadcastable to ``input1``.
        mask: Bool, broadcastable to ``input1``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``input1`` for ``"none"``; in the units of the scores.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, a ``margin`` that is not finite, an unknown reduction.

    Reference:
        Bordes et al., "Translating Embeddings for Modeling Multi-relational Data", NIPS 2013.
        Nayyeri et al., "Adaptive Margin Ranking Loss for Knowledge Graph Embeddings via a Correntropy Objective
        Function", 2019.

    Example:
        >>> margin_ranking_loss(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 3.0]), torch.ones(2), reduction="none")
        tensor([0., 2.])
    """
    check_number("margin_ranking_loss", "margin", margin)
    check_float("margin_ranking_loss", input1=input1, input2=input2)
    check_real("margin_ranking_loss", target=target)
    check_same_shape("margin_ranking_loss", input1=input1, input2=input2, target=target)
    check_mask("margin_ranking_loss", mask, tuple(input1.shape))
    check_signs("margin_ranking_loss", "target", target, mask)
    input1, input2, target = (fill_masked(mask, tensor) for tensor in promote(input1, input2, target.detach()))
    loss = F.margin_ranking_loss(input1, input2, target, margin=margin, reduction="none")
    return reduce_loss("margin_ranking_loss", loss, weight=weight, mask=mask, reduction=reduction)


class MarginRankingLoss(Loss):
    """:func:`margin_ranking_loss` as a module."""

    def __init__(self, *, margin: float = 0.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_number("MarginRankingLoss", "margin", margin)
        self.margin = margin

    def forward(
        self,
        input1: Tensor,
        input2: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`margin_ranking_loss`."""
        return margin_ranking_loss(
            input1, input2, target, margin=self.margin, weight=weight, mask=mask, reduction=self.reduction
        )


def pairwise_ranking_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    margin: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Pairwise hinge loss of a list: ``sum_ij max(0, margin - y_i (s_i - s_j))``.

    Positives should score higher than everything else, negatives lower, by ``margin``. The source article's sum has all
    pairs, and so has this: two of one label pull both ways, and a pair i = j counts ``margin``.
    Exact in O(L log L) time and O(L) memory, value and gradient.

    Args:
        scores: ``(..., L)``, floating-point.
        labels: Same shape; 1 for positives, -1 for negatives (anything above 0 counts as 1, the rest as -1).
        margin: By how much a positive should be higher, in the units of the scores.
        weight: Factor per list, broadcastable to ``(...)``.
        mask: Bool, broadcastable to ``scores``; False removes from the list.
        reduction: ``"none"``, ``"mean"`` (divides by the number of pairs) or ``"sum"``.

    Returns:
        Scalar, or ``(...)`` for ``"none"``; in the units of the scores.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, a ``margin`` that is not finite, an unknown reduction.

    Reference:
        Joachims, "Optimizing Search Engines using Clickthrough Data", KDD 2002.

    Example:
        >>> pairwise_ranking_loss(torch.tensor([2.0, 1.5]), torch.tensor([1, -1]), reduction="sum")
        tensor(3.)
    """
    check_number("pairwise_ranking_loss", "margin", margin)
    scores, labels, kept = _prepare_lists("pairwise_ranking_loss", scores, labels, mask)
    check_signs("pairwise_ranking_loss", "labels", labels, mask)
    positive = kept * (labels > 0)
    # max(0, m + (s_i - s_j)) of a negative i is the hinge of j over i.
    loss = hinge_pairs(scores, positive, kept, margin) + hinge_pairs(scores, kept, kept - positive, margin)
    return _reduce_lists("pairwise_ranking_loss", loss, kept.sum(-1).square(), weight, reduction)


class PairwiseRankingLoss(Loss):
    """:func:`pairwise_ranking_loss` as a module."""

    def __init__(self, *, margin: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_number("PairwiseRankingLoss", "margin", margin)
        self.margin = margin

    def forward(
        self, scores: Tensor, labels: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`pairwise_ranking_loss`."""
        return pairwise_ranking_loss(
            scores, labels, margin=self.margin, weight=weight, mask=mask, reduction=self.reduction
        )


def soft_pairwise_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Soft pairwise loss of a list: ``sum_ij log(1 + exp(-y_i (s_i - s_j)))``.

    The smooth form of :func:`pairwise_ranking_loss`; a pair i = j counts log 2.

    Args:
        scores: ``(..., L)``, floating-point.
        labels: Same shape; 1 for positives, -1 for negatives (anything above 0 counts as 1, the rest as -1).
        weight: Factor per list, broadcastable to ``(...)``.
        mask: Bool, broadcastable to ``scores``; False removes from the list.
        reduction: ``"none"``, ``"mean"`` (divides by the number of pairs) or ``"sum"``.

    Returns:
        Scalar, or ``(...)`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, an unknown reduction.

    Example:
        >>> soft_pairwise_loss(torch.tensor([1.0, 0.0]), torch.tensor([1, -1]), reduction="sum")
        tensor(2.0128)
    """
    scores, labels, kept = _prepare_lists("soft_pairwise_loss", scores, labels, mask)
    check_signs("soft_pairwise_loss", "labels", labels, mask)
    sign = 2.0 * (labels > 0).to(labels.dtype) - 1.0
    loss = logistic_pairs(scores, sign, torch.zeros_like(sign), kept)
    return _reduce_lists("soft_pairwise_loss", loss, kept.sum(-1).square(), weight, reduction)


class SoftPairwiseLoss(Loss):
    """:func:`soft_pairwise_loss` as a module."""

    def forward(
        self, scores: Tensor, labels: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`soft_pairwise_loss`."""
        return soft_pairwise_loss(scores, labels, weight=weight, mask=mask, reduction=self.reduction)


def pairwise_logistic_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    ignore_ties: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Pairwise logistic loss of a list: ``sum_ij log(1 + exp(-(y_i - y_j) (s_i - s_j)))``.

    Labels are grades of any number of levels. A pair of equal labels has no gradient and counts log 2, in the source
    article's sum as here; ``ignore_ties`` leaves such pairs out, of the mean's count as well. With labels 0 and 1 this
    is then twice RankNet's loss: each pair is in the sum in both orders.

    Args:
        scores: ``(..., L)``, floating-point.
        labels: Same shape; the higher, the higher the item should rank.
        ignore_ties: Whether pairs of equal labels are left out.
        weight: Factor per list, broadcastable to ``(...)``.
        mask: Bool, broadcastable to ``scores``; False removes from the list.
        reduction: ``"none"``, ``"mean"`` (divides by the number of pairs that took part) or ``"sum"``.

    Returns:
        Scalar, or ``(...)`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, an unknown reduction.

    Reference:
        Burges et al., "Learning to Rank using Gradient Descent", ICML 2005.

    Example:
        >>> pairwise_logistic_loss(torch.tensor([1.0, 0.0]), torch.tensor([1, 0]), ignore_ties=True, reduction="sum")
        tensor(0.6265)
    """
    scores, labels, kept = _prepare_lists("pairwise_logistic_loss", scores, labels, mask)
    loss = logistic_pairs(scores, labels, labels, kept, distinct=ignore_ties)
    count = kept.sum(-1).square()
    if ignore_ties:
        count = count - tied_pairs(labels, kept)
    return _reduce_lists("pairwise_logistic_loss", loss, count, weight, reduction)


class PairwiseLogisticLoss(Loss):
    """:func:`pairwise_logistic_loss` as a module."""

    def __init__(self, *, ignore_ties: bool = False, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        self.ignore_ties = ignore_ties

    def forward(
        self, scores: Tensor, labels: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`pairwise_logistic_loss`."""
        return pairwise_logistic_loss(
            scores, labels, ignore_ties=self.ignore_ties, weight=weight, mask=mask, reduction=self.reduction
        )


def _push_back(kept: Tensor, values: Tensor) -> Tensor:
    """Give what the mask removes a value so low that it is last in every order and nothing in every softmax."""
    return values.where(kept > 0, torch.finfo(values.dtype).min)


def _any_kept(kept: Tensor) -> Tensor:
    """1 for each list that has an element left, 0 for the others."""
    return (kept.sum(-1) > 0).to(kept.dtype)


def list_net_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """ListNet, top one: the cross-entropy of two softmaxes, ``-sum_i softmax(y)_i log softmax(s)_i``.

    Args:
        scores: ``(..., L)``, floating-point.
        labels: Same shape; the relevance of each item, a logit of its probability to be first.
        weight: Factor per list, broadcastable to ``(...)``.
        mask: Bool, broadcastable to ``scores``; False removes from the list.
        reduction: ``"none"``, ``"mean"`` (over lists) or ``"sum"``.

    Returns:
        Scalar, or ``(...)`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, an unknown reduction.

    Reference:
        Cao et al., "Learning to Rank: From Pairwise Approach to Listwise Approach", ICML 2007.

    Example:
        >>> list_net_loss(torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[2.0, 1.0, 0.0]]))
        tensor(1.0986)
    """
    scores, labels, kept = _prepare_lists("list_net_loss", scores, labels, mask)
    log_probability = F.log_softmax(_push_back(kept, scores), dim=-1)
    loss = -(F.softmax(_push_back(kept, labels), dim=-1) * log_probability).sum(-1)
    return _reduce_lists("list_net_loss", loss, _any_kept(kept), weight, reduction)


class ListNetLoss(Loss):
    """:func:`list_net_loss` as a module."""

    def forward(
        self, scores: Tensor, labels: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`list_net_loss`."""
        return list_net_loss(scores, labels, weight=weight, mask=mask, reduction=self.reduction)


def list_mle_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """ListMLE: minus the log-likelihood of the true order, ``sum_k (log sum_{l >= k} exp(s_l) - s_k)``.

    k counts the items by falling label; equal labels keep the order in which they are given. The likelihood is
    Plackett and Luce's: the best item is drawn among all, the next among the rest, and so on.

    Args:
        scores: ``(..., L)``, floating-point.
        labels: Same shape; only their order counts.
        weight: Factor per list, broadcastable to ``(...)``.
        mask: Bool, broadcastable to ``scores``; False removes from the list.
        reduction: ``"none"``, ``"mean"`` (over lists) or ``"sum"``.

    Returns:
        Scalar, or ``(...)`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, an unknown reduction.

    Reference:
        Xia et al., "Listwise Approach to Learning to Rank: Theory and Algorithm", ICML 2008.

    Example:
        >>> list_mle_loss(torch.tensor([[0.0, 0.0, 0.0]]), torch.tensor([[2.0, 1.0, 0.0]]))
        tensor(1.7918)
    """
    scores, labels, kept = _prepare_lists("list_mle_loss", scores, labels, mask)
    # Ascending, so that the sum over the items behind runs from the front; flipped, so that ties keep their order.
    # What is removed comes first. torch's gradient takes logarithms, which need float64 to be right for large scores.
    order = _push_back(kept, labels).flip(-1).argsort(dim=-1, stable=True)
    ordered = widen(_push_back(kept, scores)).flip(-1).gather(-1, order)
    loss = torch.logcumsumexp(ordered, dim=-1) - ordered
    loss = (loss * kept.flip(-1).gather(-1, order)).sum(-1).to(scores.dtype)
    return _reduce_lists("list_mle_loss", loss, _any_kept(kept), weight, reduction)


class ListMLELoss(Loss):
    """:func:`list_mle_loss` as a module."""

    def forward(
        self, scores: Tensor, labels: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`list_mle_loss`."""
        return list_mle_loss(scores, labels, weight=weight, mask=mask, reduction=self.reduction)


def _rank_discount(values: Tensor) -> Tensor:
    """``1 / log2(1 + rank)`` of each element, the highest value being of rank 1."""
    rank = values.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1) + 1
    return 1.0 / torch.log2(1.0 + rank.to(values.dtype))


def lambda_rank_loss(
    scores: Tensor,
    labels: Tensor,
    *,
    sigma: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """LambdaRank: ``sum_{y_i > y_j} |dNDCG_ij| log(1 + exp(-sigma (s_i - s_j)))``.

    ``dNDCG_ij = (G_i - G_j) (D_i - D_j) / best DCG`` is what swapping i and j would change, with gain ``G = 2^y - 1``
    and discount ``D = 1 / log2(1 + rank)``, ranked by the present scores. It is a constant, so that the gradient is
    LambdaRank's lambda. Takes O(L^2) memory a list.

    Args:
        scores: ``(..., L)``, floating-point.
        labels: Same shape; grades of relevance, >= 0.
        sigma: Steepness of the logistic function, > 0.
        weight: Factor per list, broadcastable to ``(...)``.
        mask: Bool, broadcastable to ``scores``; False removes from the list.
        reduction: ``"none"``, ``"mean"`` (over lists) or ``"sum"``.

    Returns:
        Scalar, or ``(...)`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``sigma`` <= 0, an unknown reduction.

    Reference:
        Burges, Ragno and Le, "Learning to Rank with Nonsmooth Cost Functions", NIPS 2006.
        Wang et al., "The LambdaLoss Framework for Ranking Metric Optimization", CIKM 2018.

    Example:
        >>> lambda_rank_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]))
        tensor(0.4847)
    """
    check_positive("lambda_rank_loss", sigma=sigma)
    scores, labels, kept = _prepare_lists("lambda_rank_loss", scores, labels, mask)
    check_range("lambda_rank_loss", "labels", labels, mask)
    # Every gain in units of 2^(the highest label), so that none overflows: the ratio to the best DCG stays.
    top = F.pad(labels, (0, 1)).amax(-1, keepdim=True)
    gain = (torch.exp2(labels - top) - torch.exp2(-top)) * kept
    discount = _rank_discount(_push_back(kept, scores.detach()))
    best = (gain * _rank_discount(_push_back(kept, labels))).sum(-1)
    gain = gain / torch.where(best > 0, best, 1.0)[..., None]

    swap = (gain[..., :, None] - gain[..., None, :]) * (discount[..., :, None] - discount[..., None, :])
    ordered = (labels[..., :, None] > labels[..., None, :]) & (kept[..., :, None] * kept[..., None, :] > 0)
    loss = swap.abs() * softplus(sigma * (scores[..., None, :] - scores[..., :, None]))
    loss = loss.where(ordered, 0.0).sum((-2, -1))
    return _reduce_lists("lambda_rank_loss", loss, _any_kept(kept), weight, reduction)


class LambdaRankLoss(Loss):
    """:func:`lambda_rank_loss` as a module."""

    def __init__(self, *, sigma: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_positive("LambdaRankLoss", sigma=sigma)
        self.sigma = sigma

    def forward(
        self, scores: Tensor, labels: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`lambda_rank_loss`."""
        return lambda_rank_loss(scores, labels, sigma=self.sigma, weight=weight, mask=mask, reduction=self.reduction)
