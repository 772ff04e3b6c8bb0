"""Classification losses against a loop over samples in plain Python, torch, and the losses that they contain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as torch_functional
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import rlloss
import rlloss.functional as F
from tests.conftest import assert_close

REDUCTIONS = ["none", "mean", "sum"]


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def log_softmax(logits: Sequence[float]) -> list[float]:
    highest = max(logits)
    total = highest + math.log(sum(math.exp(z - highest) for z in logits))
    return [z - total for z in logits]


def smoothed_cross_entropy(log_p: Sequence[float], label: int, smoothing: float) -> float:
    truth = [smoothing / len(log_p) + (1 - smoothing) * (c == label) for c in range(len(log_p))]
    return -sum(y * value for y, value in zip(truth, log_p, strict=True))


def focal(log_p: Sequence[float], label: int, gamma: float) -> float:
    return -math.pow(1 - math.exp(log_p[label]), gamma) * log_p[label]


def poly(log_p: Sequence[float], label: int, epsilon: Sequence[float], divide: bool, smoothing: float) -> float:
    miss = 1 - math.exp(log_p[label])
    terms = [value * miss**order / (order if divide else 1) for order, value in enumerate(epsilon, start=1)]
    return smoothed_cross_entropy(log_p, label, smoothing) + sum(terms)


batches = st.integers(2, 5).flatmap(
    lambda classes: st.lists(
        st.tuples(
            st.lists(st.floats(-20, 20), min_size=classes, max_size=classes),
            st.integers(0, classes - 1),
        ),
        min_size=1,
        max_size=5,
    )
)
Batch = list[tuple[list[float], int]]


def _tensors(batch: Batch) -> tuple[Tensor, Tensor]:
    return double([logits for logits, _ in batch]), torch.tensor([label for _, label in batch])


def _assert_equals(actual: Tensor, wanted: list[float] | float) -> None:
    torch.testing.assert_close(actual, double(wanted), rtol=1e-9, atol=1e-9)


# Cross-entropy


@given(batch=batches, smoothing=st.sampled_from([0.0, 0.1, 1.0]))
def test_cross_entropy_equals_loop(batch: Batch, smoothing: float) -> None:
    wanted = [smoothed_cross_entropy(log_softmax(logits), label, smoothing) for logits, label in batch]
    logits, target = _tensors(batch)
    _assert_equals(F.cross_entropy(logits, target, label_smoothing=smoothing, reduction="none"), wanted)
    _assert_equals(F.cross_entropy(logits, target, label_smoothing=smoothing), sum(wanted) / len(wanted))
    soft = torch_functional.one_hot(target, logits.shape[1]).double()
    _assert_equals(F.cross_entropy(logits, soft, label_smoothing=smoothing, reduction="none"), wanted)


@pytest.mark.parametrize("shape", [(4,), (5, 4), (5, 4, 3), (2, 4, 3, 2)], ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_equals_torch(
    shape: tuple[int, ...], reduction: Any, smoothing: float, weighted: bool, soft: bool
) -> None:
    """Value and gradient, for every argument that torch has."""
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    class_dim = 0 if len(shape) == 1 else 1
    options: dict[str, Any] = {"label_smoothing": smoothing, "reduction": reduction}
    if soft:
        target = torch.randn(shape, dtype=torch.float64).softmax(class_dim)
    else:
        target = torch.randint(4, [size for dim, size in enumerate(shape) if dim != class_dim])
        options["ignore_index"] = 2
        target.view(-1)[0] = 1  # not all are ignored, which is NaN in torch
    class_weight = double([0.1, 1.0, 2.0, 5.0]) if weighted else None
    ours = F.cross_entropy(logits, target, class_weight=class_weight, **options)
    theirs = torch_functional.cross_entropy(logits, target, weight=class_weight, **options)
    assert_close(ours, theirs)
    assert_close(torch.autograd.grad(ours.sum(), logits)[0], torch.autograd.grad(theirs.sum(), logits)[0])


def test_cross_entropy_class_weight_and_mask() -> None:
    """The mean divides by the class weights of the labels that are kept; the weight is no part of that."""
    logits = torch.zeros(4, 2, dtype=torch.float64)
    target, mask = torch.tensor([0, 1, 1, -100]), torch.tensor([True, True, False, True])
    options: dict[str, Any] = {"class_weight": double([1.0, 3.0]), "weight": double([2.0, 4.0, 99.0, 99.0])}
    assert F.cross_entropy(logits, target, **options, mask=mask).item() == pytest.approx((2 + 12) / 4 * math.log(2))
    none = F.cross_entropy(logits, target, **options, mask=mask, reduction="none")
    _assert_equals(none, [2 * math.log(2), 12 * math.log(2), 0.0, 0.0])


def test_a_class_weight_of_zero_for_all_that_is_there_gives_zero() -> None:
    logits = torch.zeros(2, 2, requires_grad=True)
    loss = F.cross_entropy(logits, torch.tensor([0, 0]), class_weight=torch.tensor([0.0, 1.0]))
    assert loss == 0
    assert not torch.autograd.grad(loss, logits)[0].any()


@pytest.mark.parametrize("function", [F.cross_entropy, F.focal_loss, F.poly_loss])
@pytest.mark.parametrize("ignore_index", [-100, -1, 1, 255])
def test_ignore_index_is_a_mask(function: Any, ignore_index: int) -> None:
    """Whatever label it is, and however large what it ignores."""
    logits = torch.randn(4, 3, dtype=torch.float64)
    kept = function(logits[[0, 3]], torch.tensor([0, 2]))
    logits[1:3] *= 1e30
    logits.requires_grad_()
    loss = function(logits, torch.tensor([0, ignore_index, ignore_index, 2]), ignore_index=ignore_index)
    assert_close(loss, kept)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[[0, 3]].all() and not gradient[1:3].any()


@pytest.mark.parametrize("function", [F.cross_entropy, F.focal_loss, F.poly_loss])
def test_all_ignored_gives_zero(function: Any) -> None:
    """Torch gives NaN."""
    logits = torch.randn(3, 2, requires_grad=True)
    loss = function(logits, torch.full((3,), -100))
    assert loss == 0
    assert not torch.autograd.grad(loss, logits)[0].any()


@pytest.mark.parametrize("function", [F.cross_entropy, F.focal_loss, F.poly_loss])
@pytest.mark.parametrize("target", [torch.tensor(0), torch.tensor(1.0)], ids=["index", "probability"])
def test_logits_without_classes(function: Any, target: Tensor) -> None:
    with pytest.raises(
        ValueError, match=rf"^{function.__name__}: (logits must have shape \(N, C|target must have an int)"
    ):
        function(torch.tensor(1.0), target)


@pytest.mark.parametrize("function", [F.cross_entropy, F.focal_loss, F.poly_loss])
def test_a_single_class_is_certain(function: Any) -> None:
    assert function(torch.randn(2, 1), torch.tensor([0, -100])) == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("function", [F.cross_entropy, F.focal_loss, F.poly_loss])
def test_labels_of_any_integer_dtype(function: Any, dtype: torch.dtype) -> None:
    logits, target = torch.randn(4, 3), torch.tensor([0, 2, 1, 2])
    assert_close(function(logits, target.to(dtype)), function(logits, target))


def test_no_label_of_a_small_dtype_is_taken_for_ignore_index() -> None:
    """-100 wraps around to 156 in uint8."""
    loss = F.cross_entropy(torch.zeros(1, 200), torch.tensor([156], dtype=torch.uint8))
    assert loss.item() == pytest.approx(math.log(200))


@pytest.mark.parametrize("function", [F.cross_entropy, F.focal_loss, F.poly_loss])
def test_one_sample_without_a_batch(function: Any) -> None:
    logits = torch.randn(4, dtype=torch.float64)
    for reduction in REDUCTIONS:
        loss = function(logits, torch.tensor(2), reduction=reduction)
        assert_close(loss, function(logits[None], torch.tensor([2]), reduction="sum"))


@pytest.mark.parametrize("function", [F.cross_entropy, F.focal_loss, F.poly_loss])
def test_class_dimension_is_1(function: Any) -> None:
    logits, target = torch.randn(2, 4, 3, dtype=torch.float64), torch.randint(4, (2, 3))
    rows = function(logits.movedim(1, -1).reshape(6, 4), target.flatten(), reduction="none")
    assert_close(function(logits, target, reduction="none"), rows.reshape(2, 3))


@pytest.mark.parametrize("function", [F.cross_entropy, F.focal_loss, F.poly_loss])
def test_probabilities(function: Any) -> None:
    logits, target = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    assert_close(function(logits.softmax(1), target, from_logits=False), function(logits, target))
    certain = function(torch.tensor([[1.0, 0.0]]), torch.tensor([0]), from_logits=False)
    assert certain == 0
    wrong = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = function(wrong, torch.tensor([1]), from_logits=False)
    assert loss.isfinite() and loss > 80
    assert torch.autograd.grad(loss, wrong)[0].isfinite().all()


def test_soft_probabilities() -> None:
    p, target = torch.randn(2, 5, 3, dtype=torch.float64).softmax(2)
    _assert_equals(
        F.cross_entropy(p, target, from_logits=False, reduction="none"), (-(target * p.log()).sum(1)).tolist()
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_extreme_logits_worked(dtype: torch.dtype) -> None:
    logits = torch.tensor([[1e4, -1e4]] * 2, dtype=dtype)
    target = torch.tensor([0, 1])
    assert F.cross_entropy(logits, target, reduction="none").tolist() == [0.0, 2e4]
    assert F.focal_loss(logits, target, reduction="none").tolist() == [0.0, 2e4]
    assert F.poly_loss(logits, target, reduction="none").tolist() == [0.0, 2e4 + 1]
    binary = F.binary_cross_entropy(logits, torch.tensor([[1.0, 1.0], [0.0, 0.0]]), reduction="none")
    assert binary.tolist() == [[0.0, 1e4], [1e4, 0.0]]


# Binary cross-entropy


def binary_by_hand(z: float, y: float, pos_weight: float, smoothing: float) -> float:
    """-(w y log p + (1 - y) log(1 - p)), with log p = -log(1 + exp(-z)) for p = sigmoid(z)."""
    y = y * (1 - smoothing) + smoothing / 2
    return pos_weight * y * math.log1p(math.exp(-z)) + (1 - y) * math.log1p(math.exp(z))


@given(
    pairs=st.lists(st.tuples(st.floats(-20, 20), st.floats(0, 1)), min_size=1, max_size=6),
    pos_weight=st.sampled_from([None, 0.5, 1, 3.0]),
    smoothing=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_binary_cross_entropy_equals_loop(
    pairs: list[tuple[float, float]], pos_weight: float | None, smoothing: float
) -> None:
    wanted = [binary_by_hand(z, y, 1.0 if pos_weight is None else pos_weight, smoothing) for z, y in pairs]
    logits, target = double([z for z, _ in pairs]), double([y for _, y in pairs])
    options: dict[str, Any] = {"pos_weight": pos_weight, "label_smoothing": smoothing, "reduction": "none"}
    _assert_equals(F.binary_cross_entropy(logits, target, **options), wanted)
    p = 1 / (1 + np.exp(-np.array([z for z, _ in pairs])))
    from_p = F.binary_cross_entropy(double(p), target, from_logits=False, **options)
    torch.testing.assert_close(from_p, double(wanted), rtol=1e-5, atol=1e-5)  # 1 - p loses digits near p = 1


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("pos_weight", [None, [0.5, 2.0, 3.0]])
def test_binary_cross_entropy_equals_torch(reduction: Any, pos_weight: list[float] | None) -> None:
    logits, target = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.rand(4, 3, dtype=torch.float64)
    factor = None if pos_weight is None else double(pos_weight)
    ours = F.binary_cross_entropy(logits, target, pos_weight=factor, reduction=reduction)
    theirs = torch_functional.binary_cross_entropy_with_logits(logits, target, pos_weight=factor, reduction=reduction)
    assert_close(ours, theirs)
    assert_close(torch.autograd.grad(ours.sum(), logits)[0], torch.autograd.grad(theirs.sum(), logits)[0])
    p = torch.rand(4, 3, dtype=torch.float64)
    if pos_weight is None:
        assert_close(
            F.binary_cross_entropy(p, target, from_logits=False, reduction=reduction),
            torch_functional.binary_cross_entropy(p, target, reduction=reduction),
        )
    assert_close(
        F.binary_cross_entropy(p, target, from_logits=False, pos_weight=factor, reduction=reduction),
        F.binary_cross_entropy(p.logit(), target, pos_weight=factor, reduction=reduction),
    )


@pytest.mark.parametrize("pos_weight", [None, 2.0])
def test_binary_probabilities_of_zero_and_one(pos_weight: float | None) -> None:
    """Each logarithm is at least -100, as in torch."""
    p = torch.tensor([0.0, 1.0, 0.0, 1.0], requires_grad=True)
    loss = F.binary_cross_entropy(
        p, torch.tensor([0, 1, 1, 0]), from_logits=False, pos_weight=pos_weight, reduction="none"
    )
    assert loss.tolist() == [0.0, 0.0, 100.0 * (pos_weight or 1.0), 100.0]
    assert torch.autograd.grad(loss.sum(), p)[0].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.float16, torch.float32])
def test_binary_targets_of_any_dtype(dtype: torch.dtype) -> None:
    loss = F.binary_cross_entropy(torch.zeros(2), torch.tensor([1, 0]).to(dtype), pos_weight=3.0, reduction="none")
    assert_close(loss, torch.tensor([3.0, 1.0]) * math.log(2))


def test_binary_errors() -> None:
    logits, target = torch.zeros(4, 3), torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"^binary_cross_entropy: pos_weight must broadcast .* \(4, 3\), got \(4,\)$"):
        F.binary_cross_entropy(logits, target, pos_weight=torch.ones(4))
    with pytest.raises(ValueError, match=r"^binary_cross_entropy: pos_weight must be in \[0, inf\), got -1\.0$"):
        F.binary_cross_entropy(logits, target, pos_weight=-1.0)
    with pytest.raises(ValueError, match=r"^binary_cross_entropy: pos_weight must have a floating-point dtype"):
        F.binary_cross_entropy(logits, target, pos_weight=torch.ones(3, dtype=torch.long))


# Focal loss


@given(batch=batches, gamma=st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]))
def test_focal_equals_loop(batch: Batch, gamma: float) -> None:
    wanted = [focal(log_softmax(logits), label, gamma) for logits, label in batch]
    _assert_equals(F.focal_loss(*_tensors(batch), gamma=gamma, reduction="none"), wanted)
    _assert_equals(F.focal_loss(*_tensors(batch), gamma=gamma, alpha=0.25, reduction="none"), [w / 4 for w in wanted])


def test_focal_of_gamma_zero_is_cross_entropy() -> None:
    logits = torch.randn(20, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randint(5, (20,))
    ours, theirs = F.focal_loss(logits, target, gamma=0.0), F.cross_entropy(logits, target)
    assert_close(ours, theirs)
    assert_close(torch.autograd.grad(ours, logits)[0], torch.autograd.grad(theirs, logits)[0])


@pytest.mark.parametrize("as_tensor", [False, True])
def test_focal_alpha_per_class(as_tensor: bool) -> None:
    logits, target = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 1, 0])
    alpha = [0.5, 1.0, 4.0]
    plain = F.focal_loss(logits, target, reduction="none")
    weighed = F.focal_loss(logits, target, alpha=double(alpha) if as_tensor else alpha, reduction="none")
    assert_close(weighed, plain * double([alpha[label] for label in target.tolist()]))
    mean = F.focal_loss(logits, target, alpha=alpha)
    assert_close(mean, weighed.mean())  # over samples, not over alphas


def test_focal_alpha_of_the_wrong_length() -> None:
    with pytest.raises(ValueError, match=r"^focal_loss: alpha must have shape \(3,\) \(one per class\), got \(2,\)$"):
        F.focal_loss(torch.zeros(1, 3), torch.tensor([0]), alpha=[1.0, 2.0])


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0])
def test_focal_gradient_where_the_answer_is_certain(gamma: float) -> None:
    """(1 - p_t)^gamma has an infinite slope at p_t = 1 for gamma below 1; the loss's own limit is 0."""
    logits = torch.tensor([[40.0, 0.0], [200.0, 0.0]], requires_grad=True)
    loss = F.focal_loss(logits, torch.tensor([0, 0]), gamma=gamma, reduction="sum")
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-3


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_gradient_where_the_true_class_is_impossible(gamma: float) -> None:
    """(1 - p_t)^gamma is 1 there, and what is left is the cross-entropy's gradient."""
    logits = torch.tensor([[-torch.inf, 0.0, 1.0]], requires_grad=True)
    target = torch.tensor([0])
    for loss in (F.focal_loss(logits, target, gamma=gamma), F.cross_entropy(logits, target)):
        assert loss == torch.inf
        gradient = torch.autograd.grad(loss, logits)[0]
        assert_close(gradient, torch.tensor([[-1.0, *torch.tensor([0.0, 1.0]).softmax(0)]]))
    log_prob = torch.tensor([-torch.inf, -1e6], requires_grad=True)
    slope = torch.autograd.grad(rlloss.FocalLoss(gamma=gamma).of_log_prob(log_prob).sum(), log_prob)[0]
    assert slope.tolist() == [-1.0, -1.0]


def test_focal_alpha_moves_with_its_module() -> None:
    assert rlloss.FocalLoss(alpha=[1.0, 2.0]).to("meta").alpha.device.type == "meta"  # type: ignore[union-attr]
    assert rlloss.FocalLoss(alpha=0.25).alpha == 0.25


def test_numbers_per_class_may_be_a_sequence() -> None:
    logits, target, numbers = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0]), [0.5, 1.0, 4.0]
    for function in (F.cross_entropy, F.multiclass_hinge_loss):
        expected = function(logits, target, class_weight=torch.tensor(numbers))
        assert torch.equal(function(logits, target, class_weight=numbers), expected)
    positive = torch.rand(6, 3)
    expected = F.binary_cross_entropy(logits, positive, pos_weight=torch.tensor(numbers))
    assert torch.equal(F.binary_cross_entropy(logits, positive, pos_weight=numbers), expected)
    with pytest.raises(ValueError, match="pos_weight must be in"):
        F.binary_cross_entropy(logits, positive, pos_weight=[1.0, -1.0, 1.0])


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("cross_entropy", {"class_weight": "abc"}, TypeError, "class_weight must be a number, got str"),
        ("cross_entropy", {"class_weight": [1.0, None, 1.0]}, TypeError, "class_weight must be a number, got NoneType"),
        ("cross_entropy", {"class_weight": [1, -1, 1]}, ValueError, "class_weight must be in"),
        ("focal_loss", {"alpha": np.float32(0.5)}, TypeError, "alpha must be a number, got float32"),
        ("BinaryCrossEntropyLoss", {"pos_weight": -1.0}, ValueError, "pos_weight must be in"),
        ("FocalLoss", {"alpha": [0.5, -1.0]}, ValueError, "alpha must be in"),
    ],
)
def test_errors_of_numbers_per_class(name: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{name}: {message}"):
        if name.endswith("Loss"):
            getattr(rlloss, name)(**options)
        else:
            getattr(F, name)(torch.zeros(1, 3), torch.tensor([0]), **options)


def test_ignore_index_is_an_integer() -> None:
    with pytest.raises(TypeError, match=r"^focal_loss: ignore_index must be an integer, got 'x'"):
        F.focal_loss(torch.zeros(1, 3), torch.tensor([0]), ignore_index="x")  # type: ignore[arg-type]


def test_focal_spares_the_easy_samples() -> None:
    """gamma = 2, p_t = 0.9: one hundredth of the cross-entropy, as the paper says."""
    logits = double([[math.log(0.9), math.log(0.1)]])
    ratio = F.focal_loss(logits, torch.tensor([0])) / F.cross_entropy(logits, torch.tensor([0]))
    assert ratio.item() == pytest.approx(0.01)


# PolyLoss


@given(
    batch=batches,
    epsilon=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=4),
    divide=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.2]),
)
def test_poly_equals_loop(batch: Batch, epsilon: list[float], divide: bool, smoothing: float) -> None:
    wanted = [poly(log_softmax(logits), label, epsilon, divide, smoothing) for logits, label in batch]
    options: dict[str, Any] = {"divide_by_order": divide, "label_smoothing": smoothing, "reduction": "none"}
    _assert_equals(F.poly_loss(*_tensors(batch), epsilon=epsilon, **options), wanted)
    if len(epsilon) == 1:
        _assert_equals(F.poly_loss(*_tensors(batch), epsilon=epsilon[0], **options), wanted)


def test_poly_of_epsilon_zero_is_cross_entropy() -> None:
    logits, target = torch.randn(20, 5, dtype=torch.float64), torch.randint(5, (20,))
    for smoothing in (0.0, 0.1):
        expected = F.cross_entropy(logits, target, label_smoothing=smoothing)
        assert_close(F.poly_loss(logits, target, epsilon=0.0, label_smoothing=smoothing), expected)


def test_poly_takes_the_series_of_the_logarithm_apart() -> None:
    """-log p = sum_j (1 - p)^j / j: taking the first 60 terms away leaves next to nothing at p = 1/2."""
    logits, target = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0])
    away = [-1.0] * 60
    assert F.poly_loss(logits, target, epsilon=away, divide_by_order=True).item() == pytest.approx(0.0, abs=1e-12)
    away = [-1.0 / order for order in range(1, 61)]
    assert F.poly_loss(logits, target, epsilon=away).item() == pytest.approx(0.0, abs=1e-12)


def test_poly_worked_numbers() -> None:
    """p_t = 1/4: the terms are 3/4 and 9/16."""
    logits, target = double([[0.0, 0.0, 0.0, 0.0]]), torch.tensor([3])
    for epsilon, divide, wanted in [(2.0, False, 1.5), ([2.0, 4.0], False, 3.75), ([2.0, 4.0], True, 2.625)]:
        loss = F.poly_loss(logits, target, epsilon=epsilon, divide_by_order=divide)  # type: ignore[arg-type]
        assert loss.item() == pytest.approx(math.log(4) + wanted)


# As the criterion of a policy-gradient loss


@pytest.mark.parametrize(
    "criterion",
    [
        rlloss.CrossEntropyLoss(reduction="none"),
        rlloss.FocalLoss(gamma=1.5, reduction="none"),
        rlloss.FocalLoss(gamma=0.5, alpha=0.25, reduction="none"),
        rlloss.PolyLoss(epsilon=2.0, reduction="none"),
        rlloss.PolyLoss(epsilon=[1.0, -0.5], divide_by_order=True, reduction="none"),
    ],
    ids=repr,
)
def test_of_log_prob_is_the_unreduced_loss(criterion: rlloss.ClassificationLoss) -> None:
    logits, target = torch.randn(7, 4, dtype=torch.float64), torch.randint(4, (7,))
    log_prob = logits.log_softmax(1)[torch.arange(7), target].requires_grad_()
    actual = criterion.of_log_prob(log_prob)
    assert_close(actual, criterion(logits, target))
    assert torch.autograd.grad(actual.sum(), log_prob)[0].lt(0).all()


@pytest.mark.parametrize(
    ("criterion", "reason"),
    [
        (rlloss.CrossEntropyLoss(class_weight=[1.0, 2.0]), "class_weight"),
        (rlloss.CrossEntropyLoss(label_smoothing=0.1), "label_smoothing"),
        (rlloss.FocalLoss(alpha=[1.0, 2.0]), "alpha"),
        (rlloss.PolyLoss(label_smoothing=0.1), "label_smoothing"),
    ],
    ids=["class_weight", "label_smoothing", "alpha", "poly"],
)
def test_of_log_prob_where_there_is_no_such_function(criterion: rlloss.ClassificationLoss, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^{type(criterion).__name__}: with .*{reason}"):
        criterion.of_log_prob(torch.zeros(2))


# Hyper-parameters


@pytest.mark.parametrize(
    ("cls", "function", "options"),
    [
        ("CrossEntropyLoss", "cross_entropy", {"label_smoothing": -0.1}),
        ("CrossEntropyLoss", "cross_entropy", {"label_smoothing": 1.1}),
        ("BinaryCrossEntropyLoss", "binary_cross_entropy", {"label_smoothing": 1.1}),
        ("FocalLoss", "focal_loss", {"gamma": -1.0}),
        ("FocalLoss", "focal_loss", {"gamma": math.nan}),
        ("FocalLoss", "focal_loss", {"alpha": -1.0}),
        ("FocalLoss", "focal_loss", {"alpha": [1.0, -1.0]}),
        ("PolyLoss", "poly_loss", {"label_smoothing": 2.0}),
        ("PolyLoss", "poly_loss", {"epsilon": math.inf}),
        ("PolyLoss", "poly_loss", {"epsilon": [1.0, math.nan]}),
    ],
)
def test_hyper_parameter_out_of_range(cls: str, function: str, options: dict[str, Any]) -> None:
    (name,) = options
    target = torch.zeros(1, 2) if function == "binary_cross_entropy" else torch.zeros(1, dtype=torch.long)
    with pytest.raises(ValueError, match=rf"^{cls}: {name} must be"):
        getattr(rlloss, cls)(**options)
    with pytest.raises(ValueError, match=rf"^{function}: {name} must be"):
        getattr(F, function)(torch.zeros(1, 2), target, **options)


def test_class_weight_errors() -> None:
    for weight, wanted in [
        (torch.ones(2), r"class_weight must have shape \(3,\) \(one per class\), got \(2,\)"),
        (torch.ones(3, dtype=torch.long), "class_weight must have a floating-point dtype, got torch.int64"),
    ]:
        for target in (torch.tensor([0]), torch.ones(1, 3)):
            with pytest.raises(ValueError, match=rf"^cross_entropy: {wanted}$"):
                F.cross_entropy(torch.zeros(1, 3), target, class_weight=weight)


def test_class_weight_moves_with_the_module_but_is_not_saved() -> None:
    """It is configuration: a checkpoint must load into a loss that was given other weights."""
    loss = rlloss.CrossEntropyLoss(class_weight=[1.0, 2.0]).to("meta")
    assert loss.class_weight is not None and loss.class_weight.is_meta
    assert not loss.state_dict()
    assert not rlloss.BinaryCrossEntropyLoss(pos_weight=2.0).state_dict()
