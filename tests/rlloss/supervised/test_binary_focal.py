"""binary_focal_loss against a loop, the paper's numbers and its degenerate settings."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import rlloss.functional as F
from rlloss import BinaryFocalLoss
from tests.conftest import assert_close


def _reference(logit: float, target: float, gamma: float, alpha: float | None) -> float:
    """One element, in plain Python; as torchvision's sigmoid focal loss for soft targets."""
    p = 1.0 / (1.0 + math.exp(-logit))
    entropy = -(target * math.log(p) + (1.0 - target) * math.log(1.0 - p))
    p_t = p * target + (1.0 - p) * (1.0 - target)
    alpha_t = 1.0 if alpha is None else alpha * target + (1.0 - alpha) * (1.0 - target)
    return alpha_t * math.pow(1.0 - p_t, gamma) * entropy


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, 0.0, 0.25, 1.0])
def test_equals_a_loop(gamma: float, alpha: float | None) -> None:
    logits = torch.tensor([-5.0, -1.0, -0.1, 0.0, 0.3, 2.0, 7.0], dtype=torch.float64)
    target = torch.tensor([0.0, 1.0, 0.2, 0.5, 1.0, 0.9, 0.0], dtype=torch.float64)
    expected = [_reference(z, y, gamma, alpha) for z, y in zip(logits.tolist(), target.tolist(), strict=True)]
    options: dict[str, Any] = {"gamma": gamma, "alpha": alpha}
    actual = F.binary_focal_loss(logits, target, **options, reduction="none")
    assert_close(actual, torch.tensor(expected, dtype=torch.float64))
    probabilities = F.binary_focal_loss(logits.sigmoid(), target, **options, from_logits=False, reduction="none")
    assert_close(probabilities, actual)


@pytest.mark.parametrize(("p_t", "factor"), [(0.9, 100.0), (0.968377, 1000.0)])
def test_the_papers_example(p_t: float, factor: float) -> None:
    """Section 3.2: with gamma = 2, p_t = 0.9 costs 100 times less than in cross-entropy, p_t = 0.968 1000 times."""
    p, one = torch.tensor([p_t], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    focal = F.binary_focal_loss(p, one, from_logits=False)
    assert float(F.binary_cross_entropy(p, one, from_logits=False) / focal) == pytest.approx(factor, rel=1e-4)


def test_gamma_0_is_binary_cross_entropy() -> None:
    logits, target = torch.randn(4, 5, dtype=torch.float64), torch.rand(4, 5, dtype=torch.float64)
    assert_close(F.binary_focal_loss(logits, target, gamma=0.0), F.binary_cross_entropy(logits, target))


def test_two_classes_equal_focal_loss() -> None:
    """A sigmoid is a softmax over the logits 0 and z."""
    logits, target = torch.randn(8, dtype=torch.float64), torch.arange(8) % 2
    pairs = torch.stack([torch.zeros_like(logits), logits], dim=1)
    binary = F.binary_focal_loss(logits, target, gamma=1.5, alpha=0.3, reduction="none")
    assert_close(binary, F.focal_loss(pairs, target, gamma=1.5, alpha=[0.7, 0.3], reduction="none"))


def test_gradient_of_a_root_is_finite_where_nothing_is_missed() -> None:
    logits = torch.tensor([1e4, -1e4, 40.0], requires_grad=True)
    loss = F.binary_focal_loss(logits, torch.tensor([1, 0, 1]), gamma=0.3, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[:2].any() and -1e-17 < float(gradient[2]) <= 0.0


@given(
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.lists(st.floats(-1e4, 1e4, width=16), min_size=1, max_size=8),
    st.floats(0.0, 5.0),
)
def test_any_logit(dtype: torch.dtype, values: list[float], gamma: float) -> None:
    """Between 0 and the cross-entropy, with a finite gradient, whatever the logit."""
    logits = torch.tensor(values, dtype=dtype, requires_grad=True)
    target = torch.arange(len(values)) % 2
    loss = F.binary_focal_loss(logits, target, gamma=gamma, reduction="none")
    entropy: Tensor = F.binary_cross_entropy(logits, target, reduction="none")
    assert bool(((loss >= 0) & (loss <= entropy)).all())
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.isfinite().all()


def test_hyper_parameters_out_of_range() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"gamma": -1.0}, r"gamma must be in \[0, "),
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\]"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=f"binary_focal_loss: {message}"):
            F.binary_focal_loss(torch.zeros(1), torch.zeros(1), **options)
        with pytest.raises(ValueError, match=f"BinaryFocalLoss: {message}"):
            BinaryFocalLoss(**options)
