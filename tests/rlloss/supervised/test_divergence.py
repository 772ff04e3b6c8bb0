"""kl_divergence and js_divergence against a loop, torch, a worked example and their bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import rlloss.functional as F
from tests.conftest import assert_close


def _soften(weights: Sequence[float], temperature: float) -> list[float]:
    powers = [math.pow(weight, 1.0 / temperature) for weight in weights]
    return [power / sum(powers) for power in powers]


def _kl(p: Sequence[float], q: Sequence[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def _js(p: Sequence[float], q: Sequence[float]) -> float:
    middle = [(a + b) / 2.0 for a, b in zip(p, q, strict=True)]
    return (_kl(p, middle) + _kl(q, middle)) / 2.0


LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2
TARGET = torch.randn(6, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64).softmax(1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("kind", ["forward", "reverse", "js"])
@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("target_from_logits", [True, False])
def test_equals_a_loop(temperature: float, kind: str, from_logits: bool, target_from_logits: bool) -> None:
    expected = []
    for logits, target in zip(LOGITS.softmax(1).tolist(), TARGET.tolist(), strict=True):
        p, q = _soften(logits, temperature), _soften(target, temperature)
        value = {"forward": _kl(q, p), "reverse": _kl(p, q), "js": _js(p, q)}[kind]
        expected.append(temperature**2 * value)
    model = LOGITS if from_logits else LOGITS.softmax(1)
    target = TARGET.log() + 3.0 if target_from_logits else TARGET
    options: dict[str, Any] = {
        "from_logits": from_logits,
        "target_from_logits": target_from_logits,
        "temperature": temperature,
    }
    if kind == "js":
        actual = F.js_divergence(model, target, **options, reduction="none")
    else:
        actual = F.kl_divergence(model, target, **options, reverse=kind == "reverse", reduction="none")
    assert_close(actual, torch.tensor(expected, dtype=torch.float64))


def test_equals_torch() -> None:
    expected = torch.nn.functional.kl_div(LOGITS.log_softmax(1), TARGET, reduction="batchmean")
    assert_close(F.kl_divergence(LOGITS, TARGET), expected)


def test_worked_example() -> None:
    """A binomial distribution (n = 2, p = 0.4) and the uniform one: a textbook example, in nats."""
    p = torch.tensor([[9 / 25, 12 / 25, 4 / 25]], dtype=torch.float64)
    uniform = torch.zeros(1, 3, dtype=torch.float64)
    forward = (32 * math.log(2) + 55 * math.log(3) - 50 * math.log(5)) / 25
    backward = (-4 * math.log(2) - 6 * math.log(3) + 6 * math.log(5)) / 3
    assert float(F.kl_divergence(uniform, p)) == pytest.approx(forward, abs=1e-12)
    assert float(F.kl_divergence(uniform, p, reverse=True)) == pytest.approx(backward, abs=1e-12)
    assert forward == pytest.approx(0.0852996, abs=1e-7)


def test_is_cross_entropy_minus_entropy() -> None:
    entropy = -(TARGET * TARGET.log()).sum(1)
    difference = F.cross_entropy(LOGITS, TARGET, reduction="none") - entropy
    assert_close(F.kl_divergence(LOGITS, TARGET, reduction="none"), difference)


def test_one_hot_target_is_cross_entropy() -> None:
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    one_hot = torch.nn.functional.one_hot(label, 4).double()
    assert_close(F.kl_divergence(LOGITS, one_hot), F.cross_entropy(LOGITS, label))


def test_high_temperature_matches_logits() -> None:
    """Hinton et al., section 2.1: far above the logits' size, distillation is half the squared error of the
    centred logits, over the number of classes."""
    teacher = torch.randn(6, 4, dtype=torch.float64)
    actual = F.kl_divergence(LOGITS, teacher, target_from_logits=True, temperature=1e4, reduction="none")
    centred = (LOGITS - LOGITS.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    torch.testing.assert_close(actual, centred.square().sum(1) / 8, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("loss", [F.kl_divergence, F.js_divergence])
def test_equal_distributions_give_0_and_no_gradient(loss: Callable[..., Tensor]) -> None:
    logits = LOGITS.clone().requires_grad_()
    value = loss(logits, LOGITS, target_from_logits=True)
    (gradient,) = torch.autograd.grad(value, logits)
    assert_close(value, torch.zeros((), dtype=torch.float64))
    assert_close(gradient, torch.zeros_like(LOGITS))


def test_js_is_symmetric() -> None:
    model = LOGITS.softmax(1)
    one = F.js_divergence(model, TARGET, from_logits=False, reduction="none")
    other = F.js_divergence(TARGET, model, from_logits=False, reduction="none")
    assert_close(one, other)


def test_js_of_disjoint_distributions_is_log_2() -> None:
    p, q = torch.tensor([[0.5, 0.5, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 0.3, 0.7]])
    assert_close(F.js_divergence(p, q, from_logits=False), torch.tensor(math.log(2.0)))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_probabilities_are_normalised(temperature: float) -> None:
    model = LOGITS.softmax(1)
    losses: list[Callable[..., Tensor]] = [F.kl_divergence, F.js_divergence]
    for loss in losses:
        expected = loss(model, TARGET, from_logits=False, temperature=temperature)
        assert_close(loss(3.0 * model, 0.5 * TARGET, from_logits=False, temperature=temperature), expected)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 10.0])
def test_zero_probabilities(reverse: bool, temperature: float) -> None:
    """An impossible class counts 0 where both say so, and never becomes possible by softening."""
    p = torch.tensor([[0.25, 0.75, 0.0]], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    options: dict[str, Any] = {"reverse": reverse, "temperature": temperature}
    value = F.kl_divergence(p, q, from_logits=False, **options)
    assert_close(value, F.kl_divergence(p[:, :2], q[:, :2], from_logits=False, **options))
    (gradient,) = torch.autograd.grad(value, p)
    assert gradient.isfinite().all()


def test_impossible_actions() -> None:
    """A logit of -inf is an impossible class: no NaN in value or gradient, on either side."""
    logits = torch.tensor([[1.0, 2.0, -math.inf]], requires_grad=True)
    target = torch.tensor([[0.5, 0.5, 0.0]])
    for loss in (F.kl_divergence(logits, target), F.kl_divergence(logits, target, reverse=True)):
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite() and gradient.isfinite().all()
    assert_close(F.kl_divergence(logits, target), F.kl_divergence(logits[:, :2], target[:, :2]))


def test_contradiction_is_large_but_finite() -> None:
    logits = torch.tensor([[0.0, -math.inf]], requires_grad=True)
    value = F.kl_divergence(logits, torch.tensor([[0.5, 0.5]]))
    (gradient,) = torch.autograd.grad(value, logits)
    assert 40.0 < float(value.detach()) < 50.0 and gradient.isfinite().all()


def test_class_dimension_is_1() -> None:
    logits, target = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4).softmax(1)
    assert F.kl_divergence(logits, target, reduction="none").shape == (2, 5, 4)
    flat = F.kl_divergence(logits.movedim(1, -1).reshape(-1, 3), target.movedim(1, -1).reshape(-1, 3), reduction="none")
    assert_close(F.kl_divergence(logits, target, reduction="none").flatten(), flat)
    assert_close(F.kl_divergence(logits[0, :, 0, 0], target[0, :, 0, 0]), flat[0])


def _distribution(values: list[float], dtype: torch.dtype) -> Tensor:
    return torch.tensor([values], dtype=dtype, requires_grad=True)


@given(
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), min_size=1, max_size=6),
    st.floats(0.25, 16.0),
)
def test_bounds(dtype: torch.dtype, pairs: list[tuple[float, float]], temperature: float) -> None:
    """At least 0; Jensen-Shannon at most T^2 log 2; gradients finite; for logits as far apart as can be."""
    logits, target = (_distribution(list(values), dtype) for values in zip(*pairs, strict=True))
    options: dict[str, Any] = {"target_from_logits": True, "temperature": temperature}
    js = F.js_divergence(logits, target, **options)
    losses = [F.kl_divergence(logits, target, **options), F.kl_divergence(logits, target, reverse=True, **options), js]
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.isfinite().all()
        assert float(loss.detach()) >= -1e-4 * temperature**2
    assert float(js.detach()) <= temperature**2 * math.log(2.0) * (1 + 1e-5)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"kl_divergence: temperature must be in \(0, inf\), got 0"):
        F.kl_divergence(LOGITS, TARGET, temperature=0)
    with pytest.raises(ValueError, match="js_divergence: logits and target must have the same shape"):
        F.js_divergence(LOGITS, TARGET[:, :3])
    with pytest.raises(ValueError, match="kl_divergence: target must have a floating-point dtype"):
        F.kl_divergence(LOGITS, torch.zeros(6, 4, dtype=torch.long))
