"""Distributional losses against loops over atoms, and the numbers of Gaussian and quantile regression."""

from __future__ import annotations

import itertools
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

A, K = 3, 5
SUPPORTS = [[-2.0, -1.0, 0.0, 1.0, 2.0], [-3.0, -0.5, 0.0, 4.0]]


def double(numbers: Any) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def shared(value: float, support: list[float]) -> list[float]:
    """A value shared between its neighbours."""
    value = min(max(value, support[0]), support[-1])
    probs = [0.0] * len(support)
    for k in range(len(support) - 1):
        if support[k] <= value <= support[k + 1]:
            upper = (value - support[k]) / (support[k + 1] - support[k])
            probs[k], probs[k + 1] = 1.0 - upper, upper
            return probs
    raise AssertionError


def bins(value: float, support: list[float], sigma: float) -> list[float]:
    """The mass of a Gaussian in each bin."""
    value = min(max(value, support[0]), support[-1])
    middles = [(a + b) / 2 for a, b in itertools.pairwise(support)]
    edges = [2 * support[0] - middles[0], *middles, 2 * support[-1] - middles[-1]]
    below = [0.5 * math.erfc((value - edge) / (sigma * math.sqrt(2))) for edge in edges]
    return [(b - a) / (below[-1] - below[0]) for a, b in itertools.pairwise(below)]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=5), st.sampled_from(SUPPORTS))
def test_two_hot(values: list[float], support: list[float]) -> None:
    probs = F.two_hot(double(values), double(support))
    assert_close(probs, double([shared(value, support) for value in values]))
    mean = (probs * double(support)).sum(-1)
    assert_close(mean, double(values).clamp(support[0], support[-1]))
    assert bool((probs > 0).sum(-1).le(2).all())


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=5), st.sampled_from(SUPPORTS), st.sampled_from([0.3, 0.75, 3.0]))
def test_hl_gauss(values: list[float], support: list[float], sigma: float) -> None:
    probs = F.hl_gauss(double(values), double(support), sigma=sigma)
    assert_close(probs, double([bins(value, support, sigma) for value in values]))
    assert_close(probs.sum(-1), torch.ones(len(values), dtype=torch.float64))


def test_hl_gauss_of_a_narrow_gaussian_is_one_bin() -> None:
    support = torch.linspace(-10, 10, 21)
    probs = F.hl_gauss(torch.tensor([3.1, -1e6, 1e6]), support, sigma=1e-3)
    assert probs.argmax(-1).tolist() == [13, 0, 20]
    assert_close(probs.amax(-1), torch.ones(3))


def test_hl_gauss_keeps_the_mean_away_from_the_ends() -> None:
    support = torch.linspace(-10, 10, 41, dtype=torch.float64)
    values = torch.linspace(-7, 7, 29, dtype=torch.float64)
    mean = (F.hl_gauss(values, support, sigma=0.75 * 0.5) * support).sum(-1)
    assert float((mean - values).abs().max()) < 1e-3


@given(st.integers(0, 2**31), st.sampled_from(SUPPORTS))
def test_categorical_projection(seed: int, support: list[float]) -> None:
    generator = torch.Generator().manual_seed(seed)
    probs = torch.rand(4, len(support), generator=generator, dtype=torch.float64)
    probs /= probs.sum(-1, keepdim=True)
    reward = torch.randn(4, generator=generator, dtype=torch.float64)
    discount = double([0.0, 0.5, 0.99, 1.0])
    expected = []
    for row, r, d in zip(probs.tolist(), reward.tolist(), discount.tolist(), strict=True):
        parts = [[p * s for s in shared(r + d * z, support)] for p, z in zip(row, support, strict=True)]
        expected.append([math.fsum(column) for column in zip(*parts, strict=True)])
    assert_close(F.categorical_projection(probs, reward, discount, double(support)), double(expected))


def test_projection_of_a_shift_by_a_whole_bin_moves_every_atom() -> None:
    support, probs = double([0.0, 1.0, 2.0, 3.0]), double([[0.5, 0.3, 0.2, 0.0]])
    moved = F.categorical_projection(probs, double([1.0]), double([1.0]), support)
    assert_close(moved, double([[0.0, 0.5, 0.3, 0.2]]))
    over = F.categorical_projection(probs, double([9.0]), double([1.0]), support)
    assert_close(over, double([[0.0, 0.0, 0.0, 1.0]]))


def quantile_loss(theta: list[float], target: list[float], tau: list[float], kappa: float) -> float:
    total = 0.0
    for level, quantile in zip(tau, theta, strict=True):
        for sample in target:
            u = sample - quantile
            size = abs(u)
            if kappa > 0:
                size = u * u / (2 * kappa) if size <= kappa else size - kappa / 2
            total += abs(level - (u < 0)) * size / len(target)
    return total


def test_quantile_huber_loss_needs_a_target() -> None:
    with pytest.raises(
        ValueError, match=r"quantile_huber_loss: target must hold at least one sample, got shape \(2, 0\)"
    ):
        F.quantile_huber_loss(torch.zeros(2, 3), torch.zeros(2, 0))


@given(
    st.lists(st.floats(-3, 3), min_size=1, max_size=4),
    st.lists(st.floats(-3, 3), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_quantile_huber_loss(theta: list[float], target: list[float], kappa: float) -> None:
    middles = [(i + 0.5) / len(theta) for i in range(len(theta))]
    ours = F.quantile_huber_loss(double([theta]), double([target]), kappa=kappa)
    assert_close(ours, double(quantile_loss(theta, target, middles, kappa)))
    drawn = [0.1 + 0.2 * i for i in range(len(theta))]
    ours = F.quantile_huber_loss(double([theta]), double([target]), double([drawn]), kappa=kappa)
    assert_close(ours, double(quantile_loss(theta, target, drawn, kappa)))


def test_quantile_regression_finds_the_quantiles() -> None:
    """Its minimum over samples of a uniform distribution is at the levels themselves."""
    samples = torch.linspace(0, 1, 1001, dtype=torch.float64).unsqueeze(0)
    levels = (torch.arange(4, dtype=torch.float64) + 0.5) / 4
    theta = levels.unsqueeze(0).requires_grad_()
    at_the_levels = torch.autograd.grad(F.quantile_huber_loss(theta, samples, kappa=0.0), theta)[0]
    assert float(at_the_levels.abs().max()) < 2e-3
    elsewhere = (levels + 0.1).unsqueeze(0).requires_grad_()
    slope = torch.autograd.grad(F.quantile_huber_loss(elsewhere, samples, kappa=0.0), elsewhere)[0]
    assert float((slope - 0.1).abs().max()) < 2e-3


def test_one_quantile_is_the_median() -> None:
    theta, target = torch.randn(6, 1, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)
    expected = F.quantile_loss(theta, target, quantile=0.5)
    assert_close(F.quantile_huber_loss(theta, target, kappa=0.0), expected)
    assert_close(F.quantile_huber_loss(theta, target), 0.5 * F.huber_loss(theta, target))


def test_categorical_value_loss_is_cross_entropy_of_the_action_taken() -> None:
    logits, action = torch.randn(6, A, K, dtype=torch.float64), torch.randint(A, (6,))
    probs = torch.randn(6, K, dtype=torch.float64).softmax(-1)
    expected = F.cross_entropy(logits[torch.arange(6), action], probs)
    assert_close(F.categorical_value_loss(logits, action, probs), expected)


# Regression as classification


@pytest.mark.parametrize("cls", [rlloss.TwoHotLoss, rlloss.HLGaussLoss])
def test_histogram_losses(cls: type[rlloss.HistogramLoss]) -> None:
    loss = cls(low=-2.0, high=2.0, num_bins=K)  # type: ignore[call-arg]
    logits, target = torch.randn(7, K, dtype=torch.float64), torch.linspace(-3, 3, 7, dtype=torch.float64)
    support = SUPPORTS[0]
    make = shared if cls is rlloss.TwoHotLoss else lambda value, support: bins(value, support, 0.75)
    probs = double([make(value, support) for value in target.tolist()])
    assert_close(loss(logits, target), F.cross_entropy(logits, probs))
    assert_close(loss.value(logits), logits.softmax(-1) @ double(support))
    assert loss.num_outputs == K


@pytest.mark.parametrize("cls", [rlloss.TwoHotLoss, rlloss.HLGaussLoss])
def test_histogram_losses_are_least_where_the_value_is_the_mean(cls: type[rlloss.HistogramLoss]) -> None:
    """For samples of one distribution the best prediction is the mean of their histograms."""
    loss = cls(low=-5.0, high=5.0, num_bins=41)  # type: ignore[call-arg]
    target = torch.randn(256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    support = torch.linspace(-5.0, 5.0, 41, dtype=torch.float64)
    make = F.two_hot(target, support) if cls is rlloss.TwoHotLoss else F.hl_gauss(target, support, sigma=0.75 * 0.25)
    logits = make.mean(0).clamp(min=1e-30).log().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits.expand(256, 41), target), logits)
    assert float(gradient.abs().max()) < 1e-9
    assert loss.value(logits).item() == pytest.approx(target.mean().item(), abs=1e-3)


# The losses that an agent takes


def inputs(outputs: int, seed: int = 0, rows: int = 20) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    online, following, selector = torch.randn(3, rows, A, outputs, generator=generator, dtype=torch.float64)
    return {
        "outputs": online,
        "action": torch.randint(A, (rows,), generator=generator),
        "reward": torch.randn(rows, generator=generator, dtype=torch.float64),
        "discount": 0.9 * (torch.rand(rows, generator=generator, dtype=torch.float64) < 0.8).double(),
        "next_outputs": following,
        "selector_outputs": selector,
    }


def picked(x: dict[str, Tensor], q: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of the action taken, and the target network's of the action that is best by ``q``."""
    rows = torch.arange(len(q))
    return x["outputs"][rows, x["action"]], x["next_outputs"][rows, q.argmax(-1)]


@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("rescale", [False, True])
def test_categorical_td_loss(doubled: bool, rescale: bool) -> None:
    x, support = inputs(K), SUPPORTS[0]
    loss = rlloss.CategoricalTDLoss(low=-2.0, high=2.0, num_atoms=K, double=doubled, rescale=rescale)
    expand = F.signed_parabolic(double(support)) if rescale else double(support)
    chooser = x["selector_outputs"] if doubled else x["next_outputs"]
    chosen, following = picked(x, chooser.softmax(-1) @ expand)
    probs = following.softmax(-1)
    expected, means = [], []
    for row, p, r, d in zip(chosen, probs.tolist(), x["reward"].tolist(), x["discount"].tolist(), strict=True):
        atoms = [r + d * z for z in expand.tolist()]
        if rescale:
            atoms = F.signed_hyperbolic(double(atoms)).tolist()
        target = torch.stack([p_k * double(shared(z, support)) for p_k, z in zip(p, atoms, strict=True)]).sum(0)
        expected.append(-(target * row.log_softmax(-1)).sum())
        means.append(math.fsum(p_k * z for p_k, z in zip(p, atoms, strict=True)))
    result = loss(**x)
    assert_close(result.loss, torch.stack(expected).mean())
    assert_close(result.td_error, double(means) - chosen.softmax(-1) @ double(support))
    assert_close(loss.q_values(x["outputs"]), x["outputs"].softmax(-1) @ expand)


def test_categorical_td_loss_is_the_functions_together() -> None:
    x, support = inputs(K), double(SUPPORTS[0])
    _, following = picked(x, x["next_outputs"].softmax(-1) @ support)
    target = F.categorical_projection(following.softmax(-1), x["reward"], x["discount"], support)
    expected = F.categorical_value_loss(x["outputs"], x["action"], target)
    assert_close(rlloss.CategoricalTDLoss(low=-2.0, high=2.0, num_atoms=K)(**x).loss, expected)


@pytest.mark.parametrize("doubled", [False, True])
@pytest.mark.parametrize("rescale", [False, True])
def test_quantile_td_loss(doubled: bool, rescale: bool) -> None:
    x = inputs(K)
    loss = rlloss.QuantileTDLoss(num_quantiles=K, kappa=0.5, double=doubled, rescale=rescale)

    def expand(z: Tensor) -> Tensor:
        return F.signed_parabolic(z) if rescale else z

    chooser = x["selector_outputs"] if doubled else x["next_outputs"]
    chosen, following = picked(x, expand(chooser).mean(-1))
    target = x["reward"][:, None] + x["discount"][:, None] * expand(following)
    target = F.signed_hyperbolic(target) if rescale else target
    middles = [(i + 0.5) / K for i in range(K)]
    rows = zip(chosen.tolist(), target.tolist(), strict=True)
    expected = double([quantile_loss(theta, t, middles, 0.5) for theta, t in rows]).mean()
    result = loss(**x)
    assert_close(result.loss, expected)
    assert_close(result.td_error, target.mean(-1) - chosen.mean(-1))
    assert_close(loss.q_values(x["outputs"]), expand(x["outputs"]).mean(-1))


@pytest.mark.parametrize(
    ("loss", "criterion"),
    [
        (rlloss.TwoHotTDLoss(low=-2.0, high=2.0, num_bins=K, double=True), rlloss.TwoHotLoss),
        (rlloss.HLGaussTDLoss(low=-2.0, high=2.0, num_bins=K, double=True), rlloss.HLGaussLoss),
    ],
)
def test_td_by_classification_regresses_on_the_target_s_mean(
    loss: rlloss.TDLoss, criterion: type[rlloss.HistogramLoss]
) -> None:
    x, support = inputs(K), double(SUPPORTS[0])
    next_q, selector = x["next_outputs"].softmax(-1) @ support, x["selector_outputs"].softmax(-1) @ support
    target = F.q_learning_target(x["reward"], x["discount"], next_q, selector_q=selector)
    chosen = x["outputs"][torch.arange(20), x["action"]]
    expected = criterion(low=-2.0, high=2.0, num_bins=K)(chosen, target)  # type: ignore[call-arg]
    result = loss(**x)
    assert_close(result.loss, expected)
    assert_close(result.td_error, target - chosen.softmax(-1) @ support)


@pytest.mark.parametrize("criterion", [rlloss.TwoHotLoss(num_bins=K), rlloss.HLGaussLoss(num_bins=K)])
@pytest.mark.parametrize("rescale", [False, True])
def test_every_td_loss_takes_a_criterion_with_several_outputs(criterion: rlloss.HistogramLoss, rescale: bool) -> None:
    """It learns the compressed target of the expanded means, as if these were its outputs."""
    x = inputs(K)
    x["target_outputs"] = x["next_outputs"].flip(0)
    means = {name: criterion.value(tensor) for name, tensor in x.items() if name.endswith("outputs")}
    losses: list[tuple[type[rlloss.TDLoss], dict[str, Any]]] = [
        (rlloss.TDLoss, {"double": True}), (rlloss.SoftQLoss, {"temperature": 0.5}), (rlloss.MunchausenLoss, {}),
    ]  # fmt: skip
    for cls, options in losses:
        loss = cls(criterion, rescale=rescale, **options)
        plain = cls(rlloss.MSELoss(reduction="none"), rescale=rescale, **options)(**x | means)
        assert loss.outputs_per_action == K
        result = loss(**x)
        assert_close(result.td_error, plain.td_error)
        chosen = x["outputs"][torch.arange(len(x["action"])), x["action"]]
        assert_close(result.loss, criterion(chosen, criterion.value(chosen) + plain.td_error))


def test_criteria_of_several_outputs_under_one_name_are_rescaled_too() -> None:
    x, bounds = inputs(K), {"low": -2.0, "high": 2.0, "num_bins": K}
    for named, criterion in (
        (rlloss.TwoHotTDLoss, rlloss.TwoHotLoss(**bounds)),  # type: ignore[arg-type]
        (rlloss.HLGaussTDLoss, rlloss.HLGaussLoss(**bounds)),  # type: ignore[arg-type]
    ):
        for double, rescale in ((False, False), (True, False), (False, True), (True, True)):
            loss = named(**bounds, double=double, rescale=rescale)(**x)  # type: ignore[arg-type]
            assert_close(loss.loss, rlloss.TDLoss(criterion, double=double, rescale=rescale)(**x).loss)


@pytest.mark.parametrize("value", [-2.0, -1.0, 0.0, 1.0, 2.0, -1.5, 0.25, -3.0, 3.0])
def test_two_hot_keeps_the_mean_s_gradient_on_a_point_of_the_support(value: float) -> None:
    support = torch.linspace(-2.0, 2.0, 5)
    v = torch.tensor([value], requires_grad=True)
    (gradient,) = torch.autograd.grad((F.two_hot(v, support) * support).sum(), v)
    assert gradient == (1.0 if -2.0 <= value < 2.0 else 0.0)


def test_errors() -> None:
    x = inputs(K)
    with pytest.raises(ValueError, match=r"^CategoricalTDLoss: high must be in \(1, inf\), got 0$"):
        rlloss.CategoricalTDLoss(low=1.0, high=0)
    with pytest.raises(ValueError, match=r"^QuantileTDLoss: num_quantiles must be >= 2, got 1$"):
        rlloss.QuantileTDLoss(num_quantiles=1)
    with pytest.raises(ValueError, match=r"^HLGaussLoss: sigma must be in \(0, inf\), got 0"):
        rlloss.HLGaussLoss(sigma=0.0)
    with pytest.raises(ValueError, match=r"^two_hot: support must have shape \(K,\) with K >= 2, got \(1,\)$"):
        F.two_hot(torch.zeros(1), torch.zeros(1))
    del x["selector_outputs"]
    with pytest.raises(ValueError, match=r"^QuantileTDLoss: selector_outputs must be given"):
        rlloss.QuantileTDLoss(num_quantiles=K, double=True)(**x)
    with pytest.raises(ValueError, match=r"^QuantileTDLoss: outputs must have shape \(..., A, 7\), got outputs"):
        rlloss.QuantileTDLoss(num_quantiles=7)(**x)
