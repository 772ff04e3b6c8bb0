"""The hinge losses against loops, torch and each other."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import rlloss.functional as F
from rlloss import MulticlassHingeLoss, value_checks
from rlloss.supervised.classification import HingeVariant
from tests.conftest import assert_close

VARIANTS: list[HingeVariant] = ["weston-watkins", "crammer-singer"]

SCORES = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("sign", [-1, 1])
def test_binary_losses_equal_a_loop(margin: float, sign: int) -> None:
    target = torch.full((7,), sign)
    excess = [max(0.0, margin - sign * score) for score in SCORES.tolist()]
    expected = torch.tensor(excess, dtype=torch.float64)
    assert_close(F.hinge_loss(SCORES, target, margin=margin, reduction="none"), expected)
    assert_close(F.squared_hinge_loss(SCORES, target, margin=margin, reduction="none"), expected.square())
    soft = [math.log(1.0 + math.exp(-sign * score)) for score in SCORES.tolist()]
    assert_close(F.soft_margin_loss(SCORES, target, reduction="none"), torch.tensor(soft, dtype=torch.float64))


def test_soft_margin_equals_torch_and_binary_cross_entropy() -> None:
    score, positive = torch.randn(5, 4, dtype=torch.float64), torch.rand(5, 4) < 0.5
    target = positive.double() * 2 - 1
    for reduction in ("none", "mean", "sum"):
        loss = F.soft_margin_loss(score, target, reduction=reduction)
        assert_close(loss, torch.nn.functional.soft_margin_loss(score, target, reduction=reduction))
        assert_close(loss, F.binary_cross_entropy(score, positive, reduction=reduction))


def test_soft_margin_does_not_overflow() -> None:
    score = torch.tensor([1e4, -1e4], requires_grad=True)
    loss = F.soft_margin_loss(score, torch.tensor([-1, -1]), reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), score)
    assert loss.tolist() == [1e4, 0.0] and gradient.tolist() == [1.0, 0.0]


def test_classes_0_and_1_are_found_by_value_checks() -> None:
    score, target = torch.zeros(3), torch.tensor([1, 0, -1])
    for loss in (F.hinge_loss, F.squared_hinge_loss, F.soft_margin_loss):
        loss(score, target)
        with (
            value_checks(),
            pytest.raises(ValueError, match=f"{loss.__name__}: target must hold -1 and \\+1 only, got 0"),
        ):
            loss(score, target)
        with value_checks():
            loss(score, target, mask=torch.tensor([True, False, True]))


def _multiclass(scores: Tensor, target: Tensor, margin: float, p: int, variant: HingeVariant) -> Tensor:
    """Rows ``(N, C)``, in plain Python."""
    losses = []
    for row, label in zip(scores.tolist(), target.tolist(), strict=True):
        rivals = [max(0.0, margin - row[label] + score) ** p for c, score in enumerate(row) if c != label]
        losses.append(sum(rivals) / len(row) if variant == "weston-watkins" else max(rivals, default=0.0))
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("margin", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("variant", VARIANTS)
def test_multiclass_equals_a_loop(margin: float, p: int, variant: HingeVariant) -> None:
    scores, target = torch.randn(20, 5, dtype=torch.float64), torch.randint(5, (20,))
    options: dict[str, Any] = {"margin": margin, "p": p, "variant": variant}
    actual = F.multiclass_hinge_loss(scores, target, **options, reduction="none")
    assert_close(actual, _multiclass(scores, target, margin, p, variant))
    volume = scores.reshape(4, 5, 5).transpose(1, 2)  # (N, C, further)
    assert_close(F.multiclass_hinge_loss(volume, target.view(4, 5), **options, reduction="none").flatten(), actual)


@pytest.mark.parametrize("margin", [0.5, 1.0])
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_weston_watkins_equals_torch(margin: float, p: int, reduction: str) -> None:
    scores, target = torch.randn(20, 5, dtype=torch.float64), torch.randint(5, (20,))
    class_weight = torch.rand(5, dtype=torch.float64)
    expected = torch.nn.functional.multi_margin_loss(
        scores, target, p=p, margin=margin, weight=class_weight, reduction=reduction
    )
    options: dict[str, Any] = {"margin": margin, "p": p, "class_weight": class_weight, "reduction": reduction}
    assert_close(F.multiclass_hinge_loss(scores, target, **options), expected)
    assert_close(MulticlassHingeLoss(**options).double()(scores, target), expected)


def test_two_classes_are_the_binary_hinge() -> None:
    """The hinge of the difference of two scores; Weston and Watkins' is half of it, for it divides by C = 2."""
    scores, target = torch.randn(9, 2, dtype=torch.float64), torch.arange(9) % 2
    binary = F.hinge_loss(scores[:, 1] - scores[:, 0], target * 2 - 1)
    assert_close(F.multiclass_hinge_loss(scores, target), binary / 2)
    assert_close(F.multiclass_hinge_loss(scores, target, variant="crammer-singer"), binary)


def test_one_class_costs_nothing() -> None:
    for variant in VARIANTS:
        scores = torch.randn(3, 1, requires_grad=True)
        loss = F.multiclass_hinge_loss(scores, torch.zeros(3, dtype=torch.long), variant=variant)
        assert float(loss.detach()) == 0.0 and not torch.autograd.grad(loss, scores)[0].any()


def test_ignore_index_and_impossible_classes() -> None:
    scores = torch.tensor([[1.0, 0.5, -math.inf], [0.0, 1.0, 2.0]], requires_grad=True)
    for variant in VARIANTS:
        loss = F.multiclass_hinge_loss(scores, torch.tensor([0, -100]), variant=variant)
        expected = 0.5 / 3 if variant == "weston-watkins" else 0.5
        assert float(loss.detach()) == pytest.approx(expected)
        assert torch.autograd.grad(loss, scores)[0].isfinite().all()


def test_labels_of_uint8_reach_above_127() -> None:
    """In uint8, -100 wraps around to 156; the label 156 must not count as ignored."""
    scores, target = torch.randn(2, 200), torch.tensor([156, 3])
    assert_close(F.multiclass_hinge_loss(scores, target.to(torch.uint8)), F.multiclass_hinge_loss(scores, target))
    assert_close(F.cross_entropy(scores, target.to(torch.uint8)), F.cross_entropy(scores, target))


@given(
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.lists(st.floats(-1e4, 1e4, width=16), min_size=2, max_size=6),
    st.sampled_from([1, 2]),
    st.sampled_from(VARIANTS),
)
def test_any_scores(dtype: torch.dtype, values: list[float], p: int, variant: HingeVariant) -> None:
    scores = torch.tensor([values], dtype=dtype, requires_grad=True)
    target = torch.tensor([len(values) // 2])
    loss = F.multiclass_hinge_loss(scores, target, p=p, variant=variant)
    (gradient,) = torch.autograd.grad(loss, scores)
    expected = _multiclass(scores.detach().double(), target, 1.0, p, variant)[0]
    assert_close(loss.double(), expected, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    assert gradient.isfinite().all()


def test_unknown_options() -> None:
    scores, target = torch.zeros(1, 3), torch.tensor([0])
    with pytest.raises(ValueError, match="multiclass_hinge_loss: p must be one of 1, 2, got 3"):
        F.multiclass_hinge_loss(scores, target, p=3)
    with pytest.raises(ValueError, match="MulticlassHingeLoss: variant must be one of weston-watkins, crammer-singer"):
        MulticlassHingeLoss(variant="one-vs-all")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"hinge_loss: margin must be in \[0, inf\), got -1"):
        F.hinge_loss(SCORES, SCORES.sign(), margin=-1.0)
