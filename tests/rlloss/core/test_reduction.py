"""The one place that averages, against a loop over elements."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlloss.core.reduction import Reduction, check_reduction, fill_masked, promote, reduce_kernel, reduce_loss
from tests.conftest import assert_close


def reduce(loss: Tensor, reduction: Reduction = "mean", **options: Any) -> Tensor:
    return reduce_loss("f", loss, reduction=reduction, **{"weight": None, "mask": None, **options})


Row = tuple[float, float, bool, float]  # loss, weight, mask, count


def by_loop(rows: list[Row]) -> tuple[list[float], float, float]:
    """The elements, their sum and their mean, one element at a time."""
    elements, total, counted = [], 0.0, 0.0
    for loss, weight, keep, count in rows:
        elements.append(weight * loss if keep else 0.0)
        total += elements[-1]
        counted += count if keep else 0.0
    return elements, total, total / counted if counted else 0.0


@given(
    rows=st.lists(
        st.tuples(st.floats(-100, 100), st.floats(0, 10), st.booleans(), st.sampled_from([0.5, 1.0, 3.0])), max_size=9
    )
)
def test_equals_a_loop(rows: list[Row]) -> None:
    loss, weight, count = (torch.tensor([row[column] for row in rows], dtype=torch.float64) for column in (0, 1, 3))
    mask = torch.tensor([row[2] for row in rows], dtype=torch.bool)
    elements, total, mean = by_loop(rows)
    assert reduce(loss, "none", weight=weight, mask=mask).tolist() == pytest.approx(elements)
    assert reduce(loss, "sum", weight=weight, mask=mask).item() == pytest.approx(total)
    assert reduce(loss, "mean", weight=weight, mask=mask, count=count).item() == pytest.approx(mean)
    _, _, plain_mean = by_loop([(loss, weight, keep, 1.0) for loss, weight, keep, _ in rows])
    assert reduce(loss, "mean", weight=weight, mask=mask).item() == pytest.approx(plain_mean)


def test_worked_numbers() -> None:
    loss, mask = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([True, False, True])
    assert reduce(loss) == 3.0
    assert reduce(loss, "sum") == 9.0
    assert reduce(loss, mask=mask) == 3.5
    assert reduce(loss, weight=torch.tensor([2.0, 1.0, 0.0])) == pytest.approx(4 / 3)
    assert reduce(loss, weight=torch.tensor([2.0, 1.0, 0.0]), mask=mask) == 1.0
    assert reduce(loss, count=torch.tensor([1.0, 1.0, 2.0])) == 2.25


def test_a_weight_of_zero_still_counts() -> None:
    """That is what tells a weight from a mask."""
    loss, zero = torch.tensor([4.0, 8.0]), torch.tensor([1.0, 0.0])
    assert reduce(loss, weight=zero) == 2.0
    assert reduce(loss, mask=zero.bool()) == 4.0


def test_nothing_kept_is_zero_with_a_gradient_of_zero() -> None:
    loss = torch.tensor([math.nan, math.inf], requires_grad=True)
    mask = torch.zeros(2, dtype=torch.bool)
    for reduction in ("mean", "sum"):
        value = reduce(loss, reduction, weight=torch.full((2,), math.nan), mask=mask)
        assert value == 0
        (gradient,) = torch.autograd.grad(value, loss)
        assert gradient.tolist() == [0.0, 0.0]


def test_empty_has_a_graph() -> None:
    loss = torch.zeros(0, 3, requires_grad=True)
    for reduction in ("mean", "sum"):
        value = reduce(loss, reduction)
        assert value == 0 and value.requires_grad
    assert reduce(loss, "none").shape == (0, 3)


def test_broadcasting_goes_one_way() -> None:
    loss = torch.arange(6.0).reshape(2, 3)
    assert reduce(loss, weight=torch.tensor([1.0, 0.0, 0.0])) == 0.5
    assert reduce(loss, mask=torch.tensor([[True], [False]])) == 1.0
    assert reduce(loss, mask=torch.tensor([[True], [False]]), count=torch.tensor([1.0, 1.0, 4.0])) == 0.5
    for name, value in [("weight", torch.ones(2, 2, 3)), ("mask", torch.ones(2, 1, 3, dtype=torch.bool))]:
        with pytest.raises(ValueError, match=rf"^f: {name} must broadcast to the loss's shape \(2, 3\)"):
            reduce(loss, "mean", **{name: value})


def test_weight_and_count_are_constants() -> None:
    loss, weight = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    value = reduce(loss, weight=weight, count=weight)
    (unwanted,) = torch.autograd.grad(value, weight, allow_unused=True, retain_graph=True)
    assert unwanted is None
    assert torch.autograd.grad(value, loss)[0].tolist() == [0.5, 0.5]


def test_weight_follows_the_loss_dtype() -> None:
    assert reduce(torch.ones(2, dtype=torch.float64), weight=torch.ones(2)).dtype == torch.float64
    assert reduce(torch.ones(2), weight=torch.ones(2, dtype=torch.float64)).dtype == torch.float32


def test_unknown_reduction() -> None:
    with pytest.raises(ValueError, match=r"^f: reduction must be one of none, mean, sum, got 'max'$"):
        check_reduction("f", "max")
    with pytest.raises(ValueError, match=r"^f: reduction"):
        reduce(torch.ones(2), "max")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtypes", "wanted"),
    [
        ([torch.float16], torch.float32),
        ([torch.bfloat16, torch.float16], torch.float32),
        ([torch.float32, torch.int64], torch.float32),
        ([torch.bool, torch.float16], torch.float32),
        ([torch.float16, torch.float64], torch.float64),
        ([torch.int64, torch.float64], torch.float64),
    ],
)
def test_promote(dtypes: list[torch.dtype], wanted: torch.dtype) -> None:
    assert [tensor.dtype for tensor in promote(*(torch.ones(2, dtype=dtype) for dtype in dtypes))] == [wanted] * len(
        dtypes
    )


def test_fill_masked() -> None:
    tensor = torch.tensor([1.0, math.nan], requires_grad=True)
    assert fill_masked(None, tensor) is tensor
    filled = fill_masked(torch.tensor([True, False]), tensor, 5.0)
    assert filled.tolist() == [1.0, 5.0]
    (gradient,) = torch.autograd.grad((filled * torch.tensor([1.0, math.nan])).sum(), tensor)
    assert_close(gradient, torch.tensor([1.0, 0.0]))
    assert fill_masked(torch.tensor(False), torch.tensor([3, 4]), 0).tolist() == [0, 0]


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("rows", [0, 5])
def test_a_kernel_reduces_as_everything_else_does(reduction: Reduction, rows: int) -> None:
    """Also an empty batch, of which torch's mean would be NaN."""
    input, target = torch.randn(rows, 3, dtype=torch.float64), torch.randn(rows, 3, dtype=torch.float64)
    mse, mask = torch.nn.functional.mse_loss, torch.rand(rows, 3) < 0.5
    for options in ({"weight": None, "mask": None}, {"weight": None, "mask": mask}, {"weight": target, "mask": None}):
        expected = reduce_loss("f", (input - target).square(), **options, reduction=reduction)
        assert_close(reduce_kernel("f", mse, input, target, **options, reduction=reduction), expected)
    with pytest.raises(ValueError, match="f: reduction must be one of"):
        reduce_kernel("f", mse, input, target, weight=None, mask=None, reduction="max")  # type: ignore[arg-type]
