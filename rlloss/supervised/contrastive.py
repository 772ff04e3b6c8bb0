"""Contrastive losses on embeddings, which are all predictions: gradients reach every one of them.

Below, ``d`` is the Euclidean distance of two embeddings and ``cos`` their cosine. ``target``, ``labels`` and ``weight``
are constants. ``weight``, ``mask`` and ``reduction`` work as :mod:`rlloss.core.reduction` says.

The in-batch losses take embeddings ``(N, D)`` and compare each row with the others; a masked row is nobody's negative
either. Their N^2 similarities are never in memory at once, see :mod:`rlloss.core.pairs`. With ``gather=True`` the batch
is that of all processes of ``torch.distributed``, each of which gives N rows and the same arguments: a process returns
the loss of its own rows against the rows of all. The average of the processes' ``"mean"`` losses, and the average of
their gradients by shared parameters, which is what DistributedDataParallel takes, are those of one process with the
whole batch; so is the sum over processes of their ``"sum"`` losses.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rlloss.core.checks import (
    check_choice,
    check_float,
    check_indices,
    check_mask,
    check_ndim,
    check_number,
    check_positive,
    check_range,
    check_real,
    check_same_shape,
    check_shape,
    check_signs,
)
from rlloss.core.distributed import first_row, gather_rows
from rlloss.core.module import Loss
from rlloss.core.pairs import hinge_pairs, logsumexp_pairs, softplus
from rlloss.core.reduction import Reduction, fill_masked, promote, reduce_loss
from rlloss.core.vectors import unit_vectors


def _prepare_embeddings(function: str, mask: Tensor | None, **embeddings: Tensor) -> tuple[Tensor, ...]:
    """Check and convert embeddings ``(..., D)`` of one shape, and fill those that the mask removes."""
    check_float(function, **embeddings)
    for name, tensor in embeddings.items():
        check_ndim(function, name, tensor, 1, "(..., D)")
        check_mask(function, mask, tuple(tensor.shape[:-1]))
    check_same_shape(function, **embeddings)
    keep = None if mask is None else mask.unsqueeze(-1)
    return tuple(fill_masked(keep, tensor) for tensor in promote(*embeddings.values()))


def _check_target(function: str, target: Tensor, shape: torch.Size) -> None:
    check_real(function, target=target)
    check_shape(function, "target", target, tuple(shape[:-1]), "one for each embedding")


# Pairs and triplets that are given


def contrastive_loss(
    x1: Tensor,
    x2: Tensor,
    target: Tensor,
    *,
    margin: float = 1.0,
    squared: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Contrastive loss of pairs: ``y d^2 / 2 + (1 - y) max(0, margin - d)^2 / 2``, ``y = 1`` for similar pairs.

    ``squared=False`` gives ``y d + (1 - y) max(0, margin - d)``, the source article's D(x, x+) + max(0, m - D(x, x-))
    taken apart. The article has two opposite conventions for the label: in the formula from the paper Y = 0 is similar,
    in the one for image retrieval, which also lacks the factor 1/2, y = 1 is similar. Here 1 is similar, and the factor
    is the paper's: give ``1 - Y`` for the former, twice the loss is the latter. Where two dissimilar embeddings are
    equal, the direction in which to part them is undefined, and the gradient is 0.

    Args:
        x1: First embeddings ``(..., D)``, floating-point.
        x2: Second embeddings, same shape; gradients reach both.
        target: 1 for similar pairs, 0 for dissimilar ones, ``(...)``.
        margin: Distance beyond which dissimilar pairs cost nothing, > 0.
        squared: Whether distances are squared, as in the paper.
        weight: Factor per pair, broadcastable to ``(...)``.
        mask: Bool, broadcastable to ``(...)``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(...)`` for ``"none"``; in the units of the embeddings, squared with ``squared``.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``margin`` <= 0, an unknown reduction.

    Reference:
        Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant Mapping", CVPR 2006.

    Example:
        >>> x1, x2 = torch.zeros(2, 2), torch.tensor([[0.3, 0.4], [0.3, 0.4]])
        >>> contrastive_loss(x1, x2, torch.tensor([1, 0]), margin=2.0, reduction="none")
        tensor([0.1250, 1.1250])
    """
    check_positive("contrastive_loss", margin=margin)
    x1, x2 = _prepare_embeddings("contrastive_loss", mask, x1=x1, x2=x2)
    _check_target("contrastive_loss", target, x1.shape)
    check_range("contrastive_loss", "target", target, mask, high=1.0)
    similar = fill_masked(mask, target.detach().to(x1.dtype))
    difference = x1 - x2
    distance = torch.linalg.vector_norm(difference, dim=-1)
    short = torch.relu(margin - distance)
    if squared:
        loss = 0.5 * (similar * difference.square().sum(-1) + (1.0 - similar) * short.square())
    else:
        loss = similar * distance + (1.0 - similar) * short
    return reduce_loss("contrastive_loss", loss, weight=weight, mask=mask, reduction=reduction)


class ContrastiveLoss(Loss):
    """:func:`contrastive_loss` as a module."""

    def __init__(self, *, margin: float = 1.0, squared: bool = True, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_positive("ContrastiveLoss", margin=margin)
        self.margin = margin
        self.squared = squared

    def forward(
        self, x1: Tensor, x2: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`contrastive_loss`."""
        return contrastive_loss(
            x1,
            x2,
            target,
            margin=self.margin,
            squared=self.squared,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )


def triplet_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Triplet loss: ``max(0, d(a, p) - d(a, n) + margin)``.

    Equal to :func:`torch.nn.functional.triplet_margin_loss` for all its arguments. The distances are not squared, as in
    the source article; FaceNet squares them.

    Args:
        anchor: Embeddings ``(..., D)``, floating-point.
        positive: Embeddings of the anchors' classes, same shape.
        negative: Embeddings of other classes, same shape; gradients reach all three.
        margin: By how much the negative should be farther than the positive, > 0.
        p: Norm of the distance, > 0 and finite.
        eps: Added to each difference of embeddings, >= 0: as in torch.
        swap: Whether the distance between positive and negative counts when it is shorter than the anchor's.
        weight: Factor per triplet, broadcastable to ``(...)``.
        mask: Bool, broadcastable to ``(...)``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(...)`` for ``"none"``; in the units of the embeddings.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, a hyper-parameter out of range, an unknown reduction.

    Reference:
        Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR 2015.
        Balntas et al., "Learning local feature descriptors with triplets and shallow convolutional neural networks",
        BMVC 2016, for ``swap``.

    Example:
        >>> triplet_loss(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]), eps=0.0)
        tensor(4.)
    """
    _check_triplet("triplet_loss", margin, p, eps)
    anchor, positive, negative = _prepare_embeddings(
        "triplet_loss", mask, anchor=anchor, positive=positive, negative=negative
    )
    loss = F.triplet_margin_loss(anchor, positive, negative, margin=margin, p=p, eps=eps, swap=swap, reduction="none")
    return reduce_loss("triplet_loss", loss, weight=weight, mask=mask, reduction=reduction)


def _check_triplet(function: str, margin: float, p: float, eps: float) -> None:
    check_positive(function, margin=margin, p=p)
    check_number(function, "eps", eps, low=0.0)


class TripletLoss(Loss):
    """:func:`triplet_loss` as a module."""

    def __init__(
        self,
        *,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        _check_triplet("TripletLoss", margin, p, eps)
        self.margin = margin
        self.p = p
        self.eps = eps
        self.swap = swap

    def forward(
        self,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`triplet_loss`."""
        return triplet_loss(
            anchor,
            positive,
            negative,
            margin=self.margin,
            p=self.p,
            eps=self.eps,
            swap=self.swap,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )


def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    *,
    margin: float = 0.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Cosine embedding loss of pairs: ``1 - cos`` for similar ones, ``max(0, cos - margin)`` for dissimilar ones.

    Equal to :func:`torch.nn.functional.cosine_embedding_loss`.

    Args:
        input1: First embeddings ``(..., D)``, floating-point.
        input2: Second embeddings, same shape; gradients reach both.
        target: 1 for similar pairs, -1 for dissimilar ones, ``(...)``.
        margin: Cosine below which dissimilar pairs cost nothing, in [-1, 1].
        weight: Factor per pair, broadcastable to ``(...)``.
        mask: Bool, broadcastable to ``(...)``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(...)`` for ``"none"``; without a unit.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``margin`` outside [-1, 1], an unknown reduction.

    Example:
        >>> input1, input2 = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[3.0, 4.0], [3.0, 4.0]])
        >>> cosine_embedding_loss(input1, input2, torch.tensor([1, -1]), reduction="none")
        tensor([0.4000, 0.6000])
    """
    check_number("cosine_embedding_loss", "margin", margin, low=-1.0, high=1.0)
    input1, input2 = _prepare_embeddings("cosine_embedding_loss", mask, input1=input1, input2=input2)
    _check_target("cosine_embedding_loss", target, input1.shape)
    check_signs("cosine_embedding_loss", "target", target, mask)
    sign = fill_masked(mask, target.detach().to(input1.dtype))
    rows1, rows2 = (tensor.reshape(sign.numel(), tensor.shape[-1]) for tensor in (input1, input2))
    loss = F.cosine_embedding_loss(rows1, rows2, sign.flatten(), margin=margin, reduction="none").reshape(sign.shape)
    return reduce_loss("cosine_embedding_loss", loss, weight=weight, mask=mask, reduction=reduction)


class CosineEmbeddingLoss(Loss):
    """:func:`cosine_embedding_loss` as a module."""

    def __init__(self, *, margin: float = 0.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_number("CosineEmbeddingLoss", "margin", margin, low=-1.0, high=1.0)
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
        """See :func:`cosine_embedding_loss`."""
        return cosine_embedding_loss(
            input1, input2, target, margin=self.margin, weight=weight, mask=mask, reduction=self.reduction
        )


def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    *,
    margin: float = 1.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Hinge embedding loss of distances: ``x`` for similar pairs, ``max(0, margin - x)`` for dissimilar ones.

    Equal to :func:`torch.nn.functional.hinge_embedding_loss`.

    Args:
        input: Distances, any shape, floating-point.
        target: 1 for similar pairs, -1 for dissimilar ones, same shape.
        margin: Distance beyond which dissimilar pairs cost nothing, in the units of ``input``.
        weight: Factor per element, broadcastable to ``input``.
        mask: Bool, broadcastable to ``input``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or the shape of ``input`` for ``"none"``; in the units of ``input``.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, a ``margin`` that is not finite, an unknown reduction.

    Example:
        >>> hinge_embedding_loss(torch.tensor([0.25, 0.25]), torch.tensor([1, -1]), reduction="none")
        tensor([0.2500, 0.7500])
    """
    check_number("hinge_embedding_loss", "margin", margin)
    check_float("hinge_embedding_loss", input=input)
    check_real("hinge_embedding_loss", target=target)
    check_same_shape("hinge_embedding_loss", input=input, target=target)
    check_mask("hinge_embedding_loss", mask, tuple(input.shape))
    check_signs("hinge_embedding_loss", "target", target, mask)
    input, target = (fill_masked(mask, tensor) for tensor in promote(input, target.detach()))
    loss = F.hinge_embedding_loss(input, target, margin=margin, reduction="none")
    return reduce_loss("hinge_embedding_loss", loss, weight=weight, mask=mask, reduction=reduction)


class HingeEmbeddingLoss(Loss):
    """:func:`hinge_embedding_loss` as a module."""

    def __init__(self, *, margin: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_number("HingeEmbeddingLoss", "margin", margin)
        self.margin = margin

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`hinge_embedding_loss`."""
        return hinge_embedding_loss(
            input, target, margin=self.margin, weight=weight, mask=mask, reduction=self.reduction
        )


# What the in-batch losses share


def _check_rows(function: str, **embeddings: Tensor) -> None:
    """Raise a ValueError unless the tensors are floating-point and of one shape ``(N, D)``."""
    check_float(function, **embeddings)
    check_same_shape(function, **embeddings)
    for name, tensor in embeddings.items():
        if tensor.ndim != 2:
            raise ValueError(f"{function}: {name} must have two dimensions, (rows, D), got {tuple(tensor.shape)}")


def _unit_rows(
    function: str, mask: Tensor | None, negatives: Tensor | None = None, **embeddings: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Check two sets of embeddings ``(N, D)`` and the negatives ``(M, D)``; convert, fill and normalise them."""
    _check_rows(function, **embeddings)
    one, other = _prepare_embeddings(function, mask, **embeddings)
    if negatives is not None:
        _check_rows(function, negatives=negatives)
        wanted = (negatives.shape[0], one.shape[1])
        check_shape(function, "negatives", negatives, wanted, "(M, D), with the D of the other embeddings")
        one, other, negatives = promote(one, other, negatives)
        negatives = unit_vectors(negatives)
    return unit_vectors(one), unit_vectors(other), negatives


def _all_rows(tensor: Tensor, gather: bool) -> Tensor:
    """The rows of all processes, or of this one."""
    return gather_rows(tensor) if gather else tensor


def _all_kept(mask: Tensor | None, rows: int, gather: bool) -> Tensor | None:
    """The mask of all rows."""
    return None if mask is None else _all_rows(mask.expand(rows), gather)


def _own_columns(rows: Tensor, gather: bool) -> Tensor:
    """The place of each row among all rows, ``(N, 1)``."""
    count = rows.shape[0]
    own = torch.arange(count, device=rows.device) + (first_row(count) if gather else 0)
    return own.unsqueeze(-1)


def _contrast(
    rows: Tensor, positive: Tensor, columns: Tensor, keep: Tensor | None, excluded: Tensor, scale: float
) -> Tensor:
    """``-log(exp(c r.p) / (exp(c r.p) + sum_j exp(c r.columns_j)))``, in a form that is never negative."""
    score = scale * (rows * positive).sum(-1)
    others = logsumexp_pairs(scale * rows, columns, keep, excluded)
    return softplus(others - score)


def info_nce_loss(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor | None = None,
    *,
    temperature: float = 0.07,
    symmetric: bool = False,
    gather: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """InfoNCE: ``-log(exp(cos(q_i, p_i) / T) / sum_j exp(cos(q_i, k_j) / T))``; the sum has the positive and negatives.

    The negatives of a query are those that are given, shared by all, or else the positives of all other queries. This
    is the cross-entropy of finding a query's positive. The embeddings are normalised to length 1 here.

    Args:
        query: ``(N, D)``, floating-point.
        positive: ``(N, D)``, one for each query.
        negatives: ``(M, D)``; gradients reach all three. In-batch negatives without them.
        temperature: ``T`` > 0.
        symmetric: Average with the loss in which queries and positives change places, as in CLIP; only in-batch.
        gather: Whether the batch is that of all processes.
        weight: Factor per query, broadcastable to ``(N,)``.
        mask: Bool, broadcastable to ``(N,)``; False removes a query and its positive.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(N,)`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``temperature`` <= 0, ``symmetric`` with ``negatives``, an
            unknown reduction.

    Reference:
        van den Oord, Li and Vinyals, "Representation Learning with Contrastive Predictive Coding", 2018.
        Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.

    Example:
        >>> query, positive = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        >>> info_nce_loss(query, positive, temperature=1.0, reduction="none")
        tensor([0.6931, 0.6931])
    """
    check_positive("info_nce_loss", temperature=temperature)
    if symmetric and negatives is not None:
        raise ValueError("info_nce_loss: symmetric must be False when negatives are given, got True")
    query, positive, negatives = _unit_rows("info_nce_loss", mask, negatives, query=query, positive=positive)
    own, scale = _own_columns(query, gather), 1.0 / temperature
    if negatives is not None:
        loss = _contrast(query, positive, _all_rows(negatives, gather), None, own[:, :0], scale)
    else:
        keep = _all_kept(mask, query.shape[0], gather)
        loss = _contrast(query, positive, _all_rows(positive, gather), keep, own, scale)
        if symmetric:
            loss = 0.5 * (loss + _contrast(positive, query, _all_rows(query, gather), keep, own, scale))
    return reduce_loss("info_nce_loss", loss, weight=weight, mask=mask, reduction=reduction, gather=gather)


class InfoNCELoss(Loss):
    """:func:`info_nce_loss` as a module."""

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        symmetric: bool = False,
        gather: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_positive("InfoNCELoss", temperature=temperature)
        self.temperature = temperature
        self.symmetric = symmetric
        self.gather = gather

    def forward(
        self,
        query: Tensor,
        positive: Tensor,
        negatives: Tensor | None = None,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`info_nce_loss`."""
        return info_nce_loss(
            query,
            positive,
            negatives,
            temperature=self.temperature,
            symmetric=self.symmetric,
            gather=self.gather,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )


def nt_xent_loss(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float = 0.5,
    gather: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """NT-Xent, SimCLR's loss of two views: ``-log(exp(cos(z_i, z_p) / T) / sum_{j != i} exp(cos(z_i, z_j) / T))``.

    i runs over all 2N views and p is the other view of the same sample; the sum has the other views of both sets. The
    embeddings are normalised to length 1 here.

    Args:
        z1: First views ``(N, D)``, floating-point.
        z2: Second views, same shape; gradients reach both.
        temperature: ``T`` > 0.
        gather: Whether the batch is that of all processes.
        weight: Factor per view, broadcastable to ``(2N,)``: the first views, then the second.
        mask: Bool, broadcastable to ``(N,)``; False removes both views of a sample.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(2N,)`` for ``"none"``: the first views, then the second; in nats.

    Raises:
        ValueError: Shapes that differ, a wrong dtype, ``temperature`` <= 0, an unknown reduction.

    Reference:
        Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020.

    Example:
        >>> nt_xent_loss(torch.eye(2), torch.eye(2), temperature=1.0)
        tensor(0.5514)
    """
    check_positive("nt_xent_loss", temperature=temperature)
    z1, z2, _ = _unit_rows("nt_xent_loss", mask, z1=z1, z2=z2)
    all1, all2 = _all_rows(z1, gather), _all_rows(z2, gather)
    keep = _all_kept(mask, z1.shape[0], gather)
    own = _own_columns(z1, gather)
    loss = _contrast(
        torch.cat([z1, z2]),
        torch.cat([z2, z1]),
        torch.cat([all1, all2]),
        None if keep is None else keep.repeat(2),
        torch.cat([own, own + all1.shape[0]], dim=1).repeat(2, 1),
        1.0 / temperature,
    )
    both = None if mask is None else mask.expand(z1.shape[0]).repeat(2)
    return reduce_loss("nt_xent_loss", loss, weight=weight, mask=both, reduction=reduction, gather=gather)


class NTXentLoss(Loss):
    """:func:`nt_xent_loss` as a module."""

    def __init__(self, *, temperature: float = 0.5, gather: bool = False, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_positive("NTXentLoss", temperature=temperature)
        self.temperature = temperature
        self.gather = gather

    def forward(self, z1: Tensor, z2: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """See :func:`nt_xent_loss`."""
        return nt_xent_loss(
            z1,
            z2,
            temperature=self.temperature,
            gather=self.gather,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )


def multiple_negatives_ranking_loss(
    anchors: Tensor,
    positives: Tensor,
    negatives: Tensor | None = None,
    *,
    scale: float = 20.0,
    gather: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Multiple negatives ranking: ``-log(exp(c cos(a_i, p_i)) / sum_j exp(c cos(a_i, k_j)))``, ``c = scale``.

    The k are the positives of all anchors and the hard negatives. Without the latter this is :func:`info_nce_loss` at
    ``temperature = 1 / scale``. The paper scores with dot products; cosines at a scale of 20 are what the source
    article's example, ``MultipleNegativesRankingLoss`` of sentence-transformers, does.

    Args:
        anchors: ``(N, D)``, floating-point.
        positives: ``(N, D)``, one for each anchor; those of the others are an anchor's negatives.
        negatives: Hard negatives ``(M, D)``, of all anchors alike; gradients reach all three.
        scale: ``c`` > 0, the inverse of a temperature.
        gather: Whether the batch is that of all processes.
        weight: Factor per anchor, broadcastable to ``(N,)``.
        mask: Bool, broadcastable to ``(N,)``; False removes an anchor and its positive.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(N,)`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``scale`` <= 0, an unknown reduction.

    Reference:
        Henderson et al., "Efficient Natural Language Response Suggestion for Smart Reply", 2017.

    Example:
        >>> anchors, positives, negatives = torch.eye(2), torch.eye(2), torch.ones(1, 2)
        >>> multiple_negatives_ranking_loss(anchors, positives, negatives, scale=1.0)
        tensor(0.7486)
    """
    name = "multiple_negatives_ranking_loss"
    check_positive(name, scale=scale)
    anchors, positives, negatives = _unit_rows(name, mask, negatives, anchors=anchors, positives=positives)
    columns, keep = _all_rows(positives, gather), _all_kept(mask, anchors.shape[0], gather)
    if negatives is not None:
        hard = _all_rows(negatives, gather)
        columns = torch.cat([columns, hard])
        keep = None if keep is None else F.pad(keep, (0, hard.shape[0]), value=True)
    loss = _contrast(anchors, positives, columns, keep, _own_columns(anchors, gather), scale)
    return reduce_loss(name, loss, weight=weight, mask=mask, reduction=reduction, gather=gather)


class MultipleNegativesRankingLoss(Loss):
    """:func:`multiple_negatives_ranking_loss` as a module."""

    def __init__(self, *, scale: float = 20.0, gather: bool = False, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_positive("MultipleNegativesRankingLoss", scale=scale)
        self.scale = scale
        self.gather = gather

    def forward(
        self,
        anchors: Tensor,
        positives: Tensor,
        negatives: Tensor | None = None,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`multiple_negatives_ranking_loss`."""
        return multiple_negatives_ranking_loss(
            anchors,
            positives,
            negatives,
            scale=self.scale,
            gather=self.gather,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )


# Classes


def _prepare_labelled(
    function: str, embeddings: Tensor, labels: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Check, convert and fill embeddings and their labels; return them with the mask, all True without one."""
    check_float(function, embeddings=embeddings)
    check_indices(function, labels=labels)
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"{function}: embeddings must have shape (N, D) and labels (N,), "
            f"got embeddings {tuple(embeddings.shape)}, labels {tuple(labels.shape)}"
        )
    (embeddings,) = _prepare_embeddings(function, mask, embeddings=embeddings)
    kept = torch.ones_like(labels, dtype=torch.bool)
    return embeddings, fill_masked(mask, labels, 0), kept if mask is None else kept & mask


def supervised_contrastive_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float = 0.1,
    gather: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """SupCon: ``-mean_p log(exp(cos(z_i, z_p) / T) / sum_{j != i} exp(cos(z_i, z_j) / T))``, p of i's class.

    The mean over positives is outside the logarithm (the paper's L_out). With two embeddings a class this is
    :func:`nt_xent_loss`. An embedding that is alone in its class has no loss: it counts as masked out, but stays a
    negative of the others. The embeddings are normalised to length 1 here.

    Args:
        embeddings: ``(N, D)``, floating-point.
        labels: Classes ``(N,)``, any integers.
        temperature: ``T`` > 0.
        gather: Whether the batch is that of all processes.
        weight: Factor per embedding, broadcastable to ``(N,)``.
        mask: Bool, broadcastable to ``(N,)``; False removes.
        reduction: ``"none"``, ``"mean"`` (over embeddings that have a positive) or ``"sum"``.

    Returns:
        Scalar, or ``(N,)`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``temperature`` <= 0, an unknown reduction.

    Reference:
        Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020.

    Example:
        >>> embeddings, labels = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([5, 5, 7])
        >>> supervised_contrastive_loss(embeddings, labels, temperature=1.0, reduction="none")
        tensor([0.3133, 0.3133, 0.0000])
    """
    check_positive("supervised_contrastive_loss", temperature=temperature)
    embeddings, labels, kept = _prepare_labelled("supervised_contrastive_loss", embeddings, labels, mask)
    embeddings = unit_vectors(embeddings)
    columns, keep = _all_rows(embeddings, gather), _all_rows(kept, gather)
    own = _own_columns(embeddings, gather)
    everything = logsumexp_pairs(embeddings / temperature, columns, None if mask is None else keep, own)
    # The similarities to a class add up to the similarity to its sum, so no pair is looked at one by one.
    total, number = _class_sums(columns, _all_rows(labels, gather), keep)
    total, number = total[own[:, 0]] - embeddings, number[own[:, 0]] - 1.0
    positive = (embeddings * total).sum(-1) / (temperature * number.clamp(min=1.0))
    return reduce_loss(
        "supervised_contrastive_loss",
        everything - positive,
        weight=weight,
        mask=kept & (number > 0),
        reduction=reduction,
        gather=gather,
    )


def _class_sums(embeddings: Tensor, labels: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """For each embedding, the sum of all that have its label, and their number."""
    # The first place of a label in sorted order names its class by a number below N, whatever the labels are.
    place = torch.searchsorted(labels.sort().values, labels)
    total = torch.zeros_like(embeddings).index_add(0, place, embeddings)
    number = embeddings.new_zeros(embeddings.shape[0]).index_add(0, place, keep.to(embeddings.dtype))
    return total[place], number[place]


class SupervisedContrastiveLoss(Loss):
    """:func:`supervised_contrastive_loss` as a module."""

    def __init__(self, *, temperature: float = 0.1, gather: bool = False, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        check_positive("SupervisedContrastiveLoss", temperature=temperature)
        self.temperature = temperature
        self.gather = gather

    def forward(
        self, embeddings: Tensor, labels: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`supervised_contrastive_loss`."""
        return supervised_contrastive_loss(
            embeddings,
            labels,
            temperature=self.temperature,
            gather=self.gather,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )


Mining = Literal["hard", "semihard", "all"]
_MINING = ("hard", "semihard", "all")


def batch_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 1.0,
    mining: Mining = "hard",
    gather: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Triplet loss of an anchor over triplets found in the batch: ``max(0, d(a, p) - d(a, n) + margin)``.

    ``mining`` says which: ``"hard"`` the farthest positive with the closest negative; ``"semihard"`` each positive with
    the closest negative that is farther than it, or with the farthest negative where none is; ``"all"`` each positive
    with each negative, in O(N^2 log N) rather than N^3. The loss of an anchor is the mean over its triplets. An anchor
    without a positive or without a negative has none: it counts as masked out. Takes O(N^2) memory.

    Args:
        embeddings: ``(N, D)``, floating-point.
        labels: Classes ``(N,)``, any integers.
        margin: By how much the negative should be farther than the positive, > 0.
        mining: ``"hard"``, ``"semihard"`` or ``"all"``.
        gather: Whether the batch is that of all processes.
        weight: Factor per anchor, broadcastable to ``(N,)``.
        mask: Bool, broadcastable to ``(N,)``; False removes.
        reduction: ``"none"``, ``"mean"`` (over anchors that have triplets) or ``"sum"``.

    Returns:
        Scalar, or ``(N,)`` for ``"none"``; in the units of the embeddings.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``margin`` <= 0, an unknown mining or reduction.

    Reference:
        Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering", CVPR 2015.
        Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017.

    Example:
        >>> embeddings, labels = torch.tensor([[0.0], [2.0], [3.0]]), torch.tensor([0, 0, 1])
        >>> batch_triplet_loss(embeddings, labels, reduction="none")
        tensor([0., 2., 0.])
    """
    check_positive("batch_triplet_loss", margin=margin)
    check_choice("batch_triplet_loss", "mining", mining, _MINING)
    embeddings, labels, kept = _prepare_labelled("batch_triplet_loss", embeddings, labels, mask)
    columns, keep = _all_rows(embeddings, gather), _all_rows(kept, gather)
    same = labels[:, None] == _all_rows(labels, gather)
    positive = (same & keep).scatter(1, _own_columns(embeddings, gather), False)
    negative = ~same & keep
    distance = torch.cdist(embeddings, columns, compute_mode="donot_use_mm_for_euclid_dist")
    loss = _mine(distance, positive, negative, margin, mining)
    return reduce_loss(
        "batch_triplet_loss",
        loss,
        weight=weight,
        mask=kept & positive.any(-1) & negative.any(-1),
        reduction=reduction,
        gather=gather,
    )


def _mine(distance: Tensor, positive: Tensor, negative: Tensor, margin: float, mining: Mining) -> Tensor:
    """The loss of each anchor from its distances ``(N, M)``; any finite number where there is no triplet."""
    if distance.shape[1] == 0:
        return distance.sum(-1)
    # No distance is as large as what stands for the others: amin would share a gradient among equals.
    rivals = distance.where(negative, torch.finfo(distance.dtype).max)
    if mining == "hard":
        return torch.relu(distance.where(positive, 0.0).amax(-1) - rivals.amin(-1) + margin)
    positives, negatives = positive.to(distance.dtype), negative.to(distance.dtype)
    count = positives.sum(-1).clamp(min=1.0)
    if mining == "semihard":
        hinge = torch.relu(distance - _semihard_negative(distance, rivals, negative) + margin)
        return (hinge * positives).sum(-1) / count
    return hinge_pairs(distance, negatives, positives, margin) / (count * negatives.sum(-1).clamp(min=1.0))


def _semihard_negative(distance: Tensor, rivals: Tensor, negative: Tensor) -> Tensor:
    """For each distance, that of the closest negative which is farther, or of the farthest negative."""
    ordered = rivals.sort(dim=-1).values
    place = torch.searchsorted(ordered.detach(), distance.detach(), right=True)
    last = negative.sum(-1, keepdim=True) - 1
    return ordered.gather(-1, torch.minimum(place, last).clamp(min=0))


class BatchTripletLoss(Loss):
    """:func:`batch_triplet_loss` as a module."""

    def __init__(
        self,
        *,
        margin: float = 1.0,
        mining: Mining = "hard",
        gather: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_positive("BatchTripletLoss", margin=margin)
        check_choice("BatchTripletLoss", "mining", mining, _MINING)
        self.margin = margin
        self.mining: Mining = mining
        self.gather = gather

    def forward(
        self, embeddings: Tensor, labels: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`batch_triplet_loss`."""
        return batch_triplet_loss(
            embeddings,
            labels,
            margin=self.margin,
            mining=self.mining,
            gather=self.gather,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )
