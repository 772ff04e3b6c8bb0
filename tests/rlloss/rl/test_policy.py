"""Policy losses against loops over actions, and against the gradients that they stand for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import rlloss
import rlloss.functional as F
from tests.conftest import assert_close


def double(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


log_probs = st.floats(-8, 0)
advantages = st.floats(-5, 5)


# Policy gradient


@given(steps=st.lists(st.tuples(log_probs, advantages), min_size=1, max_size=6))
def test_policy_gradient_loss(steps: list[tuple[float, float]]) -> None:
    log_prob, advantage = double([step[0] for step in steps]).requires_grad_(), double([step[1] for step in steps])
    loss = F.policy_gradient_loss(log_prob, advantage)
    assert loss.item() == pytest.approx(-sum(lp * a for lp, a in steps) / len(steps))
    assert_close(torch.autograd.grad(loss, log_prob)[0], -advantage / len(steps))


def test_policy_gradient_on_logits_is_the_score_function_estimate() -> None:
    """-A (one_hot(action) - pi), the gradient of REINFORCE for a softmax policy."""
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    action, advantage = torch.tensor([0, 3, 1, 1, 2]), torch.randn(5, dtype=torch.float64)
    log_prob = logits.log_softmax(-1)[torch.arange(5), action]
    loss = F.policy_gradient_loss(log_prob, advantage, reduction="sum")
    score = torch.eye(4, dtype=torch.float64)[action] - logits.detach().softmax(-1)
    assert_close(torch.autograd.grad(loss, logits)[0], -advantage[:, None] * score)


def test_policy_gradient_raises_what_was_better_than_expected() -> None:
    logits = torch.zeros(1, 2, requires_grad=True)
    loss = F.policy_gradient_loss(logits.log_softmax(-1)[:, 0], torch.tensor([2.0]))
    gradient = torch.autograd.grad(loss, logits)[0][0]
    assert gradient[0] < 0 < gradient[1]  # descending raises action 0


def test_policy_gradient_is_a_weighted_cross_entropy() -> None:
    logits, action, advantage = torch.randn(6, 3), torch.randint(3, (6,)), torch.randn(6)
    log_prob = logits.log_softmax(-1)[torch.arange(6), action]
    assert_close(F.policy_gradient_loss(log_prob, advantage), F.cross_entropy(logits, action, weight=advantage))


# Clipped surrogate


def surrogate(log_prob: float, old_log_prob: float, advantage: float, clip: float) -> float:
    ratio = math.exp(log_prob - old_log_prob)
    clipped = min(max(ratio, 1 - clip), 1 + clip)
    return -min(ratio * advantage, clipped * advantage)


@given(
    steps=st.lists(st.tuples(log_probs, log_probs, advantages), min_size=1, max_size=6),
    clip=st.sampled_from([0.1, 0.2, 1.0, 3.0]),
)
def test_clipped_surrogate_loss(steps: list[tuple[float, float, float]], clip: float) -> None:
    tensors = [double([step[column] for step in steps]) for column in range(3)]
    wanted = [surrogate(*step, clip) for step in steps]
    assert_close(F.clipped_surrogate_loss(*tensors, clip=clip, reduction="none"), double(wanted))
    assert F.clipped_surrogate_loss(*tensors, clip=clip).item() == pytest.approx(sum(wanted) / len(wanted))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "moves"),
    [
        (1.5, 2.0, -2.4, False),  # already raised enough
        (1.1, 2.0, -2.2, True),
        (0.9, 2.0, -1.8, True),
        (0.5, 2.0, -1.0, True),  # lowered though it was good: still pulled back
        (1.5, -2.0, 3.0, True),  # raised though it was bad: still pulled back
        (1.1, -2.0, 2.2, True),
        (0.9, -2.0, 1.8, True),
        (0.5, -2.0, 1.6, False),  # already lowered enough
    ],
)
def test_clipped_surrogate_worked_numbers(ratio: float, advantage: float, loss: float, moves: bool) -> None:
    log_prob = double([math.log(ratio)]).requires_grad_()
    value = F.clipped_surrogate_loss(log_prob, double([0.0]), double([advantage]))
    assert value.item() == pytest.approx(loss)
    (gradient,) = torch.autograd.grad(value, log_prob)
    assert gradient.item() == pytest.approx(-ratio * advantage if moves else 0.0)


def test_clipped_surrogate_starts_as_policy_gradient() -> None:
    """Before the first update the ratio is 1: the value is -A, the gradient that of the policy gradient."""
    log_prob = torch.randn(8, dtype=torch.float64, requires_grad=True)
    advantage = torch.randn(8, dtype=torch.float64)
    loss = F.clipped_surrogate_loss(log_prob, log_prob.detach(), advantage)
    assert_close(loss, -advantage.mean())
    plain = F.policy_gradient_loss(log_prob, advantage)
    assert_close(torch.autograd.grad(loss, log_prob)[0], torch.autograd.grad(plain, log_prob)[0])


def test_a_ratio_that_overflows_does_not_poison_the_gradient() -> None:
    """exp(200) is infinite in float32; where it is clipped the loss and its gradient have limits."""
    log_prob = torch.tensor([0.0, -200.0, 0.0], requires_grad=True)
    old_log_prob, advantage = torch.tensor([-200.0, 0.0, -200.0]), torch.tensor([1.0, -1.0, 0.0])
    loss = F.clipped_surrogate_loss(log_prob, old_log_prob, advantage, reduction="none")
    assert_close(loss, torch.tensor([-1.2, 0.8, 0.0]))
    assert torch.autograd.grad(loss.sum(), log_prob)[0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("clip", [0.0, -0.2, math.inf])
def test_clip_out_of_range(clip: float) -> None:
    one = torch.zeros(1)
    with pytest.raises(ValueError, match=r"^clipped_surrogate_loss: clip must be in \(0, inf\)"):
        F.clipped_surrogate_loss(one, one, one, clip=clip)
    with pytest.raises(ValueError, match=r"^ClippedSurrogateLoss: clip must be in \(0, inf\)"):
        rlloss.ClippedSurrogateLoss(clip=clip)


# Entropy


@given(rows=st.lists(st.lists(st.floats(-20, 20), min_size=3, max_size=3), min_size=1, max_size=4))
def test_entropy_loss_is_minus_the_entropy(rows: list[list[float]]) -> None:
    p = np.exp(np.array(rows)) / np.exp(np.array(rows)).sum(1, keepdims=True)
    loss = F.entropy_loss(double(rows), reduction="none")
    torch.testing.assert_close(loss, double(-scipy.stats.entropy(p, axis=1)), rtol=1e-9, atol=1e-9)


def test_entropy_of_the_uniform_and_of_the_certain_policy() -> None:
    assert F.entropy_loss(torch.zeros(2, 5)).item() == pytest.approx(-math.log(5))
    certain = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = F.entropy_loss(certain)
    assert loss == 0
    assert not torch.autograd.grad(loss, certain)[0].any()


def test_impossible_actions_count_nothing() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64)
    expected = F.entropy_loss(logits)
    masked = torch.cat([logits, torch.full((4, 2), -math.inf, dtype=torch.float64)], -1).requires_grad_()
    loss = F.entropy_loss(masked)
    assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, masked)
    assert gradient.isfinite().all() and gradient[:, :3].all() and not gradient[:, 3:].any()


def test_entropy_of_no_actions() -> None:
    with pytest.raises(ValueError, match=r"^entropy_loss: logits must have shape \(\.\.\., A\), got \(\)$"):
        F.entropy_loss(torch.tensor(0.0))


def test_entropy_loss_is_added() -> None:
    """A step down its gradient makes the policy more random."""
    logits = torch.tensor([[1.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(F.entropy_loss(logits), logits)
    assert F.entropy_loss(logits - 0.1 * gradient) < F.entropy_loss(logits)
    assert gradient[0, 0] > 0 > gradient[0, 1]


# The classes


CRITERIA = [
    (rlloss.CrossEntropyLoss(), F.cross_entropy, {}),
    (rlloss.FocalLoss(gamma=1.5), F.focal_loss, {"gamma": 1.5}),
    (rlloss.PolyLoss(epsilon=2.0), F.poly_loss, {"epsilon": 2.0}),
]


@pytest.mark.parametrize(("criterion", "function", "options"), CRITERIA, ids=["cross entropy", "focal", "poly"])
def test_policy_gradient_is_the_criterion_that_the_advantage_weighs(
    criterion: rlloss.ClassificationLoss, function: Any, options: dict[str, float]
) -> None:
    """On logits: value and gradient are those of the supervised loss with the advantage for its weight."""
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    action, advantage = torch.randint(3, (6,)), torch.randn(6, dtype=torch.float64)
    log_prob = logits.log_softmax(-1)[torch.arange(6), action]
    loss = rlloss.PolicyGradientLoss(criterion)(log_prob, None, advantage)
    expected = function(logits, action, **options, weight=advantage)
    assert_close(loss, expected)
    assert_close(torch.autograd.grad(loss, logits)[0], torch.autograd.grad(expected, logits)[0])


def test_the_reduction_of_the_criterion_is_not_used() -> None:
    tensors = (torch.tensor([-1.0, -2.0]), None, torch.tensor([3.0, -1.0]))
    for reduction, wanted in [("mean", 0.5), ("sum", 1.0)]:
        loss = rlloss.PolicyGradientLoss(rlloss.CrossEntropyLoss(reduction="none"), reduction=reduction)  # type: ignore[arg-type]
        assert loss(*tensors) == wanted


def test_what_can_be_a_criterion() -> None:
    for wrong in (rlloss.MSELoss(), torch.nn.CrossEntropyLoss(), F.cross_entropy):
        with pytest.raises(TypeError, match=r"^PolicyGradientLoss: criterion must be a ClassificationLoss, got "):
            rlloss.PolicyGradientLoss(wrong)  # type: ignore[arg-type]
    for smooth in (rlloss.CrossEntropyLoss(label_smoothing=0.1), rlloss.FocalLoss(alpha=[1.0, 2.0])):
        with pytest.raises(ValueError, match="which a policy-gradient loss needs"):
            rlloss.PolicyGradientLoss(smooth)


def test_who_needs_the_old_log_prob() -> None:
    one = torch.zeros(2)
    assert not rlloss.PolicyGradientLoss().needs_old_log_prob
    assert rlloss.ClippedSurrogateLoss().needs_old_log_prob
    with pytest.raises(ValueError, match=r"^ClippedSurrogateLoss: old_log_prob must be given$"):
        rlloss.ClippedSurrogateLoss()(one, None, one)
    for loss in (rlloss.PolicyGradientLoss(), rlloss.ClippedSurrogateLoss()):
        assert isinstance(loss, rlloss.PolicyLoss)
