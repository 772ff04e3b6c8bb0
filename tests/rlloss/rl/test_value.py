"""Bellman targets and value losses against loops over transitions."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import rlloss
import rlloss.functional as F
from tests.conftest import assert_close

A = 3
values = st.floats(-10, 10)
row = st.lists(values, min_size=A, max_size=A)
# outputs, action, reward, discount, next outputs, selector
transitions = st.lists(
    st.tuples(row, st.integers(0, A - 1), values, st.sampled_from([0.0, 0.9, 1.0]), row, row), min_size=1, max_size=5
)
Transitions = list[tuple[list[float], int, float, float, list[float], list[float]]]


def double(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def columns(batch: Transitions) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    q, action, reward, discount, next_q, selector = ([step[column] for step in batch] for column in range(6))
    return double(q), torch.tensor(action), double(reward), double(discount), double(next_q), double(selector)


def first_best(q: list[float]) -> int:
    return max(range(len(q)), key=lambda action: (q[action], -action))


def q_target(reward: float, discount: float, next_q: list[float], chooser: list[float]) -> float:
    return reward + discount * next_q[first_best(chooser)]


# Targets


@given(batch=transitions)
def test_q_learning_target(batch: Transitions) -> None:
    _, _, reward, discount, next_q, selector = columns(batch)
    plain = [q_target(r, d, after, after) for _, _, r, d, after, _ in batch]
    assert_close(F.q_learning_target(reward, discount, next_q), double(plain))
    doubled = [q_target(r, d, after, chooser) for _, _, r, d, after, chooser in batch]
    assert_close(F.q_learning_target(reward, discount, next_q, selector_q=selector), double(doubled))
    assert_close(F.q_learning_target(reward, discount, next_q, selector_q=next_q), double(plain))


def test_double_q_lets_one_choose_and_the_other_value() -> None:
    """The selector likes action 2, the evaluator likes action 0: neither's maximum is the target."""
    next_q, selector = torch.tensor([[9.0, 5.0, 4.0]]), torch.tensor([[1.0, 2.0, 7.0]])
    target = F.q_learning_target(torch.tensor([1.0]), torch.tensor([0.5]), next_q, selector_q=selector)
    assert target.tolist() == [1.0 + 0.5 * 4.0]


def test_a_termination_does_not_bootstrap() -> None:
    target = F.q_learning_target(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([[100.0, 200.0]]))
    assert target.tolist() == [1.0]


def test_targets_have_any_batch_shape() -> None:
    reward, discount, next_q, selector = torch.randn(4, 2), torch.rand(4, 2), torch.randn(4, 2, A), torch.randn(4, 2, A)
    whole = F.q_learning_target(reward, discount, next_q, selector_q=selector)
    rows = F.q_learning_target(
        reward.flatten(), discount.flatten(), next_q.flatten(0, 1), selector_q=selector.flatten(0, 1)
    )
    assert_close(whole, rows.reshape(4, 2))
    assert F.q_learning_target(reward[0, 0], discount[0, 0], next_q[0, 0]).shape == ()


def test_targets_are_differentiable_but_not_through_the_choice() -> None:
    next_q, selector = torch.randn(2, A, requires_grad=True), torch.randn(2, A, requires_grad=True)
    target = F.q_learning_target(torch.zeros(2), torch.full((2,), 0.9), next_q, selector_q=selector)
    to_value, to_choice = torch.autograd.grad(target.sum(), (next_q, selector), allow_unused=True)
    assert to_value.sum().item() == pytest.approx(1.8)
    assert to_choice is None


def test_target_errors() -> None:
    one = torch.ones(2)
    with pytest.raises(ValueError, match=r"^q_learning_target: reward must have shape \(2,\) .*, got \(3,\)$"):
        F.q_learning_target(torch.ones(3), torch.ones(3), torch.ones(2, A))
    wanted = (
        r"^q_learning_target: next_q and selector_q must have the same shape, got next_q \(2, 3\), selector_q \(2, 4\)$"
    )
    with pytest.raises(ValueError, match=wanted):
        F.q_learning_target(one, one, torch.ones(2, A), selector_q=torch.ones(2, A + 1))
    with pytest.raises(ValueError, match=r"^q_learning_target: next_q must have shape \(\.\.\., A\), got \(\)$"):
        F.q_learning_target(one[0], one[0], one[0])


# q_value_loss


@given(batch=transitions)
def test_q_value_loss(batch: Transitions) -> None:
    """(Q(s, a) - target)^2, without a factor 1/2; the gradient is twice the error at the action taken."""
    q, action, target, *_ = columns(batch)
    q.requires_grad_()
    wanted = [(step[0][step[1]] - step[2]) ** 2 for step in batch]
    assert_close(F.q_value_loss(q, action, target, reduction="none"), double(wanted))
    loss = F.q_value_loss(q, action, target)
    assert_close(loss, double(sum(wanted) / len(wanted)))
    slopes = [[2 * (step[0][a] - step[2]) / len(batch) if a == step[1] else 0.0 for a in range(A)] for step in batch]
    assert_close(torch.autograd.grad(loss, q)[0], double(slopes))


CRITERIA = [F.mae_loss, F.mse_loss, F.huber_loss, F.smooth_l1_loss, F.log_cosh_loss, F.quantile_loss, F.expectile_loss]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_q_value_loss_takes_any_criterion(criterion: Any) -> None:
    q, action, target = torch.randn(6, A), torch.randint(A, (6,)), torch.randn(6)
    weight, mask = torch.rand(6), torch.tensor([True, False, True, True, False, True])
    chosen = torch.stack([q[i, a] for i, a in enumerate(action.tolist())])
    for reduction in ("none", "mean", "sum"):
        options: dict[str, Any] = {"weight": weight, "mask": mask, "reduction": reduction}
        assert_close(
            F.q_value_loss(q, action, target, criterion=criterion, **options), criterion(chosen, target, **options)
        )


def test_a_criterion_of_ones_own_cannot_let_a_gradient_reach_the_target() -> None:
    q, target = torch.randn(2, A, requires_grad=True), torch.randn(2, requires_grad=True)

    def fourth_power(input: Tensor, target: Tensor, **_: Any) -> Tensor:
        return (input - target).pow(4).mean()

    loss = F.q_value_loss(q, torch.tensor([0, 2]), target, criterion=fourth_power)
    to_q, to_target = torch.autograd.grad(loss, (q, target), allow_unused=True)
    assert to_q.any() and to_target is None


@pytest.mark.parametrize("padding", [-1, -100, A, 10**9])
def test_masked_out_actions_may_be_any_number(padding: int) -> None:
    q, action, mask = torch.randn(2, A), torch.tensor([1, padding]), torch.tensor([True, False])
    loss = F.q_value_loss(q, action, torch.zeros(2), mask=mask)
    assert_close(loss, q[0, 1].square())
    only = F.q_value_loss(q[:, :1], action - 1, torch.zeros(2), mask=mask)
    assert_close(only, q[0, 0].square())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_actions_of_any_integer_dtype(dtype: torch.dtype) -> None:
    q, action = torch.randn(2, A), torch.tensor([2, 0])
    assert_close(F.q_value_loss(q, action.to(dtype), torch.zeros(2)), F.q_value_loss(q, action, torch.zeros(2)))


def test_q_value_loss_errors() -> None:
    q, action, target = torch.randn(2, A), torch.tensor([0, 1]), torch.zeros(2)
    with pytest.raises(ValueError, match=r"^q_value_loss: target must have shape \(2,\) .*, got \(2, 1\)$"):
        F.q_value_loss(q, action, target[:, None])
    with pytest.raises(ValueError, match=r"^q_value_loss: action must have shape \(2,\) .*, got \(2, 1\)$"):
        F.q_value_loss(q, action[:, None], target[:, None])
    with pytest.raises(ValueError, match=r"^q_value_loss: q must have shape \(\.\.\., A\), got \(\)$"):
        F.q_value_loss(q[0, 0], action[0], target[0])
    with pytest.raises(ValueError, match=r"^q_value_loss: action must have an integer dtype, got torch\.float32$"):
        F.q_value_loss(q, action.float(), target)


# TDLoss


def half_square_or_line(error: float) -> float:
    return error**2 / 2 if abs(error) <= 1 else abs(error) - 0.5


@given(batch=transitions, doubled=st.booleans())
def test_td_loss(batch: Transitions, doubled: bool) -> None:
    q, action, reward, discount, next_q, selector = columns(batch)
    q.requires_grad_()
    chosen = [step[0][step[1]] for step in batch]
    targets = [q_target(r, d, after, chooser if doubled else after) for _, _, r, d, after, chooser in batch]
    errors = [target - value for target, value in zip(targets, chosen, strict=True)]
    loss, td_error = rlloss.TDLoss(double=doubled)(q, action, reward, discount, next_q, selector_outputs=selector)
    assert_close(td_error, double(errors))
    assert not td_error.requires_grad
    assert_close(loss, double(sum(half_square_or_line(error) for error in errors) / len(errors)))
    slopes = [
        [-max(-1.0, min(1.0, error)) / len(batch) if a == step[1] else 0.0 for a in range(A)]
        for error, step in zip(errors, batch, strict=True)
    ]
    assert_close(torch.autograd.grad(loss, q)[0], double(slopes))


REGRESSION = [
    cls
    for cls in vars(rlloss).values()
    if isinstance(cls, type)
    and issubclass(cls, rlloss.RegressionLoss)
    and not issubclass(cls, rlloss.HistogramLoss)  # test_distributional.py has those
    and cls is not rlloss.RegressionLoss
]


@pytest.mark.parametrize("cls", REGRESSION)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_td_loss_takes_any_regression_loss(cls: type[rlloss.RegressionLoss], reduction: Any) -> None:
    """Its reduction is the loss's."""
    criterion = cls(reduction=reduction)
    outputs, next_outputs = torch.rand(6, A), torch.rand(6, A)  # positive, as some of them need
    action, reward, discount = torch.randint(A, (6,)), torch.rand(6), torch.rand(6)
    weight, mask = torch.rand(6), torch.tensor([True, False, True, True, False, True])
    target = reward + discount * criterion.value(next_outputs).max(-1).values
    chosen = torch.stack([outputs[i, a] for i, a in enumerate(action.tolist())])
    loss, td_error = rlloss.TDLoss(criterion)(outputs, action, reward, discount, next_outputs, weight=weight, mask=mask)
    assert_close(loss, criterion(chosen, target, weight=weight, mask=mask))
    assert_close(td_error, (target - criterion.value(chosen)).where(mask, 0.0))


def test_td_error_is_that_of_the_unweighted_target_and_zero_where_masked_out() -> None:
    outputs = torch.tensor([[1.0, 0.0], [math.nan, math.nan]])
    result = rlloss.TDLoss()(
        outputs,
        torch.tensor([0, -1]),
        torch.tensor([3.0, math.nan]),
        torch.tensor([0.5, math.nan]),
        torch.tensor([[2.0, 4.0], [math.nan, math.nan]]),
        weight=torch.tensor([100.0, math.nan]),
        mask=torch.tensor([True, False]),
    )
    assert result.td_error.tolist() == [4.0, 0.0]
    assert result.loss == 350.0


def test_td_loss_of_half_precision_gives_float32() -> None:
    outputs, next_outputs = torch.randn(2, A).half(), torch.randn(2, A).half()
    result = rlloss.TDLoss()(outputs, torch.tensor([0, 1]), torch.zeros(2), torch.ones(2), next_outputs)
    assert result.loss.dtype == result.td_error.dtype == torch.float32


def test_double_needs_the_selector_and_plain_ignores_it() -> None:
    arguments = (torch.randn(2, A), torch.tensor([0, 1]), torch.zeros(2), torch.ones(2), torch.randn(2, A))
    with pytest.raises(ValueError, match=r"^TDLoss: selector_outputs must be given"):
        rlloss.TDLoss(double=True)(*arguments)
    assert_close(rlloss.TDLoss()(*arguments, selector_outputs=torch.randn(2, A)).loss, rlloss.TDLoss()(*arguments).loss)


def test_td_loss_is_a_value_loss_whose_outputs_are_action_values() -> None:
    loss = rlloss.TDLoss(rlloss.MSELoss(), double=True)
    assert isinstance(loss, rlloss.ValueLoss)
    assert loss.double is True and rlloss.TDLoss().double is False
    assert loss.outputs_per_action == 1
    q = torch.randn(2, A)
    assert loss.q_values(q) is q
    assert isinstance(rlloss.TDLoss().criterion, rlloss.HuberLoss)


@pytest.mark.parametrize(
    "criterion", [rlloss.CrossEntropyLoss(), rlloss.GaussianNLLLoss(), torch.nn.MSELoss(), F.mse_loss]
)
def test_td_loss_wants_a_regression_loss(criterion: Any) -> None:
    with pytest.raises(TypeError, match=r"^TDLoss: criterion must be a RegressionLoss, got "):
        rlloss.TDLoss(criterion)


def test_outputs_of_another_number_of_actions_are_an_error() -> None:
    wanted = r"^TDLoss: outputs and next_outputs must have the same shape, got outputs \(2, 3\), next_outputs \(2, 4\)$"
    with pytest.raises(ValueError, match=wanted):
        rlloss.TDLoss()(torch.randn(2, A), torch.tensor([0, 1]), torch.zeros(2), torch.ones(2), torch.randn(2, A + 1))


# The other targets, each against its formula on one transition after the other


def softmax(q: list[float], temperature: float) -> list[float]:
    top = max(q)
    weights = [math.exp((x - top) / temperature) for x in q]
    return [weight / math.fsum(weights) for weight in weights]


def soft_maximum(q: list[float], temperature: float) -> float:
    """The mean value under the soft policy, and T times the policy's entropy."""
    p = softmax(q, temperature)
    return math.fsum(p_a * (q_a - temperature * math.log(p_a)) for p_a, q_a in zip(p, q, strict=True) if p_a > 0)


@given(batch=transitions, temperature=st.sampled_from([0.1, 1.0, 7.0]))
def test_targets_equal_their_formulas(batch: Transitions, temperature: float) -> None:
    q, action, reward, discount, next_q, _ = columns(batch)
    assert_close(F.sarsa_target(reward, discount, next_q, action), double([r + d * n[a] for _, a, r, d, n, _ in batch]))
    assert_close(F.td_target(reward, discount, next_q[:, 0]), double([r + d * n[0] for _, _, r, d, n, _ in batch]))
    probs = [softmax(o, temperature) for *_, o in batch]
    expected = [
        r + d * math.fsum(p * x for p, x in zip(weights, n, strict=True))
        for (_, _, r, d, n, _), weights in zip(batch, probs, strict=True)
    ]
    assert_close(F.expected_sarsa_target(reward, discount, next_q, double(probs)), double(expected))
    soft = [r + d * soft_maximum(n, temperature) for _, _, r, d, n, _ in batch]
    assert_close(F.soft_q_target(reward, discount, next_q, temperature=temperature), double(soft))
    bonus = [max(-1.0, temperature * math.log(max(softmax(s, temperature)[a], 1e-300))) for s, a, *_ in batch]
    assert_close(
        F.munchausen_target(reward, discount, q, action, next_q, temperature=temperature, alpha=0.7),
        double([target + 0.7 * m for target, m in zip(soft, bonus, strict=True)]),
    )
    assert_close(
        F.advantage_learning_target(reward, discount, q, action, next_q, alpha=0.3),
        double([r + d * max(n) - 0.3 * (max(s) - s[a]) for s, a, r, d, n, _ in batch]),
    )
    repeat = [r + d * (0.7 * max(n) + 0.3 * n[a]) for _, a, r, d, n, _ in batch]
    assert_close(F.persistent_target(reward, discount, action, next_q, alpha=0.3), double(repeat))
    spared = []
    for s, a, r, d, n, _ in batch:
        gap = max(s) - s[a]
        spared.append(r + d * max(n) - 0.3 * (min(gap, max(n) - n[a]) if d > 0 else gap))
    assert_close(
        F.advantage_learning_target(reward, discount, q, action, next_q, alpha=0.3, persistent=True), double(spared)
    )


def test_targets_at_their_degenerate_settings_are_q_learning() -> None:
    generator = torch.Generator().manual_seed(0)
    q, next_q = torch.randn(2, 20, A, generator=generator, dtype=torch.float64)
    reward, discount = torch.randn(2, 20, generator=generator, dtype=torch.float64)
    action = torch.randint(A, (20,), generator=generator)
    plain = F.q_learning_target(reward, discount, next_q)
    greedy = torch.nn.functional.one_hot(next_q.argmax(-1), A).double()
    assert_close(F.expected_sarsa_target(reward, discount, next_q, greedy), plain)
    assert_close(F.sarsa_target(reward, discount, next_q, next_q.argmax(-1)), plain)
    assert_close(F.soft_q_target(reward, discount, next_q, temperature=1e-9), plain)
    assert_close(F.advantage_learning_target(reward, discount, q, action, next_q, alpha=0.0), plain)
    assert_close(F.persistent_target(reward, discount, action, next_q, alpha=0.0), plain)
    soft = F.soft_q_target(reward, discount, next_q, temperature=0.5)
    assert_close(F.munchausen_target(reward, discount, q, action, next_q, temperature=0.5, alpha=0.0), soft)


def test_expected_sarsa_does_not_look_at_what_is_impossible() -> None:
    next_q = torch.tensor([[1.0, -torch.inf]])
    one = torch.ones(1)
    assert F.expected_sarsa_target(one, one, next_q, torch.tensor([[1.0, 0.0]])) == 2.0
    assert F.soft_q_target(one, one, next_q, temperature=1.0) == 2.0


@pytest.mark.parametrize("temperature", [0.03, 1.0])
def test_munchausen_of_large_values_is_finite(temperature: float) -> None:
    q = torch.tensor([[1e4, -1e4]])
    for action in (0, 1):
        target = F.munchausen_target(
            torch.zeros(1), torch.ones(1), q, torch.tensor([action]), q, temperature=temperature
        )
        assert target.item() == pytest.approx(1e4 - 0.9 * action)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r, q, a: F.soft_q_target(r, r, q, temperature=0.0), "soft_q_target: temperature must be in (0, inf)"),
        (lambda r, q, a: F.munchausen_target(r, r, q, a, q, clip=0.5), "munchausen_target: clip must be in (-inf, 0]"),
        (lambda r, q, a: F.persistent_target(r, r, a, q, alpha=2.0), "persistent_target: alpha must be in [0, 1]"),
        (lambda r, q, a: F.sarsa_target(r, r, q, a[:1]), "sarsa_target: next_action must have shape (2,)"),
        (lambda r, q, a: F.signed_hyperbolic(r, eps=-1.0), "signed_hyperbolic: eps must be in [0, inf)"),
        (lambda r, q, a: rlloss.ExpectedSarsaLoss(epsilon=1.5), "ExpectedSarsaLoss: epsilon must be in [0, 1]"),
        (lambda r, q, a: rlloss.SoftQLoss(temperature=-1.0), "SoftQLoss: temperature must be in (0, inf)"),
        (lambda r, q, a: rlloss.MunchausenLoss()(q, a, r, r, q), "MunchausenLoss: target_outputs must be given"),
        (lambda r, q, a: rlloss.SarsaLoss()(q, a, r, r, q), "SarsaLoss: next_action must be given"),
        (lambda r, q, a: rlloss.QVLoss(rlloss.TwoHotLoss()), "QVLoss: criterion must have one output per value"),
    ],
)
def test_errors_of_targets_and_losses(call: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        call(torch.zeros(2), torch.zeros(2, A), torch.zeros(2, dtype=torch.long))
    assert str(error.value).startswith(message)


# Rescaling


@given(st.floats(-1e6, 1e6), st.sampled_from([0.0, 1e-3, 0.1]))
def test_rescaling_equals_its_formula_and_is_undone(x: float, eps: float) -> None:
    compressed = math.copysign(math.sqrt(abs(x) + 1.0) - 1.0, x) + eps * x
    ours = F.signed_hyperbolic(double(x), eps=eps)
    assert ours.item() == pytest.approx(compressed, rel=1e-9, abs=1e-12)
    assert F.signed_parabolic(ours, eps=eps).item() == pytest.approx(x, rel=1e-12, abs=1e-300)


def test_rescaling_has_its_slope_at_zero_and_no_noise_near_it() -> None:
    x = torch.tensor([0.0, 1e-6, -3e-5], requires_grad=True)  # float32
    for eps in (0.0, 1e-3):
        (slope,) = torch.autograd.grad(F.signed_hyperbolic(x, eps=eps).sum(), x)
        assert_close(slope, torch.full_like(slope, 0.5 + eps), dtype=torch.float16)
        there_and_back = F.signed_parabolic(F.signed_hyperbolic(x, eps=eps), eps=eps)
        assert_close(there_and_back, x)
        (slope,) = torch.autograd.grad(there_and_back.sum(), x)
        assert_close(slope, torch.ones_like(slope))


# The losses that an agent takes


def transition_tensors(seed: int = 0, outputs: int = 1, rows: int = 30) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, A) if outputs == 1 else (rows, A, outputs)
    online, target, next_target, selector = torch.randn(4, *shape, generator=generator, dtype=torch.float64)
    action, next_action = torch.randint(A, (2, rows), generator=generator)
    return {
        "outputs": online,
        "action": action,
        "reward": torch.randn(rows, generator=generator, dtype=torch.float64),
        "discount": 0.9 * (torch.rand(rows, generator=generator, dtype=torch.float64) < 0.8).double(),
        "next_outputs": next_target,
        "selector_outputs": selector,
        "target_outputs": target,
        "next_action": next_action,
    }


def backup(x: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    return x["reward"], x["discount"], x["next_outputs"]


def epsilon_greedy(chooser: Tensor, epsilon: float) -> Tensor:
    return (1 - epsilon) * torch.nn.functional.one_hot(chooser.argmax(-1), A).double() + epsilon / A


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (rlloss.SarsaLoss(), lambda x: F.sarsa_target(*backup(x), x["next_action"])),
        (
            rlloss.ExpectedSarsaLoss(epsilon=0.3, double=True),
            lambda x: F.expected_sarsa_target(*backup(x), epsilon_greedy(x["selector_outputs"], 0.3)),
        ),
        (
            rlloss.ExpectedSarsaLoss(epsilon=0.3),
            lambda x: F.expected_sarsa_target(*backup(x), epsilon_greedy(x["next_outputs"], 0.3)),
        ),
        (rlloss.SoftQLoss(temperature=0.5), lambda x: F.soft_q_target(*backup(x), temperature=0.5)),
        (
            rlloss.MunchausenLoss(temperature=0.5, alpha=0.4, clip=-0.6),
            lambda x: F.munchausen_target(
                x["reward"], x["discount"], x["target_outputs"], x["action"], x["next_outputs"],
                temperature=0.5, alpha=0.4, clip=-0.6,
            ),
        ),
        (
            rlloss.AdvantageLearningLoss(alpha=0.4, persistent=True),
            lambda x: F.advantage_learning_target(
                x["reward"], x["discount"], x["target_outputs"], x["action"], x["next_outputs"],
                alpha=0.4, persistent=True,
            ),
        ),
        (
            rlloss.PersistentLoss(alpha=0.4),
            lambda x: F.persistent_target(x["reward"], x["discount"], x["action"], x["next_outputs"], alpha=0.4),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, rlloss.ValueLoss) else "",
)  # fmt: skip
@pytest.mark.parametrize("rescale", [False, True])
def test_losses_regress_on_their_targets(loss: rlloss.TDLoss, target: Any, rescale: bool) -> None:
    """Rescaled, on the compressed target of the expanded outputs."""
    x = transition_tensors()
    expand, compress = (F.signed_parabolic, F.signed_hyperbolic) if rescale else (torch.clone, torch.clone)
    wanted = compress(target(x | {name: expand(x[name]) for name in x if name.endswith("outputs")}))
    arguments = {name: getattr(loss, name) for name in inspect.signature(type(loss)).parameters}
    loss = type(loss)(**arguments | {"rescale": rescale})
    assert_close(loss.q_values(x["outputs"]), expand(x["outputs"]))
    result = loss(**x)
    assert_close(result.loss, F.q_value_loss(x["outputs"], x["action"], wanted, criterion=F.huber_loss))
    chosen = x["outputs"].gather(-1, x["action"].unsqueeze(-1)).squeeze(-1)
    assert_close(result.td_error, wanted - chosen)


@pytest.mark.parametrize("doubled", [False, True])
def test_rescaled_loss_learns_the_compressed_target_of_expanded_values(doubled: bool) -> None:
    x = transition_tensors()
    loss = rlloss.TDLoss(rlloss.MSELoss(), double=doubled, rescale=True)
    next_q = F.signed_parabolic(x["next_outputs"])
    selector = x["selector_outputs"] if doubled else None
    target = F.signed_hyperbolic(F.q_learning_target(x["reward"], x["discount"], next_q, selector_q=selector))
    assert_close(loss(**x).loss, F.q_value_loss(x["outputs"], x["action"], target))
    assert_close(loss.q_values(x["outputs"]), F.signed_parabolic(x["outputs"]))


@pytest.mark.parametrize("maximum", [False, True])
@pytest.mark.parametrize("rescale", [False, True])
def test_qv_learns_both_values_from_the_state_s(maximum: bool, rescale: bool) -> None:
    x = transition_tensors(outputs=2)
    expand, compress = (F.signed_parabolic, F.signed_hyperbolic) if rescale else (torch.clone, torch.clone)
    q, v = x["outputs"][..., 0], x["outputs"][..., 1].mean(-1)
    next_q, next_v = expand(x["next_outputs"][..., 0]), expand(x["next_outputs"][..., 1].mean(-1))
    target = compress(x["reward"] + x["discount"] * next_v)
    value_target = compress(x["reward"] + x["discount"] * next_q.max(-1).values) if maximum else target
    expected = F.q_value_loss(q, x["action"], target) + F.mse_loss(v, value_target)
    loss = rlloss.QVLoss(rlloss.MSELoss(), maximum=maximum, rescale=rescale)
    assert_close(loss(**x).loss, expected)
    assert_close(loss.q_values(x["outputs"]), expand(q))
    assert_close(loss(**x).td_error, target - q.gather(-1, x["action"].unsqueeze(-1)).squeeze(-1))


def test_a_mask_hides_no_wrong_next_action() -> None:
    x = transition_tensors()
    mask = torch.ones(30, dtype=torch.bool)
    for wrong in (x["next_action"][:1], x["next_action"][:, None], x["next_action"][:7], x["next_action"][0]):
        with pytest.raises(ValueError, match=r"^SarsaLoss: action and next_action must have the same shape"):
            rlloss.SarsaLoss()(**{**x, "next_action": wrong}, mask=mask)
        rlloss.TDLoss()(**{**x, "next_action": wrong}, mask=mask)  # which does not look at it


def test_a_poisson_network_s_outputs_are_logarithms_of_values() -> None:
    """At its minimum the rate is the target, and so is the action value."""
    log_rate = torch.full((1, 2), math.log(10.0), requires_grad=True)
    loss = rlloss.TDLoss(rlloss.PoissonNLLLoss())
    result = loss(log_rate, torch.tensor([0]), torch.tensor([10.0]), torch.zeros(1), torch.zeros(1, 2))
    assert_close(torch.autograd.grad(result.loss, log_rate)[0], torch.zeros(1, 2))
    assert_close(result.td_error, torch.zeros(1), dtype=torch.float16)
    assert_close(loss.q_values(log_rate.detach()), torch.full((1, 2), 10.0), dtype=torch.float16)
    assert torch.equal(rlloss.PoissonNLLLoss(log_input=False).value(log_rate), log_rate)
