"""The report of a study: one page of HTML that needs nothing but a browser, and its figures as files.

Reads what :mod:`agents.study.results` reads, and nothing else: a directory of those few files, without the runs, can be
reported again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agents.run.configuration import dump_config, flatten
from agents.study.figures import Curve, Panel, Point, draw
from agents.study.page import (
    NEVER,
    UNKNOWN,
    Table,
    format_given,
    format_interval,
    format_number,
    format_ranges,
    join_names,
    write_file,
    write_page,
)
from agents.study.results import Results, Run, read_results
from agents.study.statistics import (
    MAX_PLACES,
    RESAMPLES,
    Array,
    Difference,
    Interval,
    Scores,
    align_curves,
    bootstrap_band,
    bootstrap_interval,
    censored_median,
    common_places,
    compare_to_base,
    performance_profile,
    probability_of_improvement,
)
from agents.study.variants import Environment

# Below so many runs in an environment, intervals are much too narrow.
FEW_RUNS = 5


def report(directory: Path | str, *, output: Path | str | None = None, base: str | None = None) -> Path:
    """Write the page and the figures of a study.

    Args:
        directory: The study's directory.
        output: The page's file; by default report.html in the directory. The figures go into figures/ beside it.
        base: The variant that all others are compared to; by default the one that changes nothing, else the first.

    Returns:
        The page's file.

    Raises:
        ValueError: Not a study's directory, no such variant, no run that is finished, or a package of the extra
            "report" is missing.
    """
    directory = Path(directory)
    path = directory / "report.html" if output is None else Path(output)
    results = read_results(directory)
    analysis = Analysis(results, base)
    if not analysis.finished:
        raise ValueError(f"report: {directory} holds no finished run")
    figures = analysis.figures()
    pictures = write_page(path, "report.html", figures, analysis.variants, analysis.page())
    for name, panels in figures.items():
        write_file(path.parent / "figures" / f"{name}.svg", pictures[name])
        write_file(path.parent / "figures" / f"{name}.png", draw(panels, analysis.variants, "png"))
    return path


class Analysis:
    """The numbers of a study, and the page and figures made of them.

    Args:
        results: What the study's runs came to.
        base: As in :func:`report`.
    """

    def __init__(self, results: Results, base: str | None = None) -> None:
        self.results = results
        self.environments = list(results.study.environments)
        self.variants = [variant.name for variant in results.study.variants]
        if base is not None and base not in self.variants:
            raise ValueError(f"report: base must be one of {', '.join(self.variants)}, got {base!r}")
        unchanged = [v.name for v in results.study.variants if not v.overrides and not v.environments]
        self.base = base or [*unchanged, *self.variants][0]
        self._digests = {
            (environment.name, variant): results.study.digest(environment.name, variant)
            for environment in self.environments
            for variant in self.variants
        }
        self.finished = [run for run in results.runs if self._is_asked_for(run)]
        self.scores = {variant: scores for variant in self.variants if (scores := self._scores(variant))}
        self.intervals = {variant: bootstrap_interval(scores) for variant, scores in self.scores.items()}
        self.differences = self._differences(self.scores)
        self.improvements = self._improvements()

    def _is_asked_for(self, run: Run) -> bool:
        """Whether a run is of the study as it is now."""
        asked_for = self._digests.get((run.environment, run.variant)) == run.configuration
        return asked_for and run.seed in self.results.study.seeds

    def runs(self, environment: str, variant: str) -> list[Run]:
        """Finished runs by seed."""
        runs = [run for run in self.finished if (run.environment, run.variant) == (environment, variant)]
        return sorted(runs, key=lambda run: run.seed)

    def _returns(self, environment: str) -> dict[str, Array]:
        """Final returns of the variants that have any."""
        found = {variant: [run.final_return for run in self.runs(environment, variant)] for variant in self.variants}
        return {variant: np.array(returns) for variant, returns in found.items() if returns}

    def _scores(self, variant: str) -> Scores:
        """Final returns on the scale of their environments; nothing where an environment has no run."""
        scores = []
        for environment in self.environments:
            returns = [run.final_return for run in self.runs(environment.name, variant)]
            if not returns:
                return []
            scores.append(_normalize(np.array(returns), environment))
        return scores

    def _differences(self, scores: Mapping[str, Scores]) -> dict[str, Difference]:
        """Of all variants to the base; none where the base has no runs."""
        if self.base not in scores:
            return {}
        others = {variant: other for variant, other in scores.items() if variant != self.base}
        return compare_to_base(scores[self.base], others)

    # The page's parts, from top to bottom.

    def page(self) -> dict[str, Any]:
        """What the template is filled with."""
        study = self.results.study
        return {
            "name": study.name,
            "question": self._question(),
            "summary": self._summary(),
            "base": self.base,
            "scale": "; ".join(
                f"{e.name} from {format_given(e.low)} (0) to {format_given(e.high)} (1)" for e in self.environments
            ),
            "aggregate": self._aggregate_table(),
            "by_environment": [{"name": e.name, "table": self._environment_table(e)} for e in self.environments],
            "thresholds": [
                {"name": f"{e.name}, threshold {format_given(e.threshold)}", "table": self._threshold_table(e)}
                for e in self.environments
                if e.threshold is not None
            ],
            "changes": self._changes_table(),
            "configurations": [
                {"name": name, "text": dump_config(configs[self.base])}
                for name, configs in self.results.study.configurations.items()
            ],
            "failures": Table(
                "Failed runs",
                ["Run", "Error"],
                [(f"{e}, {variant}, seed {seed}", error) for e, variant, seed, error in self.results.failures],
            ),
            "improvement": self._improvement_table(),
            "times": self._times_table(),
            "versions": Table(
                "Versions",
                ["What", "Which"],
                [
                    ("seeds", format_ranges(study.seeds)),
                    *((name, str(text)) for name, text in self.results.versions.items()),
                ],
            ),
            "runs": self._runs_table(),
            "resamples": f"{RESAMPLES:,}",
        }

    def _question(self) -> str:
        where = join_names([environment.name for environment in self.environments])
        seeds = len(self.results.study.seeds)
        return (
            f"Which of {len(self.variants)} variants does best on {where}, and do the data of {seeds} "
            f"{'seed' if seeds == 1 else 'seeds'} support it?"
        )

    def _summary(self) -> list[str]:
        """Sentences made of the numbers below, and of nothing else."""
        sentences = []
        if self.scores:
            best = max(self.intervals, key=lambda variant: self.intervals[variant].value)
            sentences.append(
                f"The highest score over all environments is that of {best}: {format_interval(self.intervals[best])}"
                + (f"; the base, {self.base}, has {format_interval(self.intervals[self.base])}." if best != self.base
                   and self.base in self.intervals else ".")
            )  # fmt: skip
        if self.differences:
            sentences += self._verdicts()
        planned = len(self.environments) * len(self.variants) * len(self.results.study.seeds)
        finished, failed = len(self.finished), len(self.results.failures)
        missing = planned - finished - failed
        sentences.append(
            f"{finished} of {planned} runs finished"
            + (f", {failed} failed" if failed else "")
            + (f", {missing} {'is' if missing == 1 else 'are'} not there yet" if missing else "")
            + "."
        )
        partial = [variant for variant in self.variants if variant not in self.scores]
        fewest = min((len(sample) for scores in self.scores.values() for sample in scores), default=FEW_RUNS)
        if fewest < FEW_RUNS:
            sentences.append(f"Some environment has {fewest} runs of a variant: read the intervals as too narrow.")
        if partial:
            sentences.append(
                f"Without a finished run in some environment, and so without a score over all: {join_names(partial)}."
            )
        return sentences

    def _verdicts(self) -> list[str]:
        """Which differences to the base the data support, and which not."""
        higher = [v for v, d in self.differences.items() if d.supported and d.interval.value > 0]
        lower = [v for v, d in self.differences.items() if d.supported and d.interval.value < 0]
        open_ = [v for v, d in self.differences.items() if not d.supported]
        if not any(d.decidable for d in self.differences.values()):
            return [f"There are too few runs for any difference to {self.base} to be supported, however large it is."]
        sentences = []
        for variants, word in [(higher, "higher"), (lower, "lower")]:
            if variants:
                each = [f"{v} (by {format_interval(_absolute(self.differences[v].interval))})" for v in variants]
                sentences.append(f"The data support that these score {word} than {self.base}: {join_names(each)}.")
        if open_:
            sentences.append(
                f"The data do not support a difference to {self.base}, in either direction, for {join_names(open_)}."
            )
        return sentences

    def _aggregate_table(self) -> Table:
        rows = []
        for variant in self.variants:
            runs = sum(len(self.runs(environment.name, variant)) for environment in self.environments)
            if variant not in self.scores:
                rows.append((self._label(variant), "no run in some environment", *[UNKNOWN] * 3, str(runs)))
                continue
            answer, difference, p_value = self._comparison(variant, self.differences)
            score = format_interval(self.intervals[variant])
            rows.append((self._label(variant), answer, score, difference, p_value, str(runs)))
        head = ["Variant", "Other than the base?", "Score [95%]", "Difference [95%]", "p", "Runs"]
        return Table("Scores over all environments", head, rows)

    def _environment_table(self, environment: Environment) -> Table:
        returns = self._returns(environment.name)
        differences = self._differences({variant: [values] for variant, values in returns.items()})
        rows = []
        for variant in self.variants:
            seeds = [run.seed for run in self.runs(environment.name, variant)]
            if variant not in returns:
                rows.append((self._label(variant), "no run", *[UNKNOWN] * 4, "none"))
                continue
            values = returns[variant]
            spread = f"{format_number(values.min())} to {format_number(values.max())}"
            final = format_interval(bootstrap_interval([values]))
            answer, difference, p_value = self._comparison(variant, differences)
            count = f"{len(seeds)} ({format_ranges(seeds)})"
            rows.append((self._label(variant), answer, final, difference, p_value, spread, count))
        head = ["Variant", "Other than the base?", "Final return [95%]", "Difference [95%]", "p", "Lowest to highest",
                "Runs (seeds)"]  # fmt: skip
        return Table(f"Final returns, {environment.name}", head, rows)

    def _comparison(self, variant: str, differences: Mapping[str, Difference]) -> tuple[str, str, str]:
        """The verdict in words, the difference and the p-value."""
        if variant == self.base:
            return "the base", "", ""
        if variant not in differences:
            return "the base has no run", UNKNOWN, UNKNOWN
        difference = differences[variant]
        p_value = "< 0.001" if difference.p_value < 0.001 else f"{difference.p_value:.3f}"
        return verdict(difference), format_interval(difference.interval), p_value

    def _label(self, variant: str) -> str:
        return f"{variant} (base)" if variant == self.base else variant

    def _threshold_table(self, environment: Environment) -> Table:
        rows = []
        for variant in self.variants:
            runs = self.runs(environment.name, variant)
            if not runs:
                rows.append((self._label(variant), "no run", UNKNOWN, UNKNOWN))
                continue
            reached = [run.reached(environment.threshold) for run in runs]
            steps = censored_median([None if point is None else point.step for point in reached])
            seconds = censored_median([None if point is None else point.seconds for point in reached])
            count = f"{sum(point is not None for point in reached)} of {len(runs)}"
            rows.append((self._label(variant), count, format_interval(steps, whole=True), format_interval(seconds)))
        head = ["Variant", "Reached it", "Median steps [95%]", "Median seconds [95%]"]
        return Table(f"Steps and time to the threshold, {environment.name}", head, rows)

    def _changes_table(self) -> Table:
        """A line a setting that differs from the base: what it is there, what here, and where; defaults included."""
        rows = []
        for variant in self.variants:
            name = self._label(variant)
            changes: dict[tuple[str, str, str], list[str]] = {}
            for where, configurations in self.results.study.configurations.items():
                base, own = (flatten(configurations[of]) for of in (self.base, variant))
                for setting in dict.fromkeys([*base, *own]):
                    before, after = (str(flat.get(setting, UNKNOWN)) for flat in (base, own))
                    if before != after:
                        changes.setdefault((setting, before, after), []).append(where)
            if not changes:
                rows.append((name, "nothing", "", "", ""))
            for change, places in changes.items():
                everywhere = len(places) == len(self.environments)
                rows.append((name, *change, "everywhere" if everywhere else join_names(places)))
                name = ""
        return Table("What the variants change", ["Variant", "Setting", "Base", "Variant's", "Where"], rows)

    def _times_table(self) -> Table:
        rows = []
        for variant in self.variants:
            cells = []
            for environment in self.environments:
                runs = self.runs(environment.name, variant)
                seconds = np.median([run.seconds for run in runs]) if runs else math.nan
                speed = np.median([run.steps / run.seconds for run in runs]) if runs else math.nan
                cells.append(f"{format_number(seconds)} s, {speed:,.0f} steps/s" if runs else UNKNOWN)
            rows.append((self._label(variant), *cells))
        steps = {run.environment: run.steps for run in self.finished}
        head = [f"{e.name}, {steps[e.name]:,} steps" if e.name in steps else e.name for e in self.environments]
        return Table("Run times", ["Variant", *head], rows)

    def _runs_table(self) -> Table:
        rows = [
            (
                f"{run.environment}, {run.variant}, seed {run.seed}",
                format_number(run.final_return),
                f"{run.steps:,}",
                format_number(run.seconds),
                NEVER if (reached := run.reached(environment.threshold)) is None else f"{reached.step:,}",
            )
            for environment in self.environments
            for variant in self.variants
            for run in self.runs(environment.name, variant)
        ]
        return Table("Every run", ["Run", "Final return", "Steps", "Seconds", "Steps to threshold"], rows)

    # The figures.

    def figures(self) -> dict[str, list[Panel]]:
        """Panels by the name of their figure's file."""
        learning = [self._learning_panel(environment) for environment in self.environments]
        figures = {
            "scores": [self._score_panel()],
            "learning_curves": [panel for panel in learning if panel.items],
            "performance_profiles": [self._profile_panel()],
            "probability_of_improvement": [self._improvement_panel()],
        }
        if efficiency := self._efficiency_panel():
            figures["learning_curves"].append(efficiency)
        return {name: panels for name, panels in figures.items() if panels and any(panel.items for panel in panels)}

    def _score_panel(self) -> Panel:
        points = [Point(variant, interval) for variant, interval in self.intervals.items()]
        return Panel("Interquartile mean over all environments", "score", "", points)

    def _profile_panel(self) -> Panel:
        if not self.scores:
            return Panel("Share of runs above a score", "score", "share of runs", [])
        every = np.concatenate([sample for scores in self.scores.values() for sample in scores])
        thresholds = np.linspace(min(0.0, every.min()), max(1.0, every.max()), MAX_PLACES)
        curves = [Curve(v, thresholds, performance_profile(scores, thresholds)) for v, scores in self.scores.items()]
        return Panel("Share of runs above a score", "score", "share of runs", curves)

    def _improvements(self) -> dict[str, Interval]:
        """How likely a run of each variant beats one of the base."""
        base = self.scores.get(self.base)
        return {
            variant: probability_of_improvement(scores, base)
            for variant, scores in self.scores.items()
            if base is not None and variant != self.base
        }

    def _improvement_table(self) -> Table:
        rows = [(variant, format_interval(interval)) for variant, interval in self.improvements.items()]
        return Table("Probability of improvement", ["Variant", f"Better than {self.base} [95%]"], rows)

    def _improvement_panel(self) -> Panel:
        points = [Point(variant, interval) for variant, interval in self.improvements.items()]
        title = f"Probability of doing better than {self.base}"
        return Panel(title, "probability", "", points, mark=0.5, limits=(-0.05, 1.05))

    def _curves(self, environment: str, variant: str) -> list[Array]:
        """Points (step, return) of the finished runs."""
        runs = self.runs(environment, variant)
        return [np.array([point[:2] for point in run.curve], dtype=np.float64) for run in runs]

    def _learning_panel(self, environment: Environment) -> Panel:
        items = []
        for variant in self.variants:
            if curves := self._curves(environment.name, variant):
                steps = common_places([curve[:, 0] for curve in curves])
                items.append(Curve(variant, steps, bootstrap_band([align_curves(curves, steps)])))
        return Panel(environment.name, "steps", "return", items, mark=environment.threshold)

    def _efficiency_panel(self) -> Panel | None:
        """Scores over all environments along the share of each one's steps; none where it would repeat a panel."""
        if len(self.environments) < 2:
            return None
        items = []
        for variant in self.scores:
            shares = [
                [
                    np.column_stack([curve[:, 0] / curve[-1, 0], _normalize(curve[:, 1], environment)])
                    for curve in curves
                ]
                for environment in self.environments
                if (curves := self._curves(environment.name, variant))
            ]
            if len(shares) < len(self.environments):
                continue
            places = common_places([curve[:, 0] for curves in shares for curve in curves])
            aligned = [align_curves(curves, places) for curves in shares]
            items.append(Curve(variant, places, bootstrap_band(aligned)))
        return Panel("All environments", "share of the training steps", "score", items) if items else None


def verdict(difference: Difference) -> str:
    """What the data say about a difference, in words."""
    if not difference.decidable:
        return "too few runs"
    if not difference.supported:
        return "not supported"
    return "supported: higher" if difference.interval.value > 0 else "supported: lower"


def _normalize(returns: Array, environment: Environment) -> Array:
    return (returns - environment.low) / (environment.high - environment.low)


def _absolute(interval: Interval) -> Interval:
    """The size of a difference whose interval leaves out 0."""
    return interval if interval.value > 0 else Interval(-interval.value, -interval.high, -interval.low)
