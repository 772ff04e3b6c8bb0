"""The all-pairs sums: against loops, plain form against the form for large inputs, and the latter's transformations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlloss.core import pairs
from rlloss.core.pairs import hinge_pairs, logistic_pairs, logsumexp_pairs, softplus, tied_pairs
from tests.conftest import assert_close

Sum = Callable[[Tensor], Tensor]

# Each sum as a function of the one tensor that gradients reach, with the shape of that tensor.
LISTS = (3, 17)
_generator = torch.Generator().manual_seed(3)
_above, _below = torch.rand((2, *LISTS), generator=_generator, dtype=torch.float64)
_grade = torch.randint(3, LISTS, generator=_generator).double()
_sign = 2.0 * torch.randint(2, LISTS, generator=_generator).double() - 1.0
_kept = torch.rand(LISTS, generator=_generator).gt(0.3).double()
_keep = torch.arange(11) % 4 != 1
_excluded = torch.stack([torch.arange(6), torch.arange(6) + 5], dim=1)


def _logsumexp(vectors: Tensor, *, keep: Tensor | None = None) -> Tensor:
    """The first six vectors as rows, the other eleven as columns."""
    return logsumexp_pairs(vectors[:6], vectors[6:], keep, _excluded.to(vectors.device))


SUMS: dict[str, tuple[tuple[int, ...], Sum]] = {
    "hinge": (LISTS, lambda s: hinge_pairs(s, _above.to(s), _below.to(s), 0.7)),
    "hinge_one_list": (LISTS[1:], lambda s: hinge_pairs(s, _above[0].to(s), _below[0].to(s), -0.3)),
    "logistic_grades": (LISTS, lambda s: logistic_pairs(s, _grade.to(s), _grade.to(s), _kept.to(s))),
    "logistic_distinct": (LISTS, lambda s: logistic_pairs(s, _grade.to(s), _grade.to(s), _kept.to(s), distinct=True)),
    "logistic_signs": (LISTS, lambda s: logistic_pairs(s, _sign.to(s), 0.0 * _sign.to(s), _kept.to(s))),
    "logistic_one_list": (LISTS[1:], lambda s: logistic_pairs(s, _grade[0].to(s), _sign[0].to(s), _kept[0].to(s))),
    "logsumexp": ((17, 4), _logsumexp),
    "logsumexp_keep": ((17, 4), lambda v: _logsumexp(v, keep=_keep.to(v.device))),
}
every_sum = pytest.mark.parametrize("name", SUMS)


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that the inputs here take the form for large ones."""
    monkeypatch.setattr(pairs, "BLOCK", 40)
    monkeypatch.setattr(pairs, "SORT_ABOVE", 40)


def _inputs(name: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Sum]:
    shape, function = SUMS[name]
    return torch.randn(shape, dtype=dtype).requires_grad_(), function


def _value_and_gradient(function: Sum, tensor: Tensor) -> tuple[Tensor, Tensor]:
    value = function(tensor)
    weight = torch.linspace(0.5, 2.0, value.numel(), dtype=value.dtype).view_as(value)
    return value, torch.autograd.grad((value * weight).sum(), tensor)[0]


# Against loops


def _loop_over_pairs(pair: Callable[[int, int], float], length: int) -> float:
    return math.fsum(pair(i, j) for i, j in itertools.product(range(length), repeat=2))


def test_hinge_equals_a_loop() -> None:
    scores = torch.randn(LISTS, dtype=torch.float64)
    for row in range(LISTS[0]):
        s, above, below = scores[row].tolist(), _above[row].tolist(), _below[row].tolist()
        expected = _loop_over_pairs(lambda i, j: above[i] * below[j] * max(0.0, 0.7 - (s[i] - s[j])), LISTS[1])  # noqa: B023
        assert hinge_pairs(scores, _above, _below, 0.7)[row].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("distinct", [False, True])
def test_logistic_equals_a_loop(distinct: bool) -> None:
    s, a, b, w = torch.randn(17).tolist(), _grade[0].tolist(), _grade[1].tolist(), _kept[0].tolist()

    def pair(i: int, j: int) -> float:
        if distinct and a[i] == b[j]:
            return 0.0
        return float(w[i] * w[j] * math.log1p(math.exp(-(a[i] - b[j]) * (s[i] - s[j]))))

    arguments = [torch.tensor(values, dtype=torch.float64) for values in (s, a, b, w)]
    actual = logistic_pairs(*arguments, distinct=distinct)
    assert actual.item() == pytest.approx(_loop_over_pairs(pair, 17), rel=1e-12)


@pytest.mark.parametrize("keep", [None, _keep])
def test_logsumexp_equals_a_loop(keep: Tensor | None) -> None:
    vectors = torch.randn(17, 4, dtype=torch.float64)
    actual = _logsumexp(vectors, keep=keep)
    for row in range(6):
        columns = [j for j in range(11) if j not in _excluded[row] and (keep is None or keep[j])]
        expected = math.log(math.fsum(math.exp(torch.dot(vectors[row], vectors[6 + j]).item()) for j in columns))
        assert actual[row].item() == pytest.approx(expected, rel=1e-12)


def test_tied_pairs_equal_a_loop() -> None:
    for labels, weight, actual in zip(_grade, _above, tied_pairs(_grade, _above), strict=True):
        y, w = labels.tolist(), weight.tolist()
        expected = _loop_over_pairs(lambda i, j: w[i] * w[j] * (y[i] == y[j]), len(y))  # noqa: B023
        assert actual.item() == pytest.approx(expected, rel=1e-12)


@given(st.floats(min_value=-1e4, max_value=1e4))
def test_softplus_has_float64_precision(logit: float) -> None:
    expected = max(logit, 0.0) + math.log1p(math.exp(-abs(logit)))
    assert softplus(torch.tensor(logit, dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-14, abs=1e-300)


# The form for large inputs


@every_sum
def test_both_forms_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, function = _inputs(name)
    value, gradient = _value_and_gradient(function, tensor)
    for limit in (1, 40, 200):
        monkeypatch.setattr(pairs, "BLOCK", limit)
        monkeypatch.setattr(pairs, "SORT_ABOVE", limit)
        blocked_value, blocked_gradient = _value_and_gradient(function, tensor)
        assert_close(blocked_value, value, f"value, blocks of {limit}")
        assert_close(blocked_gradient, gradient, f"gradient, blocks of {limit}")


def test_both_forms_agree_at_ties_and_kinks(blocks: None) -> None:
    """Whole numbers put many pairs exactly at the hinge's kink, where both forms take the gradient 0."""
    scores = torch.randint(5, LISTS, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    value, gradient = _value_and_gradient(lambda s: hinge_pairs(s, _above, _below, 1.0), scores)
    gap = 1.0 - (scores[..., :, None] - scores[..., None, :])
    plain = (torch.relu(gap) * _above[..., :, None] * _below[..., None, :]).sum((-2, -1))
    assert_close(value, plain)
    assert_close(gradient, _value_and_gradient(lambda _: plain, scores)[1])


def test_hinge_keeps_its_precision_far_from_zero(blocks: None) -> None:
    near = torch.rand(LISTS[1], dtype=torch.float64)
    above = below = torch.ones_like(near)
    far = hinge_pairs((near * 1024).round() / 1024 + 2.0**30, above, below, 1.0)
    assert_close(far, hinge_pairs((near * 1024).round() / 1024, above, below, 1.0))


@every_sum
def test_gradcheck(name: str, blocks: None) -> None:
    tensor, function = _inputs(name)
    assert torch.autograd.gradcheck(function, tensor)


@every_sum
def test_compiles_without_a_break(name: str, blocks: None) -> None:
    torch.compiler.reset()
    tensor, function = _inputs(name)
    value, gradient = _value_and_gradient(torch.compile(function, fullgraph=True, backend="aot_eager"), tensor)
    expected_value, expected_gradient = _value_and_gradient(function, tensor)
    assert_close(value, expected_value)
    assert_close(gradient, expected_gradient)
    with torch.no_grad():
        assert_close(torch.compile(function, fullgraph=True, backend="aot_eager")(tensor), expected_value)


@every_sum
def test_func_grad_and_vmap(name: str, blocks: None) -> None:
    _, function = _inputs(name)
    stacked = torch.randn(4, *SUMS[name][0], dtype=torch.float64)

    def total(tensor: Tensor) -> Tensor:
        return function(tensor).sum()

    expected = torch.stack([torch.func.grad(total)(tensor) for tensor in stacked])
    assert_close(torch.func.vmap(torch.func.grad(total))(stacked), expected, "vmap of grad")
    assert_close(
        torch.func.grad(lambda tensors: torch.func.vmap(total)(tensors).sum())(stacked), expected, "grad of vmap"
    )
    assert_close(expected[0], torch.autograd.functional.jacobian(total, stacked[0]), "autograd")  # type: ignore[no-untyped-call]


@every_sum
def test_a_second_derivative_is_right_or_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tensor, function = _inputs(name)

    def slope(tensor: Tensor) -> Tensor:
        gradient: Tensor = torch.func.grad(lambda tensor: function(tensor).square().sum())(tensor)
        return gradient.square().sum()

    expected = torch.func.grad(slope)(tensor)
    monkeypatch.setattr(pairs, "BLOCK", 40)
    monkeypatch.setattr(pairs, "SORT_ABOVE", 40)
    if name.startswith("hinge"):
        assert_close(torch.func.grad(slope)(tensor), expected)
    else:
        with pytest.raises(RuntimeError, match="second derivative"):
            torch.func.grad(slope)(tensor)


@every_sum
def test_meta_device(name: str, blocks: None) -> None:
    shape, function = SUMS[name]
    tensor = torch.empty(shape, device="meta", requires_grad=True)
    value, gradient = function(tensor), torch.autograd.grad(function(tensor).sum(), tensor)[0]
    assert value.is_meta and gradient.is_meta
    assert value.shape == function(torch.zeros(shape)).shape
    assert gradient.shape == shape


@every_sum
def test_autocast_changes_nothing(name: str, blocks: None) -> None:
    tensor, function = _inputs(name, torch.float32)
    expected = _value_and_gradient(function, tensor)
    with torch.autocast("cpu", torch.bfloat16):
        actual = _value_and_gradient(function, tensor)
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("limit", [2, 10**6])
def test_a_row_without_columns_passes_no_gradient(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "BLOCK", limit)
    rows = torch.randn(3, 2, dtype=torch.float64).requires_grad_()
    columns = torch.randn(2, 2, dtype=torch.float64).requires_grad_()
    keep = torch.tensor([True, False])
    result = logsumexp_pairs(rows, columns, keep, torch.tensor([[0], [1], [1]]))
    assert result[0].item() == torch.finfo(torch.float64).min
    assert_close(result[1:], rows[1:] @ columns[0])
    row_gradient, column_gradient = torch.autograd.grad(result.sum(), [rows, columns])
    assert not row_gradient[0].any()
    assert_close(row_gradient[1:], columns[:1].expand(2, 2))
    assert_close(column_gradient[0], rows[1:].sum(0))
    assert not column_gradient[1].any()


@pytest.mark.parametrize("name", ["hinge", "logistic_grades"])
def test_empty_lists(name: str) -> None:
    sums: dict[str, Sum] = {
        "hinge": lambda s: hinge_pairs(s, s.detach(), s.detach(), 1.0),
        "logistic_grades": lambda s: logistic_pairs(s, s.detach(), s.detach(), s.detach()),
    }
    for shape in ((0,), (2, 0), (0, 3)):
        scores = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
        value = sums[name](scores)
        assert value.shape == shape[:-1]
        assert not value.any()
        assert torch.autograd.grad(value.sum(), scores)[0].shape == shape
