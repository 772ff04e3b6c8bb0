"""Ranking losses: against loops in float64, torch, worked numbers and their own degenerate settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import rlloss
import rlloss.functional as F
from rlloss.core import pairs
from tests.conftest import assert_close

# Each list loss against a loop over one list of numbers; it gives the loss and what the list counts in the mean.
Reference = Callable[[list[float], list[float]], tuple[float, float]]


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _all_pairs(pair: Callable[[float, float, float, float], float]) -> Reference:
    def reference(s: list[float], y: list[float]) -> tuple[float, float]:
        terms = [pair(s[i], s[j], y[i], y[j]) for i, j in itertools.product(range(len(s)), repeat=2)]
        return math.fsum(terms), len(s) ** 2

    return reference


def _without_ties(s: list[float], y: list[float]) -> tuple[float, float]:
    untied = [(i, j) for i, j in itertools.product(range(len(s)), repeat=2) if y[i] != y[j]]
    return math.fsum(_softplus(-(y[i] - y[j]) * (s[i] - s[j])) for i, j in untied), len(untied)


def _list_net(s: list[float], y: list[float]) -> tuple[float, float]:
    scores, labels = np.exp(np.array(s)), np.exp(np.array(y))
    return float(-(labels / labels.sum() * np.log(scores / scores.sum())).sum()), 1


def _list_mle(s: list[float], y: list[float]) -> tuple[float, float]:
    order = sorted(range(len(s)), key=lambda i: -y[i])  # stable
    likelihood = 1.0
    for place, best in enumerate(order):
        likelihood *= math.exp(s[best]) / math.fsum(math.exp(s[i]) for i in order[place:])
    return -math.log(likelihood), 1


def _lambda_rank(s: list[float], y: list[float]) -> tuple[float, float]:
    rank = {i: place for place, i in enumerate(sorted(range(len(s)), key=lambda i: -s[i]), start=1)}
    best = math.fsum((2**grade - 1) / math.log2(1 + place) for place, grade in enumerate(sorted(y)[::-1], start=1))
    loss = 0.0
    for i, j in itertools.product(range(len(s)), repeat=2):
        if y[i] > y[j]:
            swap = (2 ** y[i] - 2 ** y[j]) * (1 / math.log2(1 + rank[i]) - 1 / math.log2(1 + rank[j]))
            loss += abs(swap) / best * _softplus(-1.5 * (s[i] - s[j]))
    return loss, 1


SIGNS, GRADES = (-1.0, 1.0), (0.0, 1.0, 2.0, 3.0)
LISTS: dict[str, tuple[Callable[..., Tensor], dict[str, Any], tuple[float, ...], Reference]] = {
    "pairwise_ranking": (
        F.pairwise_ranking_loss,
        {"margin": 0.7},
        SIGNS,
        _all_pairs(lambda s, other, y, _: max(0.0, 0.7 - y * (s - other))),
    ),
    "soft_pairwise": (
        F.soft_pairwise_loss,
        {},
        SIGNS,
        _all_pairs(lambda s, other, y, _: _softplus(-y * (s - other))),
    ),
    "pairwise_logistic": (
        F.pairwise_logistic_loss,
        {},
        GRADES,
        _all_pairs(lambda s, other, y, label: _softplus(-(y - label) * (s - other))),
    ),
    "pairwise_logistic_without_ties": (F.pairwise_logistic_loss, {"ignore_ties": True}, GRADES, _without_ties),
    "list_net": (F.list_net_loss, {}, GRADES, _list_net),
    "list_mle": (F.list_mle_loss, {}, GRADES, _list_mle),
    "lambda_rank": (F.lambda_rank_loss, {"sigma": 1.5}, GRADES, _lambda_rank),
}
every_list_loss = pytest.mark.parametrize("name", LISTS)
shapes = st.tuples(st.integers(1, 4), st.integers(1, 9))


def _draw(
    name: str, shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor(LISTS[name][2], dtype=dtype)
    labels = values[torch.randint(len(values), shape, generator=generator)]
    return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_(), labels


def _expected(name: str, scores: Tensor, labels: Tensor, mask: Tensor) -> tuple[list[float], list[float]]:
    losses, counts = [], []
    for s, y, keep in zip(scores, labels, mask, strict=True):
        loss, count = LISTS[name][3](s[keep].tolist(), y[keep].tolist()) if keep.any() else (0.0, 0.0)
        losses.append(loss)
        counts.append(count)
    return losses, counts


@pytest.fixture
def limit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose the form of the all-pairs sums: the limit below which they take the plain one."""
    monkeypatch.setattr(pairs, "BLOCK", request.param)
    monkeypatch.setattr(pairs, "SORT_ABOVE", request.param)


with_both_forms = pytest.mark.parametrize("limit", [2**20, 8], ids=["plain", "large"], indirect=True)


@every_list_loss
@with_both_forms
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # it is the same for every example
@given(shape=shapes, seed=st.integers(0, 2**16))
def test_equals_a_loop_over_ragged_lists(name: str, limit: None, shape: tuple[int, int], seed: int) -> None:
    function, options, _, _ = LISTS[name]
    scores, labels = _draw(name, shape, seed)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.2
    losses, counts = _expected(name, scores, labels, mask)
    none = function(scores, labels, **options, mask=mask, reduction="none")
    assert none.tolist() == pytest.approx(losses, rel=1e-11, abs=1e-12)
    total = function(scores, labels, **options, mask=mask, reduction="sum")
    assert total.item() == pytest.approx(math.fsum(losses), rel=1e-11, abs=1e-12)
    mean = function(scores, labels, **options, mask=mask)
    assert mean.item() == pytest.approx(math.fsum(losses) / max(math.fsum(counts), 1.0), rel=1e-11, abs=1e-12)


@every_list_loss
def test_any_prefix_is_a_batch_of_lists(name: str) -> None:
    function, options, _, _ = LISTS[name]
    scores, labels = _draw(name, (2, 3, 5))
    none = function(scores, labels, **options, reduction="none")
    assert none.shape == (2, 3)
    assert_close(none.flatten(), function(scores.flatten(0, 1), labels.flatten(0, 1), **options, reduction="none"))
    one = function(scores[1, 2], labels[1, 2], **options, reduction="none")
    assert_close(one, none[1, 2])


@every_list_loss
@with_both_forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_extreme_scores(name: str, limit: None, dtype: torch.dtype) -> None:
    function, options, _, _ = LISTS[name]
    labels = _draw(name, (2, 6))[1].float()
    scores = torch.tensor([[1e4, -1e4, 0.0, 1e4, -1e4, 1.0], [1e4] * 6], dtype=dtype).requires_grad_()
    exact = scores.detach().double().requires_grad_()
    value, expected = function(scores, labels, **options), function(exact, labels, **options)
    (gradient,) = torch.autograd.grad(value, scores)
    (exact_gradient,) = torch.autograd.grad(expected, exact)
    assert value.dtype == torch.float32
    assert_close(value, expected.float())
    assert_close(gradient, exact_gradient.to(dtype), dtype=dtype)


@every_list_loss
@with_both_forms
def test_a_list_of_one_and_of_none(name: str, limit: None) -> None:
    function, options, _, _ = LISTS[name]
    scores, labels = _draw(name, (1, 1))
    losses, _ = _expected(name, scores, labels, torch.ones(1, 1, dtype=torch.bool))
    assert function(scores, labels, **options, reduction="none").tolist() == pytest.approx(losses, abs=1e-12)
    scores, labels = _draw(name, (3, 0))
    value = function(scores, labels, **options)
    assert value.item() == 0.0
    assert torch.autograd.grad(value, scores)[0].shape == (3, 0)


# Worked numbers and degenerate settings


@given(st.floats(-5, 5), st.sampled_from(["none", "mean", "sum"]))
def test_margin_ranking_equals_torch(margin: float, reduction: str) -> None:
    input1, input2, target = torch.randn(4, 3), torch.randn(4, 3), torch.randint(2, (4, 3)) * 2 - 1
    actual = F.margin_ranking_loss(input1, input2, target, margin=margin, reduction=reduction)  # type: ignore[arg-type]
    expected = torch.nn.functional.margin_ranking_loss(input1, input2, target, margin=margin, reduction=reduction)
    assert_close(actual, expected)


def test_margin_ranking_is_the_article_s_sum_over_positive_and_negative_scores() -> None:
    positive, negative = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([0.0, 1.0, 0.8])
    actual = F.margin_ranking_loss(positive, negative, torch.ones(3), margin=0.5, reduction="sum")
    assert_close(actual, torch.tensor(0.0 + 1.0 + 0.3))


def test_pairwise_ranking_of_a_perfect_list() -> None:
    """Three positives far above two negatives: what is left are the pairs of equal labels."""
    scores, labels = torch.tensor([100.0, 100.0, 100.0, 0.0, 0.0]), torch.tensor([1, 1, 1, -1, -1])
    assert F.pairwise_ranking_loss(scores, labels, margin=0.25, reduction="sum").item() == 0.25 * (3 * 3 + 2 * 2)


def test_pairwise_ranking_gradient_counts_the_violated_pairs() -> None:
    scores = torch.tensor([0.0, 1.0, 3.0], requires_grad=True)
    loss = F.pairwise_ranking_loss(scores, torch.tensor([1, -1, -1]), margin=0.5, reduction="sum")
    # Violated: the first below both others (as row 0, and as rows 1 and 2), the last above the second (as row 2).
    assert_close(torch.autograd.grad(loss, scores)[0], torch.tensor([-4.0, 1.0, 3.0]))


def test_soft_pairwise_is_a_smooth_hinge() -> None:
    """Scores and margin 0 scaled up, the logistic loss becomes the hinge."""
    scores, labels = _draw("soft_pairwise", (3, 8))
    soft = F.soft_pairwise_loss(1e6 * scores, labels, reduction="none") - 8 * math.log(2.0)
    hard = F.pairwise_ranking_loss(1e6 * scores, labels, margin=0.0, reduction="none")
    torch.testing.assert_close(soft, hard, rtol=1e-9, atol=1e-6)


def test_pairwise_logistic_of_two_items_is_ranknet() -> None:
    loss = F.pairwise_logistic_loss(torch.tensor([0.3, 1.0]), torch.tensor([1, 0]), ignore_ties=True)
    assert_close(loss, torch.tensor(math.log(1 + math.exp(0.7))))


def test_ties_count_log_two_each_unless_they_are_ignored() -> None:
    scores, labels = _draw("pairwise_logistic", (2, 9))
    ties = (labels[:, :, None] == labels[:, None]).sum((-2, -1)).double()
    difference = F.pairwise_logistic_loss(scores, labels, reduction="none") - F.pairwise_logistic_loss(
        scores, labels, ignore_ties=True, reduction="none"
    )
    assert_close(difference, ties * math.log(2.0))
    assert F.pairwise_logistic_loss(scores, torch.zeros_like(labels), ignore_ties=True).item() == 0.0


def test_list_net_of_equal_scores_and_its_minimum() -> None:
    labels = torch.tensor([3.0, 1.0, 0.0, 2.0], dtype=torch.float64)
    assert_close(F.list_net_loss(torch.zeros_like(labels), labels), torch.tensor(math.log(4.0), dtype=torch.float64))
    scores = (labels + 5.0).requires_grad_()
    (gradient,) = torch.autograd.grad(F.list_net_loss(scores, labels), scores)
    assert_close(gradient, torch.zeros_like(labels))


def test_list_mle_of_equal_scores_is_the_number_of_orders() -> None:
    loss = F.list_mle_loss(torch.zeros(5, dtype=torch.float64), torch.arange(5))
    assert loss.item() == pytest.approx(math.log(math.factorial(5)))


def test_list_mle_keeps_the_order_of_ties() -> None:
    scores = torch.tensor([0.0, 2.0], dtype=torch.float64)
    first = F.list_mle_loss(scores, torch.zeros(2))
    assert first.item() == pytest.approx(math.log(1 + math.exp(2.0)))
    assert_close(first, F.list_mle_loss(scores, torch.tensor([1.0, 0.0])))


def test_lambda_rank_gradient_is_the_swap_times_the_logistic() -> None:
    """Two items in the wrong order: dNDCG is (1 - 1 / log2 3), the lambda its product with sigmoid."""
    scores = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(F.lambda_rank_loss(scores, torch.tensor([1, 0])), scores)
    swap = (1 - 1 / math.log2(3)) / 1.0
    slope = swap / (1 + math.exp(-1.0))
    assert_close(gradient, torch.tensor([-slope, slope], dtype=torch.float64))


def test_lambda_rank_of_high_grades() -> None:
    """2^y overflows float32 from 128 on, the ratio of two gains does not."""
    scores = torch.tensor([0.3, -0.2, 0.1], requires_grad=True)
    for top in (100.0, 128.0, 1000.0):
        loss = F.lambda_rank_loss(scores, torch.tensor([top, top - 1, 0.0]))
        exact = F.lambda_rank_loss(scores.double(), torch.tensor([top, top - 1, 0.0]).double())
        assert_close(loss, exact.float())
        assert torch.autograd.grad(loss, scores)[0].isfinite().all()
    # Gains 2^y and 2^(y - 1) beside 0: the limit is the same for every high y.
    assert_close(loss, F.lambda_rank_loss(scores, torch.tensor([60.0, 59.0, 0.0])))


def test_lambda_rank_without_relevance_is_zero() -> None:
    assert F.lambda_rank_loss(torch.randn(2, 4), torch.zeros(2, 4)).item() == 0.0


def test_signs_are_checked_on_request() -> None:
    for function in (F.pairwise_ranking_loss, F.soft_pairwise_loss):
        with rlloss.value_checks(), pytest.raises(ValueError, match=f"{function.__name__}: labels .* -1 and \\+1"):
            function(torch.zeros(3), torch.tensor([1, -1, 2]))
    with rlloss.value_checks(), pytest.raises(ValueError, match="margin_ranking_loss: target"):
        F.margin_ranking_loss(torch.zeros(2), torch.zeros(2), torch.tensor([0, 1]))


# The form for large inputs


LARGE = ("pairwise_ranking", "soft_pairwise", "pairwise_logistic", "pairwise_logistic_without_ties")


@pytest.mark.parametrize("name", LARGE)
def test_a_large_list_equals_the_plain_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, options, _, _ = LISTS[name]
    scores, labels = _draw(name, (2, 1100))
    results = []
    for limit in (pairs.BLOCK, 2**40):
        monkeypatch.setattr(pairs, "BLOCK", limit)
        monkeypatch.setattr(pairs, "SORT_ABOVE", limit)
        value = function(scores, labels, **options, reduction="none")
        results.append((value, torch.autograd.grad(value.sum(), scores)[0]))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("name", LARGE)
def test_a_large_list_compiles_transforms_and_runs_without_data(name: str) -> None:
    function, options, _, _ = LISTS[name]
    scores, labels = _draw(name, (1100,))

    def loss(scores: Tensor) -> Tensor:
        return function(scores, labels.to(scores.device), **options)

    value = loss(scores)
    (gradient,) = torch.autograd.grad(value, scores)
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(scores)
    assert_close(compiled, value)
    assert_close(torch.autograd.grad(compiled, scores)[0], gradient)
    assert_close(torch.func.grad(loss)(scores.detach()), gradient)
    stacked = torch.stack([scores, scores]).detach()
    assert_close(torch.func.vmap(torch.func.grad(loss))(stacked)[1], gradient)
    meta = scores.detach().to("meta").requires_grad_()
    assert torch.autograd.grad(loss(meta), meta)[0].is_meta
