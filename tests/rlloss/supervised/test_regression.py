"""Regression losses against formulas in plain Python, torch, scipy and what their minimisers are known to be."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as torch_functional
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import rlloss
import rlloss.functional as F
from tests.conftest import assert_close

Formula = Callable[[float, float], float]


def huber(a: float, delta: float) -> float:
    return a * a / 2 if abs(a) <= delta else delta * (abs(a) - delta / 2)


def stirling(count: float) -> float:
    """Stirling's approximation of log(count!), for counts above 1."""
    return count * math.log(count) - count + 0.5 * math.log(2 * math.pi * count) if count > 1 else 0.0


# Loss, hyper-parameters, and the formula for one input x and one target y.
ELEMENTWISE: list[tuple[str, dict[str, Any], Formula]] = [
    ("mae_loss", {}, lambda x, y: abs(x - y)),
    ("mse_loss", {}, lambda x, y: (x - y) ** 2),
    ("nmae_loss", {"norm": 4.0}, lambda x, y: abs(x - y) / 4),
    ("huber_loss", {}, lambda x, y: huber(x - y, 1.0)),
    ("huber_loss", {"delta": 2.5}, lambda x, y: huber(x - y, 2.5)),
    ("smooth_l1_loss", {}, lambda x, y: huber(x - y, 1.0)),
    ("smooth_l1_loss", {"beta": 0.4}, lambda x, y: huber(x - y, 0.4) / 0.4),
    ("smooth_l1_loss", {"beta": 0.0}, lambda x, y: abs(x - y)),
    ("asymmetric_huber_loss", {}, lambda x, y: huber(x - y, 1.0)),
    (
        "asymmetric_huber_loss",
        {"delta": 1.5, "alpha": 3.0},
        lambda x, y: huber(x - y, 1.5) * (3.0 if x - y < -1.5 else 1.0),
    ),
    (
        "asymmetric_huber_loss",
        {"delta": 1.5, "alpha": 0.5, "continuous": True},
        lambda x, y: huber(x - y, 1.5) * (0.5 if x < y else 1.0),
    ),
    ("log_cosh_loss", {}, lambda x, y: math.log(math.cosh(x - y))),
    ("mape_loss", {}, lambda x, y: abs(x - y) / max(abs(y), 1e-8)),
    ("mape_loss", {"eps": 3.0}, lambda x, y: abs(x - y) / max(abs(y), 3.0)),
    ("poisson_nll_loss", {}, lambda x, y: math.exp(x) - y * x),
    ("quantile_loss", {}, lambda x, y: abs(x - y) / 2),
    ("quantile_loss", {"quantile": 0.9}, lambda x, y: 0.9 * (y - x) if x < y else 0.1 * (x - y)),
    ("expectile_loss", {}, lambda x, y: (x - y) ** 2 / 2),
    ("expectile_loss", {"expectile": 0.2}, lambda x, y: (0.2 if x < y else 0.8) * (x - y) ** 2),
]
POSITIVE: list[tuple[str, dict[str, Any], Formula]] = [
    ("msle_loss", {}, lambda x, y: math.log((1 + x) / (1 + y)) ** 2),
    ("poisson_nll_loss", {"log_input": False}, lambda x, y: x - y * math.log(x + 1e-8)),
    (
        "poisson_nll_loss",
        {"log_input": False, "full": True, "eps": 0.5},
        lambda x, y: x - y * math.log(x + 0.5) + stirling(y),
    ),
    ("poisson_nll_loss", {"full": True}, lambda x, y: math.exp(x) - y * x + stirling(y)),
]


def _id(value: Any) -> str:
    if isinstance(value, dict):
        return "-".join(f"{name}={option}" for name, option in value.items()) or "default"
    return value if isinstance(value, str) else "formula"


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _check(name: str, options: dict[str, Any], formula: Formula, pairs: list[tuple[float, float]]) -> None:
    input, target = double([x for x, _ in pairs]), double([y for _, y in pairs])
    wanted = [formula(x, y) for x, y in pairs]
    actual = getattr(F, name)(input, target, **options, reduction="none")
    torch.testing.assert_close(actual, double(wanted), rtol=1e-9, atol=1e-9)
    assert getattr(F, name)(input, target, **options).item() == pytest.approx(
        sum(wanted) / len(wanted), rel=1e-9, abs=1e-9
    )


@pytest.mark.parametrize(("name", "options", "formula"), ELEMENTWISE, ids=_id)
@given(pairs=st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=1, max_size=6))
def test_equals_formula(name: str, options: dict[str, Any], formula: Formula, pairs: list[tuple[float, float]]) -> None:
    _check(name, options, formula, pairs)


@pytest.mark.parametrize(("name", "options", "formula"), ELEMENTWISE, ids=_id)
def test_equals_formula_on_either_side_of_every_kink(name: str, options: dict[str, Any], formula: Formula) -> None:
    errors = [
        sign * (kink + step) for kink in (0.0, 0.4, 1.0, 1.5, 2.5) for step in (-1e-3, 0.0, 1e-3) for sign in (-1, 1)
    ]
    # Targets of 0 and powers of two: the error is then exactly the one meant.
    _check(
        name, options, formula, [(error, 0.0) for error in errors] + [(error + 4.0, 4.0) for error in (-2.5, -1.0, 1.0)]
    )


@pytest.mark.parametrize(("name", "options", "formula"), POSITIVE, ids=_id)
@given(pairs=st.lists(st.tuples(st.floats(0.01, 20), st.floats(0, 20)), min_size=1, max_size=6))
def test_equals_formula_on_positive_numbers(
    name: str, options: dict[str, Any], formula: Formula, pairs: list[tuple[float, float]]
) -> None:
    _check(name, options, formula, pairs)


shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
dtypes = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])


@given(shape=shapes, dtype=dtypes, target_dtype=dtypes | st.sampled_from([torch.int64, torch.uint8]))
def test_any_shape_and_mixture_of_dtypes(shape: tuple[int, ...], dtype: torch.dtype, target_dtype: torch.dtype) -> None:
    numel = math.prod(shape)
    input = (torch.arange(numel) - 2).reshape(shape).to(dtype)
    target = (torch.arange(numel) * 3 % 5).reshape(shape).to(target_dtype)
    wanted = torch.float64 if torch.float64 in (dtype, target_dtype) else torch.float32
    loss = F.mse_loss(input, target, reduction="none")
    assert loss.dtype == wanted
    assert loss.shape == shape
    errors = [(n - 2 - n * 3 % 5) ** 2 for n in range(numel)]
    assert loss.flatten().tolist() == errors
    assert F.mse_loss(input, target).item() == pytest.approx(sum(errors) / max(numel, 1))


TORCH: list[tuple[str, dict[str, Any], Callable[..., Tensor]]] = [
    ("mae_loss", {}, torch_functional.l1_loss),
    ("mse_loss", {}, torch_functional.mse_loss),
    ("huber_loss", {"delta": 0.7}, torch_functional.huber_loss),
    ("smooth_l1_loss", {"beta": 0.7}, torch_functional.smooth_l1_loss),
    ("poisson_nll_loss", {}, torch_functional.poisson_nll_loss),
    ("poisson_nll_loss", {"full": True}, torch_functional.poisson_nll_loss),
]


@pytest.mark.parametrize(("name", "options", "torch_loss"), TORCH, ids=_id)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_equals_torch(name: str, options: dict[str, Any], torch_loss: Callable[..., Tensor], reduction: str) -> None:
    """Value and gradient; torch's defaults are ours where options are left out."""
    input = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    target = torch.rand(4, 5, dtype=torch.float64) * 3
    ours = getattr(F, name)(input, target, **options, reduction=reduction)
    theirs = torch_loss(input, target, **options, reduction=reduction)
    assert_close(ours, theirs)
    assert_close(torch.autograd.grad(ours.sum(), input)[0], torch.autograd.grad(theirs.sum(), input)[0])


# What loss is in terms of another


def test_huber_of_large_delta_is_half_the_squared_error() -> None:
    x, y = torch.randn(2, 50, dtype=torch.float64)
    assert_close(F.huber_loss(x, y, delta=1e3), F.mse_loss(x, y) / 2)
    assert_close(F.asymmetric_huber_loss(x, y, delta=1e3), F.mse_loss(x, y) / 2)


def test_huber_of_small_delta_is_delta_times_the_absolute_error() -> None:
    x, y = torch.randn(2, 50, dtype=torch.float64)
    assert F.huber_loss(x, y, delta=1e-9).item() / 1e-9 == pytest.approx(F.mae_loss(x, y).item())


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_smooth_l1_is_huber_over_beta(beta: float) -> None:
    x, y = torch.randn(2, 50, dtype=torch.float64) * 3
    assert_close(F.smooth_l1_loss(x, y, beta=beta), F.huber_loss(x, y, delta=beta) / beta)


def test_asymmetric_huber_jumps_where_the_article_has_it_jump() -> None:
    """At -delta, from delta^2/2 to alpha delta^2/2; the continuous form does not jump, nor do the other places."""
    for continuous, jump in [(False, 1.0), (True, 0.0)]:
        edge = double([-2.0, -2.0 - 1e-9])
        inside, outside = F.asymmetric_huber_loss(
            edge, torch.zeros_like(edge), delta=2.0, alpha=1.5, continuous=continuous, reduction="none"
        ).tolist()
        assert outside - inside == pytest.approx(jump, abs=1e-6)
    for place in (0.0, 2.0):
        around = double([place - 1e-9, place + 1e-9])
        low, high = F.asymmetric_huber_loss(
            around, torch.zeros_like(around), delta=2.0, alpha=1.5, reduction="none"
        ).tolist()
        assert high == pytest.approx(low, abs=1e-6)


def test_asymmetric_huber_worked_numbers() -> None:
    errors = double([-4.0, -2.0, -1.0, 1.0, 4.0])
    article = F.asymmetric_huber_loss(errors, torch.zeros_like(errors), delta=2.0, alpha=0.5, reduction="none")
    assert article.tolist() == [3.0, 2.0, 0.5, 0.5, 6.0]
    whole = F.asymmetric_huber_loss(
        errors, torch.zeros_like(errors), delta=2.0, alpha=0.5, continuous=True, reduction="none"
    )
    assert whole.tolist() == [3.0, 1.0, 0.25, 0.5, 6.0]


def test_alpha_zero_forgives_under_estimation() -> None:
    errors = double([-4.0, 4.0]).requires_grad_()
    loss = F.asymmetric_huber_loss(errors, torch.zeros(2), alpha=0.0, reduction="sum")
    assert loss == 3.5
    assert torch.autograd.grad(loss, errors)[0].tolist() == [0.0, 1.0]


# Log-cosh


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_cosh_is_zero_at_zero_and_linear_far_out(dtype: torch.dtype) -> None:
    error = torch.tensor([0.0, 1e4, -1e4], dtype=dtype, requires_grad=True)
    loss = F.log_cosh_loss(error, torch.zeros_like(error), reduction="none")
    assert_close(loss, torch.tensor([0.0, 1e4 - math.log(2), 1e4 - math.log(2)], dtype=dtype))
    assert loss[0] == 0
    assert torch.autograd.grad(loss.sum(), error)[0].tolist() == [0.0, 1.0, -1.0]


def test_log_cosh_gradient_is_tanh() -> None:
    error = torch.linspace(-5, 5, 21, dtype=torch.float64, requires_grad=True)
    loss = F.log_cosh_loss(error, torch.zeros_like(error), reduction="sum")
    assert_close(torch.autograd.grad(loss, error)[0], torch.tanh(error))


# Losses over the whole batch


def test_rmse_is_the_root_of_the_reduced_error() -> None:
    x, y, weight = np.array([1.0, 5.0, -2.0]), np.array([0.0, 0.0, 2.0]), np.array([1.0, 0.5, 2.0])
    squared = (x - y) ** 2
    cases: list[tuple[dict[str, Any], Any]] = [
        ({}, np.sqrt(squared.mean())),
        ({"reduction": "sum"}, np.sqrt(squared.sum())),
        ({"reduction": "none"}, np.abs(x - y)),
        ({"eps": 2.0}, np.sqrt(squared.mean() + 2.0)),
        ({"eps": 2.0, "reduction": "sum"}, np.sqrt(squared.sum() + 2.0)),
        ({"eps": 2.0, "reduction": "none"}, np.sqrt(squared + 2.0)),
        ({"weight": double(weight)}, np.sqrt((weight * squared).mean())),
        ({"mask": torch.tensor([True, False, True])}, np.sqrt((1 + 16) / 2)),
        ({"mask": torch.tensor([True, False, True]), "eps": 2.0}, np.sqrt((1 + 16) / 2 + 2.0)),
    ]
    for options, wanted in cases:
        torch.testing.assert_close(F.rmse_loss(double(x), double(y), **options), double(wanted))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_rmse_has_a_gradient_of_zero_at_zero_error(reduction: Any) -> None:
    x = torch.ones(3, requires_grad=True)
    loss = F.rmse_loss(x, torch.ones(3), reduction=reduction)
    assert not loss.any()
    assert torch.autograd.grad(loss.sum(), x)[0].tolist() == [0.0] * 3


def test_rmse_eps_is_not_added_where_nothing_is() -> None:
    """It used to be: a masked-out element, and an empty batch, gave sqrt(eps)."""
    x, y, mask = torch.tensor([3.0, 7.0]), torch.zeros(2), torch.tensor([True, False])
    assert F.rmse_loss(x, y, eps=16.0, mask=mask, reduction="none").tolist() == [5.0, 0.0]
    assert F.rmse_loss(x, y, eps=16.0, mask=torch.tensor([False])) == 0
    assert F.rmse_loss(x[:0], y[:0], eps=16.0) == 0


def test_nmae_norms() -> None:
    x, y = double([1.0, 5.0, 9.0]), double([-2.0, 4.0, 10.0])
    error = np.array([3.0, 1.0, 1.0])
    for norm, scale in [("range", 12.0), ("mean", 4.0), (2.0, 2.0)]:
        loss = F.nmae_loss(x, y, norm=norm, reduction="none")  # type: ignore[arg-type]
        torch.testing.assert_close(loss, double(error / scale))
    assert F.nmae_loss(x, y).item() == pytest.approx(5 / 3 / 12)


@pytest.mark.parametrize(("low", "high"), [(-2.0, 4.0), (2.0, 4.0), (-4.0, -2.0), (2.0, 2.25)])
def test_nmae_norm_is_that_of_what_is_kept(low: float, high: float) -> None:
    """Whatever stands in for the targets that the mask removes."""
    x, y = double([low + 1.0, high - 1.0, 0.0]), double([low, high, math.nan])
    keep = torch.tensor([True, True, False])
    assert F.nmae_loss(x, y, mask=keep).item() == pytest.approx(1 / (high - low))
    assert F.nmae_loss(x, y, mask=keep, norm="mean").item() == pytest.approx(2 / abs(low + high))


@pytest.mark.parametrize(("norm", "target"), [("range", [3.0, 3.0]), ("mean", [-3.0, 3.0])])
def test_nmae_norm_of_zero_counts_as_one(norm: Any, target: list[float]) -> None:
    x = torch.tensor([5.0, 5.0])
    assert F.nmae_loss(x, torch.tensor(target), norm=norm) == F.mae_loss(x, torch.tensor(target))


def test_nmae_mean_of_negative_targets_is_positive() -> None:
    assert F.nmae_loss(torch.tensor([-3.0]), torch.tensor([-4.0]), norm="mean") == 0.25


# Ratios and logarithms


def test_mape_of_a_target_of_zero() -> None:
    assert F.mape_loss(double([0.5]), double([0.0]), eps=0.25) == 2.0
    assert F.mape_loss(double([0.5]), double([0.0])).item() == pytest.approx(0.5e8)


def test_msle_counts_ratios() -> None:
    """Ten times too much costs what ten times too little does."""
    x, y = double([9.0, 0.0, 99.0]), double([0.0, 9.0, 9.0])
    torch.testing.assert_close(F.msle_loss(x, y, reduction="none"), torch.full_like(x, math.log(10) ** 2))


# What the minimiser is


def _gradient_at(name: str, constant: float, targets: np.ndarray, **options: Any) -> float:
    """Derivative of the summed loss of one constant prediction."""
    point = double(constant).requires_grad_()
    loss = getattr(F, name)(point.expand(len(targets)), double(targets), **options, reduction="sum")
    return torch.autograd.grad(loss, point)[0].item()


TARGETS = np.array([-3.0, -1.0, 0.5, 2.0, 2.5, 7.0, 11.0])


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.9])
def test_expectile_is_the_minimiser(expectile: float) -> None:
    minimiser = scipy.stats.expectile(TARGETS, alpha=expectile)
    assert _gradient_at("expectile_loss", minimiser, TARGETS, expectile=expectile) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_quantile_is_the_minimiser(quantile: float) -> None:
    """The derivative changes its sign there."""
    minimiser = np.quantile(TARGETS, quantile, method="inverted_cdf")
    assert _gradient_at("quantile_loss", minimiser - 1e-6, TARGETS, quantile=quantile) < 0
    assert _gradient_at("quantile_loss", minimiser + 1e-6, TARGETS, quantile=quantile) > 0


@pytest.mark.parametrize(
    ("name", "options", "minimiser"),
    [
        ("mse_loss", {}, TARGETS.mean()),
        ("poisson_nll_loss", {}, math.log(TARGETS.mean())),
        ("poisson_nll_loss", {"log_input": False, "eps": 1e-12}, TARGETS.mean()),
    ],
)
def test_mean_is_the_minimiser(name: str, options: dict[str, Any], minimiser: float) -> None:
    assert _gradient_at(name, minimiser, TARGETS, **options) == pytest.approx(0.0, abs=1e-9)


# Gaussian


@given(rows=st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5), st.floats(0.01, 5)), min_size=1, max_size=5))
def test_gaussian_nll_is_that_of_the_normal_distribution(rows: list[tuple[float, float, float]]) -> None:
    mean, target, variance = np.array(rows).T
    wanted = -scipy.stats.norm.logpdf(target, mean, np.sqrt(variance))
    actual = F.gaussian_nll_loss(double(mean), double(target), double(variance), full=True, reduction="none")
    torch.testing.assert_close(actual, double(wanted), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"full": True}, {"eps": 0.5}], ids=_id)
def test_gaussian_nll_equals_torch(options: dict[str, Any]) -> None:
    """Value and gradient, to a variance below eps as well."""
    input, target, var = torch.randn(3, 8, dtype=torch.float64)
    var = var.abs().requires_grad_()
    input.requires_grad_()
    ours = F.gaussian_nll_loss(input, target, var, **options)
    theirs = torch_functional.gaussian_nll_loss(input, target, var, **options)
    assert_close(ours, theirs)
    pairs = zip(torch.autograd.grad(ours, (input, var)), torch.autograd.grad(theirs, (input, var)), strict=True)
    for actual, expected in pairs:
        assert_close(actual, expected)


def test_gaussian_nll_clamps_the_variance_but_not_its_gradient() -> None:
    var = double([0.0]).requires_grad_()
    loss = F.gaussian_nll_loss(double([0.0]), double([1.0]), var, eps=0.5)
    assert loss.item() == pytest.approx((math.log(0.5) + 2.0) / 2)
    assert torch.autograd.grad(loss, var)[0].item() == pytest.approx((2.0 - 4.0) / 2)


# Hyper-parameters and dtypes out of range

BAD: list[tuple[str, dict[str, Any]]] = [
    ("RMSELoss", {"eps": -1.0}),
    ("NMAELoss", {"norm": 0.0}),
    ("NMAELoss", {"norm": "median"}),
    ("HuberLoss", {"delta": 0.0}),
    ("HuberLoss", {"delta": math.inf}),
    ("SmoothL1Loss", {"beta": -0.1}),
    ("AsymmetricHuberLoss", {"delta": -1.0}),
    ("AsymmetricHuberLoss", {"alpha": -1.0}),
    ("MAPELoss", {"eps": 0.0}),
    ("PoissonNLLLoss", {"eps": 0.0}),
    ("QuantileLoss", {"quantile": 0.0}),
    ("QuantileLoss", {"quantile": 1.0}),
    ("ExpectileLoss", {"expectile": 0.0}),
    ("ExpectileLoss", {"expectile": 1.0}),
    ("GaussianNLLLoss", {"eps": 0.0}),
]
FUNCTIONS = {name.replace("_", ""): name for name in F.__all__}


@pytest.mark.parametrize(("cls", "options"), BAD, ids=_id)
def test_hyper_parameter_out_of_range(cls: str, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=rf"^{cls}: {name} must be"):
        getattr(rlloss, cls)(**options)
    function = FUNCTIONS[cls.lower()]
    tensors = [torch.ones(2)] * (3 if function == "gaussian_nll_loss" else 2)
    with pytest.raises(ValueError, match=rf"^{function}: {name} must be"):
        getattr(F, function)(*tensors, **options)


def test_targets_may_be_integers_but_not_bool() -> None:
    assert F.mse_loss(torch.tensor([1.5]), torch.tensor([1])) == 0.25
    with pytest.raises(
        ValueError, match=r"^mse_loss: target must have a floating-point or integer dtype, got torch\.bool$"
    ):
        F.mse_loss(torch.tensor([1.5]), torch.tensor([True]))


@pytest.mark.parametrize("function", ["mse_loss", "huber_loss"])
def test_the_classic_broadcast_is_an_error(function: str) -> None:
    wanted = rf"^{function}: input and target must have the same shape, got input \(8, 1\), target \(8,\)$"
    with pytest.raises(ValueError, match=wanted):
        getattr(F, function)(torch.zeros(8, 1), torch.zeros(8))


def test_which_classes_can_be_a_criterion() -> None:
    """Every regression loss but the one that needs a variance."""
    module = "rlloss.supervised.regression"
    classes = [value for value in vars(rlloss).values() if getattr(value, "__module__", "") == module]
    others = {cls.__name__ for cls in classes if not issubclass(cls, rlloss.RegressionLoss)}
    assert others == {"GaussianNLLLoss"}
