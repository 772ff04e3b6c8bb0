"""What the checks say, word for word, and what they let through."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import rlloss.functional as F
from rlloss.core import checks
from rlloss.core.checks import value_checks
from rlloss.functional import cross_entropy, focal_loss, huber_loss, q_value_loss


def test_tensor() -> None:
    checks.check_tensor("f", a=torch.zeros(1))
    with pytest.raises(TypeError, match=r"^f: b must be a torch\.Tensor, got list$"):
        checks.check_tensor("f", a=torch.zeros(1), b=[1.0])
    with pytest.raises(TypeError, match=r"^f: b must be a torch\.Tensor, got NoneType$"):
        checks.check_tensor("f", b=None)


FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
COMPLEX = [torch.complex64, torch.complex128]


@pytest.mark.parametrize(
    ("check", "good", "bad", "wanted"),
    [
        (checks.check_float, FLOATS, [*INTEGERS, *COMPLEX, torch.bool], "a floating-point dtype"),
        (checks.check_real, [*FLOATS, *INTEGERS], [*COMPLEX, torch.bool], "a floating-point or integer dtype"),
        (checks.check_indices, INTEGERS, [*FLOATS, *COMPLEX, torch.bool], "an integer dtype"),
    ],
)
def test_dtypes(check: Any, good: list[torch.dtype], bad: list[torch.dtype], wanted: str) -> None:
    for dtype in good:
        check("f", a=torch.zeros(2, dtype=dtype))
    for dtype in bad:
        with pytest.raises(ValueError, match=rf"^f: b must have {wanted}, got {dtype}$"):
            check("f", a=torch.zeros(2, dtype=good[0]), b=torch.zeros(2, dtype=dtype))
    with pytest.raises(TypeError, match=r"^f: a must be"):
        check("f", a=2)


def test_same_shape() -> None:
    checks.check_same_shape("f", a=torch.zeros(8), b=torch.ones(8), c=torch.ones(8))
    with pytest.raises(ValueError, match=r"^f: a and b must have the same shape, got a \(8, 1\), b \(8,\)$"):
        checks.check_same_shape("f", a=torch.zeros(8, 1), b=torch.zeros(8))


def test_shape_and_ndim() -> None:
    checks.check_shape("f", "a", torch.zeros(2, 3), (2, 3), "why")
    with pytest.raises(ValueError, match=r"^f: a must have shape \(2,\) \(why\), got \(2, 1\)$"):
        checks.check_shape("f", "a", torch.zeros(2, 1), (2,), "why")
    checks.check_ndim("f", "a", torch.zeros(2, 3), 2, "(..., A)")
    with pytest.raises(ValueError, match=r"^f: a must have shape \(\.\.\., A\), got \(3,\)$"):
        checks.check_ndim("f", "a", torch.zeros(3), 2, "(..., A)")


@given(got=st.lists(st.integers(0, 3), max_size=3).map(tuple), shape=st.lists(st.integers(0, 3), max_size=3).map(tuple))
def test_broadcastable_is_what_torch_expands(got: tuple[int, ...], shape: tuple[int, ...]) -> None:
    try:
        torch.zeros(got).expand(shape)
        fits = True
    except RuntimeError:
        fits = False
    if fits:
        checks.check_broadcastable("f", "a", torch.zeros(got), shape)
    else:
        with pytest.raises(ValueError, match=r"^f: a must broadcast to the loss's shape"):
            checks.check_broadcastable("f", "a", torch.zeros(got), shape)


def test_mask() -> None:
    checks.check_mask("f", None, (2, 3))
    checks.check_mask("f", torch.ones(3, dtype=torch.bool), (2, 3))
    with pytest.raises(ValueError, match=r"^f: mask must have dtype torch\.bool, got torch\.float32$"):
        checks.check_mask("f", torch.ones(2, 3), (2, 3))
    with pytest.raises(ValueError, match=r"^f: mask must broadcast to the loss's shape \(2, 3\), got \(2,\)$"):
        checks.check_mask("f", torch.ones(2, dtype=torch.bool), (2, 3))


@pytest.mark.parametrize(
    ("bounds", "good", "bad", "interval"),
    [
        ({}, [-1e300, 0, 3], [], r"\(-inf, inf\)"),
        ({"low": 0.0}, [0, 0.0, 1e300], [-1e-9], r"\[0, inf\)"),
        ({"low": 0.0, "low_open": True}, [1e-9], [0.0, 0, -1.0], r"\(0, inf\)"),
        ({"low": 0.0, "high": 1.0}, [0.0, 0.5, 1, 1.0], [-0.1, 1.1], r"\[0, 1\]"),
        ({"low": 0.0, "high": 1.0, "low_open": True, "high_open": True}, [0.5], [0.0, 1.0, 2.0], r"\(0, 1\)"),
        ({"high": 1.0}, [-5.0, 1.0], [1.5], r"\(-inf, 1\]"),
    ],
)
def test_number(bounds: dict[str, Any], good: list[float], bad: list[float], interval: str) -> None:
    for value in good:
        checks.check_number("f", "x", value, **bounds)
    for value in [*bad, math.nan, math.inf, -math.inf]:
        with pytest.raises(ValueError, match=rf"^f: x must be in {interval}, got {value!r}$"):
            checks.check_number("f", "x", value, **bounds)
    for other, kind in [(True, "bool"), ("1", "str"), (None, "NoneType"), (torch.ones(()), "Tensor")]:
        with pytest.raises(TypeError, match=rf"^f: x must be a number, got {kind}$"):
            checks.check_number("f", "x", other, **bounds)  # type: ignore[arg-type]


def test_positive_and_non_negative() -> None:
    checks.check_positive("f", a=1.0, b=2)
    checks.check_non_negative("f", a=0.0, b=2)
    with pytest.raises(ValueError, match=r"^f: b must be in \(0, inf\), got 0$"):
        checks.check_positive("f", a=1.0, b=0)
    with pytest.raises(ValueError, match=r"^f: a must be in \[0, inf\), got -1\.0$"):
        checks.check_non_negative("f", a=-1.0)


def test_choice() -> None:
    checks.check_choice("f", "x", "a", ("a", "b"))
    with pytest.raises(ValueError, match=r"^f: x must be one of a, b, got 'c'$"):
        checks.check_choice("f", "x", "c", ("a", "b"))
    with pytest.raises(ValueError, match="got None"):
        checks.check_choice("f", "x", None, ("a", "b"))


BAD_LABEL = torch.tensor([0, 5])


def test_value_checks_say_what_is_out_of_range() -> None:
    with (
        value_checks(),
        pytest.raises(ValueError, match=r"^focal_loss: target must .* \[0, 3\), got values in \[0, 5\]$"),
    ):
        focal_loss(torch.zeros(2, 3), BAD_LABEL)
    with (
        value_checks(),
        pytest.raises(ValueError, match=r"^q_value_loss: action must .* \[0, 3\), got values in \[-1, -1\]$"),
    ):
        q_value_loss(torch.zeros(1, 3), torch.tensor([-1]), torch.zeros(1))


@pytest.mark.parametrize("wrong", [-0.5, 1.5, math.nan])
def test_value_checks_of_targets_between_0_and_1(wrong: float) -> None:
    x, keep = torch.zeros(2, 3), torch.tensor([[True, True, False], [True, True, True]])
    target = torch.tensor([[0.0, 1.0, wrong], [0.5, 0.0, 1.0]])
    calls: dict[str, Callable[..., Tensor]] = {
        "binary_cross_entropy": lambda **mask: F.binary_cross_entropy(x, target, **mask),
        "binary_focal_loss": lambda **mask: F.binary_focal_loss(x, target, **mask),
        "dice_loss": lambda **mask: F.dice_loss(x, target, **mask),
        "contrastive_loss": lambda **mask: F.contrastive_loss(x.unsqueeze(-1), x.unsqueeze(-1), target, **mask),
        "cross_entropy": lambda mask=None: F.cross_entropy(
            x.unsqueeze(0), target.unsqueeze(0), mask=None if mask is None else mask.all(0, keepdim=True)
        ),
    }
    for name, call in calls.items():
        with value_checks(), pytest.raises(ValueError, match=rf"^{name}: target must be in \[0, 1\], got {wrong}$"):
            call()
        with value_checks():
            call(mask=keep)
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: F.kl_divergence(x, x), "kl_divergence: target must be in [0, inf), got -1.0"),
        (lambda x: F.js_divergence(x.abs(), x.abs(), from_logits=False), None),
        (lambda x: F.msle_loss(x - 1, x), "msle_loss: input must be in [-1, inf), got -2.0"),
        (lambda x: F.poisson_nll_loss(x, x), "poisson_nll_loss: target must be in [0, inf), got -1.0"),
        (lambda x: F.gaussian_nll_loss(x, x, x), "gaussian_nll_loss: var must be in [0, inf), got -1.0"),
        (lambda x: F.lambda_rank_loss(x, x), "lambda_rank_loss: labels must be in [0, inf), got -1.0"),
        (lambda x: F.binary_cross_entropy(x, x.abs(), from_logits=False), "logits must be in [0, 1], got -1.0"),
        (lambda x: F.binary_cross_entropy(x, torch.full_like(x, 1 + 1e-7)), None),  # one rounding beyond 1
    ],
)
def test_value_checks_of_ranges(call: Callable[[Tensor], Tensor], message: str | None) -> None:
    with value_checks():
        if message is None:
            assert call(torch.tensor([[1.0, -1.0]])).isfinite()
        else:
            with pytest.raises(ValueError) as error:
                call(torch.tensor([[1.0, -1.0]]))
            assert str(error.value).endswith(message)


def test_value_checks_look_at_what_is_kept() -> None:
    with value_checks():
        assert focal_loss(torch.zeros(2, 3), BAD_LABEL, mask=torch.tensor([True, False])).isfinite()
        assert cross_entropy(torch.zeros(2, 3), BAD_LABEL, ignore_index=5).isfinite()
        assert cross_entropy(torch.zeros(0, 3), BAD_LABEL[:0]) == 0


def test_value_checks_are_off_unless_asked_for() -> None:
    """And go back to what they were, whatever happens inside."""

    def on() -> bool:
        try:
            checks.check_labels("f", "a", BAD_LABEL, 3, None)
        except ValueError:
            return True
        return False

    assert not on()
    with value_checks():
        assert on()
        with value_checks(False):
            assert not on()
        assert on()
    assert not on()
    with pytest.raises(ZeroDivisionError), value_checks():
        raise ZeroDivisionError
    assert not on()


def test_a_number_that_changes_compiles() -> None:
    """From its second value on, torch.compile sees a symbol in a float's place."""
    compiled = torch.compile(huber_loss, fullgraph=True, backend="eager")
    x, y = torch.randn(5), torch.randn(5)
    for delta in (1.0, 2.0, 3.0):
        assert torch.equal(compiled(x, y, delta=delta), huber_loss(x, y, delta=delta))
