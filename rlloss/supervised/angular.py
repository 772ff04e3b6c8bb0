"""Losses on the angles between embeddings and the classes they should point to.

theta_c is the angle between an embedding ``(D,)`` and the weight vector of class c, theta_t that of the true class.
``class_weight`` is ``(num_classes, D)``, as in ``nn.Linear``. Functions take it (or the centres, or scale and bias) as
an argument; classes own it as a parameter, which an optimiser has to be given beside the network's. Gradients reach
everything that predicts: embeddings, class weights, centres, scale and bias; labels and ``weight`` are constants.

Products are computed in float32 or better even under autocast: at a scale of 64, the rounding of a cosine to bfloat16
would move the loss by a tenth. A zero vector has a cosine of 0 with everything. ``weight``, ``mask`` and ``reduction``
work as :mod:`rlloss.core.reduction` says.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlloss.core.checks import (
    check_choice,
    check_float,
    check_indices,
    check_integer,
    check_labels,
    check_mask,
    check_non_negative,
    check_number,
    check_positive,
    check_shape,
)
from rlloss.core.module import Loss
from rlloss.core.reduction import Reduction, fill_masked, promote, reduce_loss
from rlloss.core.vectors import full_precision, norms, unit_vectors


def _prepare(
    function: str, embeddings: Tensor, target: Tensor, name: str, classes: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Check embeddings ``(N, D)``, labels ``(N,)`` and the vectors of the classes; convert, and fill what is masked."""
    check_float(function, embeddings=embeddings, **{name: classes})
    check_indices(function, target=target)
    fit = embeddings.ndim == classes.ndim == 2 and embeddings.shape[1] == classes.shape[1]
    if not fit or target.shape != embeddings.shape[:1]:
        raise ValueError(
            f"{function}: embeddings must have shape (N, D), target (N,) and {name} (num_classes, D), got embeddings "
            f"{tuple(embeddings.shape)}, target {tuple(target.shape)}, {name} {tuple(classes.shape)}"
        )
    check_mask(function, mask, tuple(target.shape))
    check_labels(function, "target", target, classes.shape[0], mask)
    embeddings, classes = promote(embeddings, classes)
    if mask is not None:
        embeddings = fill_masked(mask.expand(target.shape).unsqueeze(1), embeddings)
    return embeddings, fill_masked(mask, target, 0).long(), classes


def _cosines(embeddings: Tensor, classes: Tensor) -> Tensor:
    """Cosines ``(N, num_classes)`` of unit vectors."""
    with full_precision(embeddings):
        return embeddings @ classes.T


def _cross_entropy(logits: Tensor, target: Tensor, target_logit: Tensor) -> Tensor:
    """Cross-entropy of logits ``(N, C)`` with those of the true classes replaced by ``target_logit``, ``(N, 1)``."""
    logits = logits.scatter(1, target.unsqueeze(1), target_logit)
    return F.cross_entropy(logits, target, reduction="none")


def _class_vectors(owner: str, num_classes: int, embedding_dim: int) -> nn.Parameter:
    """A vector for each class, yet without values."""
    check_integer(owner, "num_classes", num_classes, low=1)
    check_integer(owner, "embedding_dim", embedding_dim, low=1)
    return nn.Parameter(torch.empty(num_classes, embedding_dim))


class _ClassWeightLoss(Loss):
    """A loss that owns a vector per class, drawn from a normal distribution; only its direction matters."""

    def __init__(self, num_classes: int, embedding_dim: int, *, reduction: Reduction) -> None:
        super().__init__(reduction=reduction)
        self.class_weight = _class_vectors(type(self).__name__, num_classes, embedding_dim)
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the class weights anew."""
        nn.init.normal_(self.class_weight, std=0.01)


def _check_aam(function: str, scale: float, margin: float) -> None:
    check_positive(function, scale=scale)
    check_number(function, "margin", margin, low=0.0, high=math.pi)


def aam_loss(
    embeddings: Tensor,
    target: Tensor,
    class_weight: Tensor,
    *,
    scale: float = 64.0,
    margin: float = 0.5,
    easy_margin: bool = False,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Additive angular margin (ArcFace): ``-log softmax_t(s cos theta_c)`` with ``cos(theta_t + margin)`` at class t.

    ``margin=0`` gives a normalised softmax. Beyond ``theta_t = pi - margin``, where the ``cos(theta_t + margin)`` that
    the source article prints would rise again, the logit is ``s (cos theta_t - margin sin margin)``, as in the authors'
    code: it jumps down a little there, and falls on. ``easy_margin=True`` puts the margin on embeddings with
    ``theta_t < pi / 2`` alone; the loss drops where it ends.

    Args:
        embeddings: ``(N, D)``, floating-point; normalised here.
        target: Class indices ``(N,)`` in [0, num_classes).
        class_weight: ``(num_classes, D)``, floating-point; normalised here. Gradients reach it.
        scale: Factor s of the cosines, > 0.
        margin: Angular margin, in radians, in [0, pi].
        easy_margin: Whether embeddings beyond pi / 2 go without a margin.
        weight: Factor per element, broadcastable to ``target``.
        mask: Bool, broadcastable to ``target``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(N,)`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``scale`` <= 0, ``margin`` outside [0, pi], an unknown
            reduction.

    Reference:
        Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019.

    Example:
        >>> embeddings, target = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> aam_loss(embeddings, target, torch.eye(2), scale=1.0, margin=0.5)
        tensor(0.3477)
    """
    _check_aam("aam_loss", scale, margin)
    embeddings, target, class_weight = _prepare("aam_loss", embeddings, target, "class_weight", class_weight, mask)
    unit, classes = unit_vectors(embeddings), unit_vectors(class_weight)
    towards = classes[target]
    cosine = (unit * towards).sum(-1, keepdim=True)
    # sqrt(1 - cosine^2) has an infinite slope at +-1; the length of what is at right angles to the class has not.
    sine = norms(unit - cosine * towards)
    with_margin = cosine * math.cos(margin) - sine * math.sin(margin)
    if easy_margin:
        with_margin = torch.where(cosine > 0.0, with_margin, cosine)
    else:
        beyond = cosine - margin * math.sin(margin)
        with_margin = torch.where(cosine > -math.cos(margin), with_margin, beyond)
    loss = _cross_entropy(scale * _cosines(unit, classes), target, scale * with_margin)
    return reduce_loss("aam_loss", loss, weight=weight, mask=mask, reduction=reduction)


class AAMLoss(_ClassWeightLoss):
    """:func:`aam_loss` as a module that owns ``class_weight``."""

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        scale: float = 64.0,
        margin: float = 0.5,
        easy_margin: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(num_classes, embedding_dim, reduction=reduction)
        _check_aam("AAMLoss", scale, margin)
        self.scale = scale
        self.margin = margin
        self.easy_margin = easy_margin

    def forward(
        self, embeddings: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`aam_loss`."""
        return aam_loss(
            embeddings,
            target,
            self.class_weight,
            scale=self.scale,
            margin=self.margin,
            easy_margin=self.easy_margin,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )


def _check_cosface(function: str, scale: float, margin: float) -> None:
    check_positive(function, scale=scale)
    check_non_negative(function, margin=margin)


def cosface_loss(
    embeddings: Tensor,
    target: Tensor,
    class_weight: Tensor,
    *,
    scale: float = 64.0,
    margin: float = 0.35,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Additive cosine margin (CosFace): ``-log softmax_t(s cos theta_c)`` with ``cos(theta_t) - margin`` at class t.

    ``margin=0`` gives a normalised softmax.

    Args:
        embeddings: ``(N, D)``, floating-point; normalised here.
        target: Class indices ``(N,)`` in [0, num_classes).
        class_weight: ``(num_classes, D)``, floating-point; normalised here. Gradients reach it.
        scale: Factor s of the cosines, > 0.
        margin: What is taken off the true class's cosine, >= 0.
        weight: Factor per element, broadcastable to ``target``.
        mask: Bool, broadcastable to ``target``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(N,)`` for ``"none"``; in nats.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, ``scale`` <= 0, ``margin`` < 0, an unknown reduction.

    Reference:
        Wang et al., "CosFace: Large Margin Cosine Loss for Deep Face Recognition", CVPR 2018.

    Example:
        >>> embeddings, target = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> cosface_loss(embeddings, target, torch.eye(2), scale=1.0, margin=0.5)
        tensor(0.4741)
    """
    _check_cosface("cosface_loss", scale, margin)
    embeddings, target, class_weight = _prepare("cosface_loss", embeddings, target, "class_weight", class_weight, mask)
    cosines = _cosines(unit_vectors(embeddings), unit_vectors(class_weight))
    cosine = cosines.gather(1, target.unsqueeze(1))
    loss = _cross_entropy(scale * cosines, target, scale * (cosine - margin))
    return reduce_loss("cosface_loss", loss, weight=weight, mask=mask, reduction=reduction)


class CosFaceLoss(_ClassWeightLoss):
    """:func:`cosface_loss` as a module that owns ``class_weight``."""

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        scale: float = 64.0,
        margin: float = 0.35,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(num_classes, embedding_dim, reduction=reduction)
        _check_cosface("CosFaceLoss", scale, margin)
        self.scale = scale
        self.margin = margin

    def forward(
        self, embeddings: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`cosface_loss`."""
        return cosface_loss(
            embeddings,
            target,
            self.class_weight,
            scale=self.scale,
            margin=self.margin,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )


def _check_sphereface(function: str, margin: int, scale: float | None, annealing: float) -> None:
    check_integer(function, "margin", margin, low=1)
    if scale is not None:
        check_positive(function, scale=scale)
    check_non_negative(function, annealing=annealing)


def _psi(cosine: Tensor, margin: int) -> Tensor:
    """``(-1)^k cos(margin theta) - 2 k`` in the k-th of ``margin`` equal parts of [0, pi]: it falls all the way.

    ``cos(margin theta)`` is a Chebyshev polynomial of the cosine, so no angle, with its infinite slope, is computed.
    """
    previous, multiple = torch.ones_like(cosine), cosine
    for _ in range(margin - 1):
        previous, multiple = multiple, 2.0 * cosine * multiple - previous
    part = torch.zeros_like(cosine)
    for j in range(1, margin):
        part = part + (cosine <= math.cos(j * math.pi / margin)).to(cosine.dtype)
    sign = 1.0 - 2.0 * part.remainder(2.0)
    return sign * multiple - 2.0 * part


def sphereface_loss(
    embeddings: Tensor,
    target: Tensor,
    class_weight: Tensor,
    *,
    margin: int = 4,
    scale: float | None = None,
    annealing: float = 0.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Multiplicative angular margin (SphereFace): ``-log softmax_t(|x| cos theta_c)`` with ``psi(theta_t)`` at class t.

    ``psi(theta) = (-1)^k cos(margin theta) - 2 k`` where theta is between ``k pi / margin`` and
    ``(k + 1) pi / margin``: ``cos(margin theta)``, continued so that it falls all the way from 0 to pi. ``margin=1``
    is a softmax with normalised class weights. |x| is the norm of the embedding; a number for ``scale`` replaces it.

    Args:
        embeddings: ``(N, D)``, floating-point.
        target: Class indices ``(N,)`` in [0, num_classes).
        class_weight: ``(num_classes, D)``, floating-point; normalised here. Gradients reach it.
        margin: Factor of the true class's angle, an integer >= 1.
        scale: Factor of the cosines, > 0; None takes the norm of each embedding, as in the paper.
        annealing: Weight a >= 0 of the plain cosine in ``(a cos theta_t + psi) / (1 + a)``. The paper starts training
            with a large one and lets it fall.
        weight: Factor per element, broadcastable to ``target``.
        mask: Bool, broadcastable to ``target``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(N,)`` for ``"none"``; in nats.

    Raises:
        TypeError: ``margin`` is not an integer.
        ValueError: Shapes that do not fit, a wrong dtype, ``margin`` < 1, ``scale`` <= 0, ``annealing`` < 0, an
            unknown reduction.

    Reference:
        Liu et al., "SphereFace: Deep Hypersphere Embedding for Face Recognition", CVPR 2017.

    Example:
        >>> embeddings, target = torch.tensor([[1.0, 1.0]]), torch.tensor([0])
        >>> sphereface_loss(embeddings, target, torch.eye(2), margin=2)
        tensor(1.3133)
    """
    _check_sphereface("sphereface_loss", margin, scale, annealing)
    embeddings, target, class_weight = _prepare(
        "sphereface_loss", embeddings, target, "class_weight", class_weight, mask
    )
    cosines = _cosines(unit_vectors(embeddings), unit_vectors(class_weight))
    cosine = cosines.gather(1, target.unsqueeze(1))
    with_margin = (annealing * cosine + _psi(cosine, margin)) / (1.0 + annealing)
    factor = norms(embeddings) if scale is None else scale
    loss = _cross_entropy(factor * cosines, target, factor * with_margin)
    return reduce_loss("sphereface_loss", loss, weight=weight, mask=mask, reduction=reduction)


class SphereFaceLoss(_ClassWeightLoss):
    """:func:`sphereface_loss` as a module that owns ``class_weight``."""

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        *,
        margin: int = 4,
        scale: float | None = None,
        annealing: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(num_classes, embedding_dim, reduction=reduction)
        _check_sphereface("SphereFaceLoss", margin, scale, annealing)
        self.margin = margin
        self.scale = scale
        self.annealing = annealing

    def forward(
        self, embeddings: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`sphereface_loss`."""
        return sphereface_loss(
            embeddings,
            target,
            self.class_weight,
            margin=self.margin,
            scale=self.scale,
            annealing=self.annealing,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )


def center_loss(
    embeddings: Tensor,
    target: Tensor,
    centers: Tensor,
    *,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Center loss: ``|x - c_t|^2 / 2``, half the squared distance of an embedding to its class's center.

    It is added to a softmax loss, with a small factor. The paper moves each center by the mean error of its class's
    embeddings; here centers are ordinary parameters, which move by the gradient: the sum of the same errors, over N.

    Args:
        embeddings: ``(N, D)``, floating-point.
        target: Class indices ``(N,)`` in [0, num_classes).
        centers: ``(num_classes, D)``, floating-point. Gradients reach them.
        weight: Factor per element, broadcastable to ``target``.
        mask: Bool, broadcastable to ``target``; False removes.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(N,)`` for ``"none"``; in the squared units of the embeddings.

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, an unknown reduction.

    Reference:
        Wen et al., "A Discriminative Feature Learning Approach for Deep Face Recognition", ECCV 2016.

    Example:
        >>> center_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([1]), torch.tensor([[9.0, 9.0], [0.0, 0.0]]))
        tensor(2.5000)
    """
    embeddings, target, centers = _prepare("center_loss", embeddings, target, "centers", centers, mask)
    loss = 0.5 * (embeddings - centers[target]).square().sum(-1)
    return reduce_loss("center_loss", loss, weight=weight, mask=mask, reduction=reduction)


class CenterLoss(Loss):
    """:func:`center_loss` as a module that owns ``centers``."""

    def __init__(self, num_classes: int, embedding_dim: int, *, reduction: Reduction = "mean") -> None:
        super().__init__(reduction=reduction)
        self.centers = _class_vectors("CenterLoss", num_classes, embedding_dim)
        self.num_classes = num_classes
        self.embedding_dim = embedding_dim
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the centers anew, from a standard normal distribution."""
        nn.init.normal_(self.centers)

    def forward(
        self, embeddings: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`center_loss`."""
        return center_loss(embeddings, target, self.centers, weight=weight, mask=mask, reduction=self.reduction)


GE2EVariant = Literal["softmax", "contrast"]


def _check_ge2e(embeddings: Tensor, scale: Tensor | float, bias: Tensor | float, mask: Tensor | None) -> None:
    check_float("ge2e_loss", embeddings=embeddings)
    if embeddings.ndim != 3 or embeddings.shape[1] < 2:
        raise ValueError(
            "ge2e_loss: embeddings must have shape (speakers, utterances, D) with at least 2 utterances, "
            f"got {tuple(embeddings.shape)}"
        )
    check_mask("ge2e_loss", mask, tuple(embeddings.shape[:2]))
    for name, scalar, low in (("scale", scale, 0.0), ("bias", bias, -math.inf)):
        if isinstance(scalar, Tensor):
            check_float("ge2e_loss", **{name: scalar})
            check_shape("ge2e_loss", name, scalar, (), "a scalar")
        else:
            check_number("ge2e_loss", name, scalar, low=low, low_open=True)


def ge2e_loss(
    embeddings: Tensor,
    scale: Tensor | float,
    bias: Tensor | float,
    *,
    variant: GE2EVariant = "softmax",
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Generalised end-to-end loss (speaker verification): ``-S_j + log sum_k exp S_k``, ``S_k = w cos(e, c_k) + b``.

    e is an utterance of speaker j and c_k the centroid of speaker k's normalised utterances; e is left out of its own
    speaker's centroid. ``variant="contrast"`` is ``1 - sigmoid(S_j) + max_{k != j} sigmoid(S_k)``.

    Args:
        embeddings: ``(speakers, utterances, D)``, floating-point, at least 2 utterances; normalised here.
        scale: Factor w of the cosines, > 0: a number or a scalar tensor, which gradients reach.
        bias: Offset b: a number or a scalar tensor, which gradients reach.
        variant: ``"softmax"`` or ``"contrast"``.
        weight: Factor per element, broadcastable to ``(speakers, utterances)``.
        mask: Bool, broadcastable to ``(speakers, utterances)``; False removes, from the centroids as well. A speaker's
            only utterance has no centroid to be near to: it is left out, but remains a rival of the others.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        Scalar, or ``(speakers, utterances)`` for ``"none"``; in nats (softmax) or in [0, 2] (contrast).

    Raises:
        ValueError: Shapes that do not fit, a wrong dtype, fewer than 2 utterances, a number <= 0 for ``scale``, an
            unknown variant or reduction.

    Reference:
        Wan et al., "Generalized End-to-End Loss for Speaker Verification", ICASSP 2018.

    Example:
        >>> embeddings = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
        >>> ge2e_loss(embeddings, 1.0, 0.0)
        tensor(0.3133)
        >>> ge2e_loss(embeddings, 1.0, 0.0, variant="contrast")
        tensor(0.7689)
    """
    check_choice("ge2e_loss", "variant", variant, ("softmax", "contrast"))
    _check_ge2e(embeddings, scale, bias, mask)
    (embeddings,) = promote(embeddings)
    scale, bias = (x.to(embeddings.dtype) if isinstance(x, Tensor) else x for x in (scale, bias))
    speakers, utterances, _ = embeddings.shape
    kept = torch.ones(speakers, utterances, dtype=torch.bool, device=embeddings.device)
    if mask is not None:
        kept = kept & mask
    unit = unit_vectors(fill_masked(kept.unsqueeze(-1), embeddings))
    # Cosines know only a centroid's direction, so a sum does for a mean, and zeros for what is left out.
    total = unit.sum(1)
    own = scale * (unit * unit_vectors(total.unsqueeze(1) - unit)).sum(-1) + bias
    with full_precision(unit):
        rivals = scale * (unit @ unit_vectors(total).T) + bias
    # Nobody is their own rival, and neither is a speaker without utterances.
    is_rival = kept.any(1) & ~torch.eye(speakers, dtype=torch.bool, device=unit.device)
    rivals = torch.where(is_rival.unsqueeze(1), rivals, -torch.inf)
    if variant == "softmax":
        loss = torch.cat([own.unsqueeze(-1), rivals], dim=-1).logsumexp(-1) - own
    else:
        strongest = F.pad(rivals, (0, 1), value=-torch.inf).amax(-1)
        loss = 1.0 - torch.sigmoid(own) + torch.sigmoid(strongest)
    keep = kept & (kept.sum(1, keepdim=True) > 1)
    return reduce_loss("ge2e_loss", loss, weight=weight, mask=keep, reduction=reduction)


class GE2ELoss(Loss):
    """:func:`ge2e_loss` as a module that owns ``bias`` and the logarithm of ``scale``, which so stays positive."""

    def __init__(
        self,
        *,
        init_scale: float = 10.0,
        init_bias: float = -5.0,
        variant: GE2EVariant = "softmax",
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        check_positive("GE2ELoss", init_scale=init_scale)
        check_number("GE2ELoss", "init_bias", init_bias)
        check_choice("GE2ELoss", "variant", variant, ("softmax", "contrast"))
        self.init_scale = init_scale
        self.init_bias = init_bias
        self.variant: GE2EVariant = variant
        self.log_scale = nn.Parameter(torch.tensor(math.log(init_scale)))
        self.bias = nn.Parameter(torch.tensor(float(init_bias)))

    @property
    def scale(self) -> Tensor:
        """The factor of the cosines, > 0."""
        return self.log_scale.exp()

    def forward(self, embeddings: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """See :func:`ge2e_loss`."""
        return ge2e_loss(
            embeddings,
            self.scale,
            self.bias,
            variant=self.variant,
            weight=weight,
            mask=mask,
            reduction=self.reduction,
        )
