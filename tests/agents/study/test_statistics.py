"""Statistics against exact small cases, scipy, the peer rliable, and made-up experiments whose truth is known."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
import scipy.stats

from agents.study import statistics
from agents.study.statistics import (
    Array,
    Difference,
    Interval,
    Scores,
    align_curves,
    bootstrap_band,
    bootstrap_interval,
    censored_median,
    compare_to_base,
    holm,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
)
from tests.conftest import mostly_slow

# Runs x environments, drawn once. The numbers beside them are those of rliable 1.2.0 (arch 7.2, numpy 2.4) on the
# same matrices, percentile intervals of 95% from 50,000 resamples after numpy.random.seed(0):
#   library.get_interval_estimates({"x": X, "y": Y}, lambda s: np.array([metrics.aggregate_iqm(s)]), reps=50000)
#   ... of {"xy": (X, Y)} with metrics.probability_of_improvement, and with the difference of both aggregate_iqm
#   library.create_performance_profile({"x": X}, TAUS, reps=50000)
X = np.array([
    [0.50, 0.73, 0.12], [0.32, 0.65, -0.10], [0.51, 0.83, 0.05], [0.38, 0.75, 0.31], [0.52, 0.61, 0.19],
    [0.64, 0.57, 0.06], [0.12, 0.57, -0.35], [0.45, 0.57, 0.28], [0.53, 0.68, -0.56], [0.39, 0.70, 0.23],
])  # fmt: skip
Y = np.array([
    [0.09, 0.65, 0.11], [0.24, 0.81, 0.16], [0.39, 0.79, 0.22], [0.38, 0.71, 0.42],
    [0.15, 0.71, 0.81], [0.09, 0.79, 0.44], [0.27, 0.90, 0.63], [0.16, 0.71, 0.57],
])  # fmt: skip
TAUS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
# Two bootstraps of 50,000 resamples differ by this much or less in these ends.
NOISE = 0.004
MANY = 50_000


def scores(matrix: Array) -> Scores:
    return list(matrix.T)


def assert_close(interval: Interval | tuple[float, ...], expected: tuple[float, float, float], noise: float) -> None:
    assert interval[0] == pytest.approx(expected[0], abs=1e-7)
    assert interval[1:] == pytest.approx(expected[1:], abs=noise)


class TestInterquartileMean:
    def test_by_hand(self) -> None:
        """Of 1 to 8 the middle four are 3, 4, 5, 6."""
        assert interquartile_mean([np.arange(1.0, 9.0)]) == 4.5
        assert interquartile_mean([np.array([1.0, 100.0, 4.0, 3.0]), np.array([6.0, 5.0, -9.0, 8.0])]) == 4.5

    @pytest.mark.parametrize("runs", range(1, 13))
    def test_is_the_trimmed_mean_of_scipy(self, runs: int) -> None:
        matrix = np.random.default_rng(runs).normal(size=(runs, 3))
        expected = scipy.stats.trim_mean(matrix, 0.25, axis=None)
        assert interquartile_mean(scores(matrix)) == pytest.approx(expected, abs=1e-14)

    def test_every_environment_weighs_the_same(self) -> None:
        """Twelve scores, with one environment's four repeated: the repetition changes nothing where 4 divides all."""
        full, short = np.random.default_rng(0).normal(size=12), np.random.default_rng(1).normal(size=4)
        unequal = interquartile_mean([full, short])
        assert unequal == pytest.approx(float(interquartile_mean([full, np.repeat(short, 3)])), abs=1e-14)
        assert unequal != pytest.approx(float(scipy.stats.trim_mean(np.concatenate([full, short]), 0.25)), abs=1e-6)

    def test_leading_dimensions(self) -> None:
        many = np.random.default_rng(0).normal(size=(5, 7, 10))
        result = interquartile_mean([many, many[..., :9]])
        assert result.shape == (5, 7)
        assert result[3, 2] == pytest.approx(float(interquartile_mean([many[3, 2], many[3, 2, :9]])), abs=1e-14)


class TestBootstrap:
    def test_agrees_with_rliable(self) -> None:
        assert_close(bootstrap_interval(scores(X), resamples=MANY), (0.433125, 0.373125, 0.48), NOISE)
        assert_close(bootstrap_interval(scores(Y), resamples=MANY), (0.46916667, 0.3675, 0.55916667), NOISE)

    def test_against_all_resamples(self) -> None:
        """Of 3 and 2 runs there are 27 x 4 resamples: the interval is that of the exact distribution."""
        one, other = np.array([0.0, 1.0, 5.0]), np.array([2.0, 10.0])
        draws = itertools.product(itertools.product(one, repeat=3), itertools.product(other, repeat=2))
        means = [float(np.mean([np.mean(a), np.mean(b)])) for a, b in draws]

        def mean(samples: Scores) -> Array:
            return np.asarray(np.mean([sample.mean(axis=-1) for sample in samples], axis=0))

        low, high = np.quantile(means, [0.1, 0.9], method="inverted_cdf")
        got = bootstrap_interval([one, other], mean, confidence=0.8, resamples=MANY)
        assert_close(got, (4.0, float(low), float(high)), 1e-9)

    def test_band_draws_whole_rows(self) -> None:
        """Rows that differ by a constant keep it at both ends, since each draw takes the same runs of all."""
        values = np.random.default_rng(0).normal(size=10)
        band = bootstrap_band([np.stack([values, values + 1, values * 2])])
        alone = bootstrap_interval([values])
        for end, expected in zip(band, alone, strict=True):
            assert end.tolist() == pytest.approx([expected, expected + 1, expected * 2])

    def test_same_seed_same_interval(self) -> None:
        assert bootstrap_interval(scores(X)) == bootstrap_interval(scores(X))
        assert bootstrap_interval(scores(X)) != bootstrap_interval(scores(X), seed=1)

    def test_one_run_gives_no_interval(self) -> None:
        interval = bootstrap_interval([np.array([1.0, 2.0]), np.array([3.0])])
        assert interval.value == pytest.approx(2.25) and math.isnan(interval.low) and math.isnan(interval.high)

    def test_equal_scores(self) -> None:
        assert bootstrap_interval([np.full(10, 0.5)]) == (0.5, 0.5, 0.5)

    @pytest.mark.parametrize("wrong", [[], [np.array([])], [np.array([1.0, np.nan])]])
    def test_refuses(self, wrong: Scores) -> None:
        with pytest.raises(ValueError, match=r"bootstrap_interval: (every environment needs a run|scores must be fin)"):
            bootstrap_interval(wrong)

    def test_is_fast(self) -> None:
        """The best of five: 2,000 resamples of 10 runs x 3 environments in less than 50 ms."""
        times = []
        for _ in range(5):
            start = time.perf_counter()
            bootstrap_interval(scores(X))
            times.append(time.perf_counter() - start)
        assert min(times) < 0.05

    @pytest.mark.parametrize(
        ("runs", "environments", "coverage"), [(3, 1, 0.74), (5, 1, 0.90), (10, 1, 0.93), (3, 3, 0.82), (10, 3, 0.92)]
    )
    def test_coverage(self, runs: int, environments: int, coverage: float) -> None:
        """How often the interval holds the truth: the figures of docs/studies.md."""
        generator = np.random.default_rng(0)
        truth = np.linspace(0.0, 1.0, environments) if environments > 1 else np.array([0.5])  # symmetric about 0.5
        held = 0
        for experiment in range(1000):
            made = scores(generator.normal(truth, 0.3, (runs, environments)))
            interval = bootstrap_interval(made, resamples=500, seed=experiment)
            held += interval.low <= 0.5 <= interval.high
        assert held / 1000 == pytest.approx(coverage, abs=3 * math.sqrt(coverage * (1 - coverage) / 1000))


class TestCompareToBase:
    def test_agrees_with_rliable(self) -> None:
        difference = compare_to_base(scores(Y), {"x": scores(X)}, resamples=MANY)["x"]
        assert_close(difference.interval, (-0.03604167, -0.14541667, 0.07729167), NOISE)
        assert not difference.supported

    def test_p_value_against_all_deals(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of 3 against 3 runs there are 20 deals; these two are the furthest apart, either way round."""
        base, variant = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 7.0])
        difference = compare_to_base([base], {"variant": [variant]})["variant"]
        assert difference.p_value == 2 / 20
        assert difference.interval.low > 0 and not difference.supported and not difference.decidable
        monkeypatch.setattr(statistics, "ALL_DEALS", 0)
        drawn = compare_to_base([base], {"variant": [variant]}, deals=19)["variant"].p_value
        assert drawn != 2 / 20 and abs(drawn - 2 / 20) < 0.2

    def test_agrees_with_scipy(self) -> None:
        base, variant = X[:5, 0], Y[:5, 1]

        def statistic(x: Array, y: Array, axis: int) -> Array:
            x, y = (scipy.stats.trim_mean(side, 0.25, axis=axis) for side in (x, y))
            return np.abs(x - y)

        expected = scipy.stats.permutation_test((variant, base), statistic, vectorized=True, alternative="greater")
        assert compare_to_base([base], {"v": [variant]})["v"].p_value == pytest.approx(expected.pvalue)

    @pytest.mark.parametrize(("runs", "variants", "decidable"), [(3, 1, False), (4, 1, False), (5, 1, True),
                                                                 (5, 6, False), (6, 6, True)])  # fmt: skip
    def test_what_so_few_runs_can_support(self, runs: int, variants: int, decidable: bool) -> None:
        """Runs that are wholly apart; of 4 and 4 each side's lowest and highest are trimmed, so 4 of 70 deals tie."""
        base = np.arange(runs, dtype=np.float64)
        others = {str(number): [base + 100] for number in range(variants)}
        differences = compare_to_base([base], others).values()
        assert {d.decidable for d in differences} == {d.supported for d in differences} == {decidable}
        if (runs, variants) == (4, 1):
            assert [d.p_value for d in differences] == [4 / 70]

    def test_all_deals_of_several_environments(self) -> None:
        """2 of 4 runs in each of two environments: 36 deals."""
        base = [np.array([0.0, 1.0]), np.array([0.0, 1.0])]
        variant = [np.array([2.0, 3.0]), np.array([2.0, 3.0])]
        seen = by_chance = 0
        for one, other in itertools.product(itertools.permutations(range(4)), repeat=2):
            sides = [sorted([*one[:2], *other[:2]]), sorted([*one[2:], *other[2:]])]
            difference = abs(sum(sides[0][1:3]) - sum(sides[1][1:3])) / 2
            by_chance += 1
            seen += difference >= 2
        assert compare_to_base(base, {"v": variant})["v"].p_value == pytest.approx(seen / by_chance)

    def test_stratified(self) -> None:
        """Environments far apart do not hide what each of them shows."""
        base = [np.linspace(0.0, 0.1, 10), np.linspace(100.0, 100.1, 10)]
        variant = [sample + 1 for sample in base]
        difference = compare_to_base(base, {"variant": variant})["variant"]
        assert difference.supported and difference.interval.value == pytest.approx(1.0)

    def test_corrects_for_the_number_of_variants(self) -> None:
        others = {name: scores(X + shift) for name, shift in [("near", 0.01), ("far", 1.0), ("middle", 0.09)]}
        together = compare_to_base(scores(X), others)
        alone = {name: compare_to_base(scores(X), {name: other})[name].p_value for name, other in others.items()}
        assert list(together) == list(others)
        assert [together[name].p_value for name in others] == holm(list(alone.values()))
        assert together["far"].supported and not together["near"].supported

    def test_nothing_is_supported_without_an_interval(self) -> None:
        assert not Difference(Interval(1.0, math.nan, math.nan), 0.001).supported
        assert not Difference(Interval(1.0, -0.1, 2.0), 0.001).supported
        assert not Difference(Interval(1.0, 0.1, 2.0), 0.06).supported
        assert Difference(Interval(-1.0, -2.0, -0.1), 0.04).supported

    def test_refuses_other_environments(self) -> None:
        with pytest.raises(ValueError, match="compare_to_base: scores must be of the same environments, got 2 and 3"):
            compare_to_base(scores(X), {"x": scores(X[:, :2])})

    @pytest.mark.parametrize("runs", mostly_slow([5, 10], keep=[10]))
    def test_false_alarms(self, runs: int) -> None:
        """Six variants that do not differ: one or more is called different in at most 5% of made-up studies."""
        generator = np.random.default_rng(runs)
        alarms = 0
        for study in range(300):
            base, *others = (scores(generator.normal([0.0, 0.5, 1.0], 0.3, (runs, 3))) for _ in range(7))
            named = {str(number): other for number, other in enumerate(others)}
            differences = compare_to_base(base, named, resamples=200, deals=200, seed=study)
            alarms += any(difference.supported for difference in differences.values())
        # 15 are expected; 25 or fewer come in 99.5% of such series, and in 19% of those of a level of 10%.
        assert alarms <= 25


def test_holm() -> None:
    assert holm([]) == []
    assert holm([0.04]) == [0.04]
    # R 4: p.adjust(c(0.01, 0.02, 0.03, 0.9, 0.005), "holm")
    assert holm([0.01, 0.02, 0.03, 0.9, 0.005]) == pytest.approx([0.04, 0.06, 0.06, 0.9, 0.025])


class TestProbabilityOfImprovement:
    def test_agrees_with_rliable(self) -> None:
        interval = probability_of_improvement(scores(X), scores(Y), resamples=20_000)
        assert_close(interval, (0.41458333, 0.3125, 0.52916667), 1 / 200)  # of multiples of 1 / 240

    def test_is_the_mann_whitney_statistic(self) -> None:
        expected = np.mean([scipy.stats.mannwhitneyu(X[:, e], Y[:, e]).statistic / 80 for e in range(3)])
        assert probability_of_improvement(scores(X), scores(Y)).value == pytest.approx(float(expected))

    def test_ties_count_half(self) -> None:
        assert probability_of_improvement([np.array([1.0, 1.0])], [np.array([1.0, 1.0, 1.0])]) == (0.5, 0.5, 0.5)
        assert probability_of_improvement([np.array([1.0, 2.0])], [np.array([1.0, 0.0])]).value == 0.875

    def test_a_side_that_won_every_time_is_not_certain(self) -> None:
        """Ten pairs won of ten: R 4's binom.test(10, 10) has 0.6915 to 1."""
        low, high = np.arange(5.0), np.arange(5.0) + 100
        assert probability_of_improvement([high, high], [low, low]) == pytest.approx((1.0, 0.69150, 1.0), abs=1e-5)
        assert probability_of_improvement([low, low], [high, high]) == pytest.approx((0.0, 0.0, 0.30850), abs=1e-5)

    def test_refuses_other_environments(self) -> None:
        with pytest.raises(ValueError, match=r"probability_of_improvement: .* got 3 and 2"):
            probability_of_improvement(scores(X), scores(Y[:, :2]))


def test_performance_profile_agrees_with_rliable() -> None:
    band = performance_profile(scores(X), TAUS, resamples=MANY)
    np.testing.assert_allclose(band.value, [0.9, 0.7, 0.46666667, 0.03333333, 0.0], atol=1e-7)
    # Multiples of 1/30: an end may lie a run higher or lower.
    np.testing.assert_allclose(band.low, [0.8, 0.6, 0.36666667, 0.0, 0.0], atol=0.034)
    np.testing.assert_allclose(band.high, [1.0, 0.8, 0.56666667, 0.1, 0.0], atol=0.034)


def test_align_curves() -> None:
    curves = [np.array([(0.0, 0.0), (100.0, 10.0)]), np.array([(50.0, 1.0), (100.0, 3.0)])]
    aligned = align_curves(curves, np.array([0.0, 50.0, 75.0, 200.0]))
    assert aligned.tolist() == [[0.0, 1.0], [5.0, 1.0], [7.5, 2.0], [10.0, 3.0]]


class TestCensoredMedian:
    def test_by_ranks(self) -> None:
        """Of 10 values the 2nd and the 9th hold the median with 97.9%; the 3rd and 8th would with 89.1%."""
        assert censored_median(range(1, 11)) == (5.5, 2.0, 9.0)
        assert scipy.stats.binom.cdf(8, 10, 0.5) - scipy.stats.binom.cdf(1, 10, 0.5) == pytest.approx(0.979, abs=0.001)

    def test_runs_that_never_arrive_are_counted(self) -> None:
        arrived = [1000.0, 2000.0, 3000.0, 4000.0, 5000.0, 6000.0]
        assert censored_median([*arrived, None, None, None, None]) == (5500.0, 2000.0, math.inf)
        assert censored_median([1000.0, None, None]).value == math.inf
        assert censored_median([None] * 10) == (math.inf, math.inf, math.inf)

    def test_few_runs_give_no_interval(self) -> None:
        median = censored_median([1, 2, 3, 4, 5])
        assert median.value == 3 and math.isnan(median.low) and math.isnan(median.high)

    def test_refuses_none(self) -> None:
        with pytest.raises(ValueError, match="censored_median: amounts must not be empty"):
            censored_median([])
