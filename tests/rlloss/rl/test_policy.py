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


def surrogate(log_prob: float, old_log_prob: float, advantage: float, clip: float, dual_clip: float | None) -> float:
    ratio = math.exp(log_prob - old_log_prob)
    clipped = min(max(ratio, 1 - clip), 1 + clip)
    objective = min(ratio * advantage, clipped * advantage)
    return -max(objective, dual_clip * advantage) if dual_clip is not None and advantage < 0 else -objective


@given(
    steps=st.lists(st.tuples(log_probs, log_probs, advantages), min_size=1, max_size=6),
    clip=st.sampled_from([0.1, 0.2, 1.0, 3.0]),
    dual_clip=st.sampled_from([None, 1.1, 3.0]),
)
def test_clipped_surrogate_loss(steps: list[tuple[float, float, float]], clip: float, dual_clip: float | None) -> None:
    tensors = [double([step[column] for step in steps]) for column in range(3)]
    wanted = [surrogate(*step, clip, dual_clip) for step in steps]
    loss = F.clipped_surrogate_loss(*tensors, clip=clip, dual_clip=dual_clip, reduction="none")
    assert_close(loss, double(wanted))
    mean = F.clipped_surrogate_loss(*tensors, clip=clip, dual_clip=dual_clip)
    assert mean.item() == pytest.approx(sum(wanted) / len(wanted))


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


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "moves"),
    [
        (4.0, -2.0, 6.0, False),  # beyond the bound
        (2.9, -2.0, 5.8, True),
        (0.5, -2.0, 1.6, False),  # the other clip is as it was
        (4.0, 2.0, -2.4, False),
    ],
)
def test_dual_clip_worked_numbers(ratio: float, advantage: float, loss: float, moves: bool) -> None:
    log_prob = double([math.log(ratio)]).requires_grad_()
    value = F.clipped_surrogate_loss(log_prob, double([0.0]), double([advantage]), dual_clip=3.0)
    assert value.item() == pytest.approx(loss)
    (gradient,) = torch.autograd.grad(value, log_prob)
    assert gradient.item() == pytest.approx(-ratio * advantage if moves else 0.0)


def test_dual_clip_bounds_a_ratio_that_overflows() -> None:
    log_prob = torch.tensor([0.0], requires_grad=True)
    loss = F.clipped_surrogate_loss(log_prob, torch.tensor([-200.0]), torch.tensor([-2.0]), dual_clip=3.0)
    assert loss.item() == pytest.approx(6.0)
    assert torch.autograd.grad(loss, log_prob)[0].item() == 0.0


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


@pytest.mark.parametrize("dual_clip", [1.0, 0.5, math.inf])
def test_dual_clip_out_of_range(dual_clip: float) -> None:
    one = torch.zeros(1)
    with pytest.raises(ValueError, match=r"^clipped_surrogate_loss: dual_clip must be in \(1, inf\)"):
        F.clipped_surrogate_loss(one, one, one, dual_clip=dual_clip)
    with pytest.raises(ValueError, match=r"^ClippedSurrogateLoss: dual_clip must be in \(1, inf\)"):
        rlloss.ClippedSurrogateLoss(dual_clip=dual_clip)


# Advantage-weighted regression


@given(
    steps=st.lists(st.tuples(log_probs, advantages), min_size=1, max_size=6),
    temperature=st.sampled_from([0.05, 1.0, 3.0]),
    max_weight=st.sampled_from([0.5, 20.0]),
)
def test_advantage_weighted_regression_loss(
    steps: list[tuple[float, float]], temperature: float, max_weight: float
) -> None:
    log_prob, advantage = double([step[0] for step in steps]).requires_grad_(), double([step[1] for step in steps])
    weights = [min(math.exp(a / temperature), max_weight) for _, a in steps]
    options: Any = {"temperature": temperature, "max_weight": max_weight}
    loss = F.advantage_weighted_regression_loss(log_prob, advantage, **options, reduction="none")
    assert_close(loss, double([-w * lp for w, (lp, _) in zip(weights, steps, strict=True)]))
    assert_close(torch.autograd.grad(loss.sum(), log_prob)[0], -double(weights))


def test_advantage_weighted_regression_worked_numbers() -> None:
    """e^(1 / 0.5) = 7.39; 4 / 0.5 is beyond log 20; a bad action is imitated still, a little."""
    log_prob, advantage = double([-2.0, -2.0, -2.0]), double([1.0, 4.0, -1.0])
    loss = F.advantage_weighted_regression_loss(log_prob, advantage, temperature=0.5, reduction="none")
    torch.testing.assert_close(loss, double([14.7781122, 40.0, 0.2706706]))


def test_advantage_weighted_regression_does_not_overflow() -> None:
    log_prob = torch.tensor([-1.0, -1.0], requires_grad=True)
    loss = F.advantage_weighted_regression_loss(log_prob, torch.tensor([1e30, -1e30]), temperature=1e-10)
    assert loss.item() == pytest.approx(10.0)
    assert torch.autograd.grad(loss, log_prob)[0].tolist() == pytest.approx([-10.0, 0.0])


@pytest.mark.parametrize("name", ["temperature", "max_weight"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf])
def test_advantage_weighted_regression_out_of_range(name: str, value: float) -> None:
    one, options = torch.zeros(1), dict[str, Any]({name: value})
    with pytest.raises(ValueError, match=rf"^advantage_weighted_regression_loss: {name} must be in \(0, inf\)"):
        F.advantage_weighted_regression_loss(one, one, **options)
    with pytest.raises(ValueError, match=rf"^AdvantageWeightedRegressionLoss: {name} must be in \(0, inf\)"):
        rlloss.AdvantageWeightedRegressionLoss(**options)


def test_numbers_that_change_compile() -> None:
    """From the second value on, torch.compile sees a symbol in a float's place."""
    log_prob, old_log_prob, advantage = torch.randn(3, 5)
    surrogate_loss = torch.compile(F.clipped_surrogate_loss, fullgraph=True, backend="eager")
    regression_loss = torch.compile(F.advantage_weighted_regression_loss, fullgraph=True, backend="eager")
    for number in (0.1, 0.2, 0.3):
        options: Any = {"clip": number, "dual_clip": 1.0 + number}
        expected = F.clipped_surrogate_loss(log_prob, old_log_prob, advantage, **options)
        assert_close(surrogate_loss(log_prob, old_log_prob, advantage, **options), expected)
        options = {"temperature": number, "max_weight": 10 * number}
        expected = F.advantage_weighted_regression_loss(log_prob, advantage, **options)
        assert_close(regression_loss(log_prob, advantage, **options), expected)


# All actions


action_values = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=5)


def softmax(logits: list[float]) -> list[float]:
    total = sum(math.exp(logit) for logit in logits)
    return [math.exp(logit) / total for logit in logits]


@given(actions=action_values)
def test_losses_of_all_actions(actions: list[tuple[float, float]]) -> None:
    logits, q = [action[0] for action in actions], [action[1] for action in actions]
    value = sum(p * x for p, x in zip(softmax(logits), q, strict=True))
    assert F.all_action_policy_gradient_loss(double(logits), double(q)).item() == pytest.approx(-value)
    regret = sum(max(0.0, x - value) for x in q)
    assert F.regret_policy_gradient_loss(double(logits), double(q)).item() == pytest.approx(regret, abs=1e-12)


def test_all_action_policy_gradient_is_the_mean_over_actions() -> None:
    """Its gradient is the mean of the sampled one's, with any baseline."""
    logits, q = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True), torch.randn(2, 3, 4, dtype=torch.float64)
    loss = F.all_action_policy_gradient_loss(logits, q, reduction="sum")
    wanted = torch.zeros(2, 3, 4, dtype=torch.float64)
    for action in range(4):
        log_prob = logits.log_softmax(-1)[..., action]
        advantage = q[..., action] - 7.0
        sampled = F.policy_gradient_loss(log_prob, advantage, weight=log_prob.exp(), reduction="sum")
        wanted += torch.autograd.grad(sampled, logits)[0]
    assert_close(torch.autograd.grad(loss, logits)[0], wanted)


def test_regret_policy_gradient_counts_the_better_actions() -> None:
    logits = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    q = double([[3.0, 2.0, -2.0], [3.0, -1.0, -2.0]])  # the policy's value is 1 and 0
    loss = F.regret_policy_gradient_loss(logits, q, reduction="none")
    assert loss.tolist() == pytest.approx([2.0 + 1.0, 3.0])
    plain = torch.autograd.grad(F.all_action_policy_gradient_loss(logits, q, reduction="sum"), logits)[0]
    assert_close(torch.autograd.grad(loss.sum(), logits)[0], plain * double([[2.0], [1.0]]))


@pytest.mark.parametrize("name", ["all_action_policy_gradient_loss", "regret_policy_gradient_loss"])
@pytest.mark.parametrize("value", [100.0, math.nan, math.inf, -math.inf])
def test_values_of_impossible_actions_are_not_read(name: str, value: float) -> None:
    function = getattr(F, name)
    logits, q = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.randn(4, 3, dtype=torch.float64)
    impossible = torch.full((4, 2), -math.inf, dtype=torch.float64)
    masked = torch.cat([logits.detach(), impossible], -1).requires_grad_()
    loss = function(masked, torch.cat([q, torch.full_like(impossible, value)], -1))
    expected = function(logits, q)
    assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, masked)
    assert_close(gradient[:, :3], torch.autograd.grad(expected, logits)[0])
    assert not gradient[:, 3:].any()


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


# Divergence from an old policy


@given(rows=st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=1, max_size=5))
def test_policy_kl_loss(rows: list[tuple[float, float]]) -> None:
    new, old = softmax([row[0] for row in rows]), softmax([row[1] for row in rows])
    logits, old_logits = double([row[0] for row in rows]), double([row[1] for row in rows])
    forward, reverse = scipy.stats.entropy(old, new), scipy.stats.entropy(new, old)
    assert F.policy_kl_loss(logits, old_logits).item() == pytest.approx(forward, abs=1e-9)
    assert F.policy_kl_loss(logits, old_logits, reverse=True).item() == pytest.approx(reverse, abs=1e-9)


@pytest.mark.parametrize("prefix", [(), (5,), (2, 5), (2, 3, 5)])
def test_policy_kl_loss_has_the_actions_last(prefix: tuple[int, ...]) -> None:
    logits = torch.randn(*prefix, 4, dtype=torch.float64, requires_grad=True)
    old_logits = torch.randn(*prefix, 4, dtype=torch.float64)
    new, old = (torch.distributions.Categorical(logits=x) for x in (logits, old_logits))
    for reverse, pair in [(False, (old, new)), (True, (new, old))]:
        loss = F.policy_kl_loss(logits, old_logits, reverse=reverse, reduction="none")
        expected = torch.distributions.kl_divergence(*pair)
        assert_close(loss, expected)
        actual, wanted = (torch.autograd.grad(x.sum(), logits, retain_graph=True)[0] for x in (loss, expected))
        assert_close(actual, wanted)


def test_policy_kl_loss_of_impossible_actions() -> None:
    """Impossible for both, they count nothing; for one alone, much but not infinitely much."""
    logits, old_logits = torch.randn(4, 3), torch.randn(4, 3)
    impossible = torch.full((4, 2), -math.inf)
    masked = torch.cat([logits, impossible], -1).requires_grad_()
    for reverse in (False, True):
        loss = F.policy_kl_loss(masked, torch.cat([old_logits, impossible], -1), reverse=reverse)
        assert_close(loss, F.policy_kl_loss(logits, old_logits, reverse=reverse))
        (gradient,) = torch.autograd.grad(loss, masked)
        assert gradient.isfinite().all() and gradient[:, :3].all() and not gradient[:, 3:].any()
    one_sided = F.policy_kl_loss(masked, torch.zeros(4, 5))
    assert one_sided.item() > 10 and one_sided.isfinite()
    assert torch.autograd.grad(one_sided, masked)[0].isfinite().all()


@given(steps=st.lists(st.tuples(log_probs, log_probs), min_size=1, max_size=6))
def test_policy_kl_penalty(steps: list[tuple[float, float]]) -> None:
    log_prob, old_log_prob = double([step[0] for step in steps]), double([step[1] for step in steps])
    for drawn_from, sign in [("new", 1.0), ("old", -1.0)]:
        ratios = [sign * (old - new) for new, old in steps]
        loss = F.policy_kl_penalty(log_prob, old_log_prob, drawn_from=drawn_from, reduction="none")  # type: ignore[arg-type]
        torch.testing.assert_close(loss, double([math.exp(r) - 1 - r for r in ratios]), rtol=1e-9, atol=1e-12)
        assert (loss >= 0).all()


@pytest.mark.parametrize("drawn_from", ["new", "old"])
def test_policy_kl_penalty_is_unbiased(drawn_from: Any) -> None:
    """Its mean over all actions of the policy that drew them, which is a constant to the gradient."""
    logits = torch.randn(6, dtype=torch.float64, requires_grad=True)
    old_logits = torch.randn(6, dtype=torch.float64)
    log_prob, old_log_prob = logits.log_softmax(-1), old_logits.log_softmax(-1)
    actor = {"new": log_prob, "old": old_log_prob}[drawn_from].exp()
    mean = F.policy_kl_penalty(log_prob, old_log_prob, drawn_from=drawn_from, weight=actor, reduction="sum")
    assert_close(mean, F.policy_kl_loss(logits, old_logits, reverse=drawn_from == "new"))
    (wanted,) = torch.autograd.grad(F.policy_kl_loss(logits, old_logits), logits)
    assert_close(torch.autograd.grad(mean, logits)[0], wanted)


def test_policy_kl_penalty_near_the_old_policy() -> None:
    """r^2 / 2: exp(r) - 1 would round most of it away in float32."""
    log_prob, old_log_prob = torch.tensor([1e-3, -1e-3]), torch.zeros(2)
    loss = F.policy_kl_penalty(log_prob, old_log_prob, reduction="none")
    torch.testing.assert_close(loss, torch.tensor([4.998334e-7, 5.001667e-7]), rtol=5e-4, atol=0.0)


def test_policy_kl_penalty_of_nobodys_actions() -> None:
    one, nobody = torch.zeros(1), dict[str, Any](drawn_from="both")
    with pytest.raises(ValueError, match=r"^policy_kl_penalty: drawn_from must be one of new, old, got 'both'$"):
        F.policy_kl_penalty(one, one, **nobody)
    with pytest.raises(ValueError, match=r"^PolicyKLPenaltyLoss: drawn_from must be one of new, old, got 'both'$"):
        rlloss.PolicyKLPenaltyLoss(**nobody)


# Densities of continuous actions


gaussians = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.floats(-2, 2)), min_size=1, max_size=4)


@given(dimensions=gaussians)
def test_gaussian_densities(dimensions: list[tuple[float, float, float]]) -> None:
    action, mean, log_std = (double([dimension[column] for dimension in dimensions]) for column in range(3))
    plain = sum(scipy.stats.norm.logpdf(u, m, math.exp(s)) for u, m, s in dimensions)
    assert F.gaussian_log_prob(action, mean, log_std).item() == pytest.approx(plain, abs=1e-9)
    slope = sum(math.log(1 - math.tanh(u) ** 2) for u, _, _ in dimensions)
    assert F.squashed_gaussian_log_prob(action, mean, log_std).item() == pytest.approx(plain - slope, abs=1e-9)
    entropy = sum(scipy.stats.norm.entropy(scale=math.exp(s)) for _, _, s in dimensions)
    assert F.gaussian_entropy(log_std).item() == pytest.approx(entropy, abs=1e-9)


@pytest.mark.parametrize("shared", [False, True])
def test_gaussian_densities_equal_torch(shared: bool) -> None:
    """Also with one standard deviation for the whole batch; values and gradients."""
    tensors = [torch.randn(5, 3, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    tensors.append(torch.randn(*([] if shared else [5, 3]), 2, dtype=torch.float64, requires_grad=True))
    action, mean, log_std = tensors
    normal: Any = torch.distributions.Normal(mean, log_std.exp())
    tanh: Any = torch.distributions.TanhTransform()
    squashed = normal.log_prob(action) - tanh.log_abs_det_jacobian(action, action.tanh())
    for actual, expected in [
        (F.gaussian_log_prob(action, mean, log_std), normal.log_prob(action).sum(-1)),
        (F.squashed_gaussian_log_prob(action, mean, log_std), squashed.sum(-1)),
    ]:
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)  # torch's softplus is exact to 2e-9
        gradients = [torch.autograd.grad(x.sum(), tensors, retain_graph=True) for x in (actual, expected)]
        torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


def test_squashed_gaussian_is_a_density() -> None:
    """It integrates to 1 over (-1, 1)."""
    u = torch.linspace(-12.0, 12.0, 200_001, dtype=torch.float64).unsqueeze(-1)
    density = F.squashed_gaussian_log_prob(u, torch.full_like(u, 0.3), double([-0.5])).exp()
    assert torch.trapezoid(density, u.tanh().squeeze(-1)).item() == pytest.approx(1.0, abs=1e-6)


def test_squashed_gaussian_far_out() -> None:
    """log(1 - tanh(u)^2) tends to log 4 - 2 |u|, long after tanh has become 1."""
    u = torch.tensor([[1e4], [-1e4], [20.0], [0.0]], requires_grad=True)
    log_prob = F.squashed_gaussian_log_prob(u, u.detach(), torch.zeros(1))
    peak = -0.5 * math.log(2 * math.pi)
    wanted = [2e4 - math.log(4) + peak, 2e4 - math.log(4) + peak, 40.0 - math.log(4) + peak, peak]
    assert log_prob.tolist() == pytest.approx(wanted, rel=1e-6)
    assert torch.autograd.grad(log_prob.sum(), u)[0].flatten().tolist() == pytest.approx([2.0, -2.0, 2.0, 0.0])


@pytest.mark.parametrize("name", ["gaussian_log_prob", "squashed_gaussian_log_prob"])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 1), (1, 2), (5, 3), (2, 5)])
def test_standard_deviations_do_not_broadcast(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: .*log_std"):
        getattr(F, name)(torch.zeros(5, 2), torch.zeros(5, 2), torch.zeros(shape))


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
    for loss in (
        rlloss.PolicyGradientLoss(), rlloss.ClippedSurrogateLoss(), rlloss.AdvantageWeightedRegressionLoss(),
    ):  # fmt: skip
        assert isinstance(loss, rlloss.PolicyLoss)


@pytest.mark.parametrize(
    ("loss", "presumes"),
    [
        (rlloss.PolicyGradientLoss(), False),
        (rlloss.PolicyGradientLoss(rlloss.CrossEntropyLoss()), False),
        (rlloss.PolicyGradientLoss(rlloss.FocalLoss()), True),
        (rlloss.PolicyGradientLoss(rlloss.PolyLoss()), True),
        (rlloss.ClippedSurrogateLoss(), False),
        (rlloss.AdvantageWeightedRegressionLoss(), False),
    ],
    ids=lambda value: str(value).replace("\n", ""),
)
def test_who_presumes_probabilities(loss: rlloss.PolicyLoss, presumes: bool) -> None:
    assert loss.presumes_probabilities is presumes


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_clipped_surrogate_with_a_penalty(reduction: Any) -> None:
    """The sum of the two losses, which the weight and the mask work on alike."""
    log_prob, old_log_prob, advantage, weight = torch.randn(4, 6, dtype=torch.float64)
    log_prob.requires_grad_()
    options: Any = {"weight": weight, "mask": weight > -0.5, "reduction": reduction}
    surrogate_loss = F.clipped_surrogate_loss(log_prob, old_log_prob, advantage, **options)
    penalty = F.policy_kl_penalty(log_prob, old_log_prob, drawn_from="old", **options)
    loss = rlloss.ClippedSurrogateLoss(kl_coefficient=0.3, reduction=reduction)
    actual = loss(log_prob, old_log_prob, advantage, weight=weight, mask=weight > -0.5)
    assert_close(actual, surrogate_loss + 0.3 * penalty)
    assert penalty.any()


@pytest.mark.parametrize("coefficient", [-0.1, math.inf])
def test_kl_coefficient_out_of_range(coefficient: float) -> None:
    with pytest.raises(ValueError, match=r"^ClippedSurrogateLoss: kl_coefficient must be in \[0, inf\)"):
        rlloss.ClippedSurrogateLoss(kl_coefficient=coefficient)
