"""What scores of few runs say, and what they do not: the statistics of Agarwal et al. on plain arrays.

Scores come as one array an environment, with the runs on the last dimension: ``Scores``. Of a matrix of runs x
environments that is ``list(matrix.T)``. The numbers of runs may differ; every environment weighs the same.

Reference:
    R. Agarwal, M. Schwarzer, P. S. Castro, A. Courville, M. G. Bellemare, "Deep Reinforcement Learning at the Edge
    of the Statistical Precipice", NeurIPS 2021.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import scipy.stats
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Scores: TypeAlias = Sequence[Array]

CONFIDENCE = 0.95
RESAMPLES = 2000
# The permutation test goes through all deals where they are no more than those of ten runs against ten, so that chance
# does not decide about a p-value at the edge; else it draws so many.
ALL_DEALS = 184_756
DEALS = 10_000
# Points of a curve; more are not seen in a picture and take time to resample.
MAX_PLACES = 101
# Chance of calling a difference supported that is none, in a whole family of comparisons.
SIGNIFICANCE = 1 - CONFIDENCE


class Interval(NamedTuple):
    """An estimate with its confidence interval; the ends are NaN where there are too few runs for one."""

    value: float
    low: float
    high: float


class Band(NamedTuple):
    """Estimates along an axis with their confidence intervals, each at its place."""

    value: Array
    low: Array
    high: Array


class Difference(NamedTuple):
    """How a variant differs from the base.

    Attributes:
        interval: The variant's interquartile mean minus the base's.
        p_value: Of the permutation test, after Holm's correction for the variants that were compared.
        decidable: Whether so many runs could support any difference at all.
    """

    interval: Interval
    p_value: float
    decidable: bool = True

    @property
    def supported(self) -> bool:
        """Whether the interval leaves out 0, and the test finds so large a difference by chance too rarely."""
        return self.p_value < SIGNIFICANCE and (self.interval.low > 0 or self.interval.high < 0)


def interquartile_mean(scores: Scores) -> Array:
    """The mean of the middle half of all scores, where every environment weighs the same.

    With as many runs in every environment this is ``scipy.stats.trim_mean(matrix, 0.25, axis=None)``: as there, the
    number of scores that is left out at either end is rounded down.

    Args:
        scores: An array ``(..., runs)`` an environment.

    Returns:
        An array ``(...)``.
    """
    values = np.concatenate(scores, axis=-1)
    cut = values.shape[-1] // 4
    sizes = [sample.shape[-1] for sample in scores]
    if len(set(sizes)) == 1:
        kept = np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut]
        return np.asarray(kept.mean(axis=-1))
    weights = np.concatenate([np.full(size, 1 / (size * len(sizes))) for size in sizes])
    order = np.argsort(values, axis=-1)
    outside = cut / values.shape[-1]
    # How much of each score's weight lies between the two cuts.
    reached = np.clip(np.cumsum(weights[order], axis=-1), outside, 1 - outside)
    inside = np.diff(reached, axis=-1, prepend=outside)
    return np.asarray((np.take_along_axis(values, order, axis=-1) * inside).sum(axis=-1) / inside.sum(axis=-1))


def bootstrap_interval(
    scores: Scores,
    statistic: Callable[[Scores], Array] = interquartile_mean,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """A percentile interval from the stratified bootstrap, which draws the runs anew within each environment.

    Args:
        scores: An array ``(runs,)`` an environment.
        statistic: What is estimated; reduces the last dimension of all arrays together.
        confidence: Of the interval, in (0, 1).
        resamples: How often all runs are drawn anew, >= 1.
        seed: Of the draws.

    Returns:
        The statistic and its interval; without one where an environment has a single run.

    Raises:
        ValueError: An environment without runs, or a score that is not finite.
    """
    band = bootstrap_band(scores, statistic, confidence=confidence, resamples=resamples, seed=seed)
    return Interval(*(float(end) for end in band))


def bootstrap_band(
    scores: Scores,
    statistic: Callable[[Scores], Array] = interquartile_mean,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Band:
    """:func:`bootstrap_interval` at every place along an axis; a draw takes a run's whole row.

    Args:
        scores: An array ``(places, runs)`` an environment.
        statistic: As in :func:`bootstrap_interval`, and so are the other arguments.
        confidence: Of the interval at each place, in (0, 1).
        resamples: How often all runs are drawn anew, >= 1.
        seed: Of the draws.

    Returns:
        Arrays ``(places,)``.
    """
    _check("bootstrap_interval", scores)
    value = statistic(scores)
    if min(sample.shape[-1] for sample in scores) < 2:
        return Band(value, np.full_like(value, np.nan), np.full_like(value, np.nan))
    # One sample an environment, each drawn anew by itself: that is the stratified bootstrap.
    result = scipy.stats.bootstrap(
        tuple(scores),
        lambda *samples, axis: statistic(samples),
        n_resamples=resamples,
        confidence_level=confidence,
        vectorized=True,
        axis=-1,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Band(value, *(np.asarray(end) for end in result.confidence_interval))


def compare_to_base(
    base: Scores, others: Mapping[str, Scores], *, resamples: int = RESAMPLES, deals: int = DEALS, seed: int = 0
) -> dict[str, Difference]:
    """The difference of each variant to the base, and how far the data support it.

    The p-value is that of a permutation test: the runs of the variant and the base are dealt out anew within each
    environment, and a difference of the interquartile means that comes about so is chance. Unlike the bootstrap, the
    test keeps its level with few runs. Holm's correction is over all variants given here, so that the chance to call
    any of them different where none is stays at 5%. With very few runs even those that are wholly apart come about by
    chance too often; such differences are not decidable.

    Args:
        base: Scores of the base.
        others: Scores of the variants, in the same environments.
        resamples: Of the bootstrap.
        deals: Of the permutation test, at most; where there are no more ways to deal, the test is exact.
        seed: Of the draws.

    Returns:
        A difference a variant, under the same names.
    """

    def minus(samples: Scores) -> Array:
        return interquartile_mean(samples[: -len(base)]) - interquartile_mean(samples[-len(base) :])

    p_values = holm([_permutation_test(other, base, deals=deals, seed=seed) for other in others.values()])
    sizes = {(tuple(map(len, other)), tuple(map(len, base))) for other in others.values()}
    smallest = min((_smallest_p_value(*size, deals=deals) for size in sizes), default=1.0)
    decidable = smallest * len(others) < SIGNIFICANCE
    return {
        name: Difference(bootstrap_interval([*other, *base], minus, resamples=resamples, seed=seed), p_value, decidable)
        for (name, other), p_value in zip(others.items(), p_values, strict=True)
    }


def _permutation_test(x: Scores, y: Scores, *, deals: int, seed: int) -> float:
    """How often runs that are dealt out anew within each environment differ as much as these do."""
    _check("compare_to_base", [*x, *y])
    if len(x) != len(y):
        raise ValueError(f"compare_to_base: scores must be of the same environments, got {len(x)} and {len(y)}")
    orders, every = _deal_out([(len(one), len(other)) for one, other in zip(x, y, strict=True)], deals, seed)
    dealt = [np.concatenate(pair)[order] for *pair, order in zip(x, y, orders, strict=True)]
    dealt_x = [runs[:, : len(one)] for runs, one in zip(dealt, x, strict=True)]
    dealt_y = [runs[:, len(one) :] for runs, one in zip(dealt, x, strict=True)]
    by_chance = np.abs(interquartile_mean(dealt_x) - interquartile_mean(dealt_y))
    seen = np.abs(interquartile_mean(x) - interquartile_mean(y))
    # The slack is for sums in another order.
    at_least = np.count_nonzero(by_chance >= seen - 1e-12 * max(1.0, float(seen)))
    # The deal that was seen is one of all; among those drawn at random it is one more.
    return float(at_least / len(by_chance) if every else (1 + at_least) / (1 + len(by_chance)))


def _deal_out(sizes: Sequence[tuple[int, int]], deals: int, seed: int) -> tuple[list[NDArray[np.int64]], bool]:
    """Orders ``(deals, runs)`` of each environment's runs, those of one side first; and whether these are all."""
    ways = [math.comb(one + other, one) for one, other in sizes]
    if math.prod(ways) > max(deals, ALL_DEALS):
        generator = np.random.default_rng(seed)
        runs = [np.tile(np.arange(one + other), (deals, 1)) for one, other in sizes]
        return [generator.permuted(order, axis=-1) for order in runs], False
    which = np.indices(ways).reshape(len(ways), -1)
    return [_every_order(one, other)[way] for (one, other), way in zip(sizes, which, strict=True)], True


@functools.cache
def _every_order(one: int, other: int) -> NDArray[np.int64]:
    """Each choice of ``one`` of so many runs, followed by those that are left."""
    first = np.array(list(itertools.combinations(range(one + other), one)), dtype=np.int64)
    left = np.ones((len(first), one + other), dtype=bool)
    np.put_along_axis(left, first, False, axis=-1)
    return np.concatenate([first, np.nonzero(left)[1].reshape(len(first), other)], axis=-1)


@functools.cache
def _smallest_p_value(x_sizes: tuple[int, ...], y_sizes: tuple[int, ...], *, deals: int) -> float:
    """The p-value where every run of one side is above every run of the other."""
    x = [np.arange(other, other + one, dtype=np.float64) for one, other in zip(x_sizes, y_sizes, strict=True)]
    y = [np.arange(size, dtype=np.float64) for size in y_sizes]
    return _permutation_test(x, y, deals=deals, seed=0)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values after Holm's correction for having looked at all of them.

    Reference:
        S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics, 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def probability_of_improvement(x: Scores, y: Scores, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """How likely a run of x does better than a run of y: P(X > Y) + P(X = Y) / 2, its mean over the environments.

    Args:
        x: Scores of one variant.
        y: Scores of the other, in the same environments.
        resamples: Of the bootstrap.
        seed: Of the draws.

    Returns:
        A probability; 0.5 where neither is better. Where one side won every time, which resampling cannot doubt, the
        interval is that of the binomial distribution for runs set against each other in pairs: at least as wide as it
        says.
    """
    if len(x) != len(y):
        raise ValueError(
            f"probability_of_improvement: scores must be of the same environments, got {len(x)} and {len(y)}"
        )

    def probability(samples: Scores) -> Array:
        pairs = zip(samples[: len(x)], samples[len(x) :], strict=True)
        return np.asarray(np.mean([_win_rate(one, other) for one, other in pairs], axis=0))

    interval = bootstrap_interval([*x, *y], probability, resamples=resamples, seed=seed)
    if 0 < interval.value < 1:
        return interval
    pairs = len(x) * min(sample.shape[-1] for sample in [*x, *y])
    least = ((1 - CONFIDENCE) / 2) ** (1 / pairs)
    return Interval(1.0, least, 1.0) if interval.value == 1 else Interval(0.0, 0.0, 1 - least)


def _win_rate(x: Array, y: Array) -> Array:
    """The share of pairs in which x is larger; a tie counts half."""
    x, y = x[..., :, None], y[..., None, :]
    wins = np.count_nonzero(x > y, axis=(-2, -1)) + np.count_nonzero(x >= y, axis=(-2, -1))
    return np.asarray(wins / (2 * x.shape[-2] * y.shape[-1]))


def performance_profile(scores: Scores, thresholds: Array, *, resamples: int = RESAMPLES, seed: int = 0) -> Band:
    """The share of runs whose score is above each threshold, its mean over the environments.

    Args:
        scores: An array ``(runs,)`` an environment.
        thresholds: Scores, ``(places,)``.
        resamples: Of the bootstrap.
        seed: Of the draws.

    Returns:
        Arrays ``(places,)``.
    """
    above = [(sample > thresholds[:, None]).astype(np.float64) for sample in scores]
    return bootstrap_band(above, _mean, resamples=resamples, seed=seed)


def _mean(scores: Scores) -> Array:
    return np.asarray(np.mean([sample.mean(axis=-1) for sample in scores], axis=0))


def align_curves(curves: Sequence[Array], steps: Array) -> Array:
    """Values of learning curves at common steps, by straight lines between the points of each.

    Args:
        curves: Points (step, value) of each run, by step: an array ``(points, 2)`` a run.
        steps: Where to read them, ``(places,)``; beyond a curve's ends it keeps the value there.

    Returns:
        An array ``(places, runs)``.
    """
    return np.stack([np.interp(steps, curve[:, 0], curve[:, 1]) for curve in curves], axis=-1)


def common_places(axes: Sequence[Array]) -> Array:
    """The places of all curves from the last start to the first end; so many of equal distance where there are more.

    Args:
        axes: The steps of each curve, in order.

    Returns:
        At most ``MAX_PLACES`` steps.
    """
    low, high = max(axis[0] for axis in axes), min(axis[-1] for axis in axes)
    places = np.unique(np.concatenate(axes))
    places = places[(places >= low) & (places <= high)]
    return places if len(places) <= MAX_PLACES else np.linspace(low, high, MAX_PLACES)


def censored_median(amounts: Sequence[float | None]) -> Interval:
    """The median of amounts of which some are only known to be larger than was looked at.

    A run that never reached its mark counts as infinite: it is neither dropped nor counted as what it ran for. The
    interval comes from the binomial distribution of ranks and needs no resampling; it is at least as wide as it says.

    Args:
        amounts: Steps or seconds to a mark; None where it was not reached.

    Returns:
        The median, infinite where half of the runs did not reach the mark. Fewer than 6 runs give no interval of 95%.
    """
    values = np.array([np.inf if amount is None else amount for amount in amounts], dtype=np.float64)
    if not values.size:
        raise ValueError("censored_median: amounts must not be empty")
    ends: Any = scipy.stats.quantile_test(values, p=0.5).confidence_interval(CONFIDENCE)
    return Interval(float(np.median(values)), float(ends.low), float(ends.high))


def _check(function: str, scores: Scores) -> None:
    if not scores or not all(sample.shape[-1] for sample in scores):
        raise ValueError(f"{function}: every environment needs a run")
    if not all(np.isfinite(sample).all() for sample in scores):
        raise ValueError(f"{function}: scores must be finite")
