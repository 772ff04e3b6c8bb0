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

from agents.run.configuration import dump_config
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
from agents.study.variants import Environment, Variant

COMPARISON = ["Difference to base [95%]", "Supported by the data?", "p"]


def report(directory: Path | str, *, output: Path | str | None = None) -> Path:
    """Write the page and the figures of a study.

    Args:
        directory: The study's directory.
        output: The page's file; by default report.html in the directory. The figures go into figures/ beside it.

    Returns:
        The page's file.

    Raises:
        ValueError: Not a study's directory, no run that is finished, or a package of the extra "report" is missing.
    """
    directory = Path(directory)
    path = directory / "report.html" if output is None else Path(output)
    results = read_results(directory)
    if not results.runs:
        raise ValueError(f"report: {directory} holds no finished run")
    analysis = Analysis(results)
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
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        self.environments = list(results.study.environments)
        self.variants = [variant.name for variant in results.study.variants]
        self.base = next((v.name for v in results.study.variants if not _changes(v)), self.variants[0])
        self.scores = {variant: scores for variant in self.variants if (scores := self._scores(variant))}
        self.differences = self._differences(self.scores)

    def runs(self, environment: str, variant: str) -> list[Run]:
        """Finished runs by seed."""
        runs = [run for run in self.results.runs if (run.environment, run.variant) == (environment, variant)]
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
                {"name": name, "text": dump_config(config)}
                for name, config in self.results.study.configurations.items()
            ],
            "failures": Table(
                "Failed runs",
                ["Run", "Error"],
                [(f"{e}, {variant}, seed {seed}", error) for e, variant, seed, error in self.results.failures],
            ),
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
            intervals = {variant: bootstrap_interval(scores) for variant, scores in self.scores.items()}
            best = max(intervals, key=lambda variant: intervals[variant].value)
            sentences.append(
                f"The highest score over all environments is that of {best}: {format_interval(intervals[best])}"
                + (f"; the base, {self.base}, has {format_interval(intervals[self.base])}." if best != self.base
                   and self.base in intervals else ".")
            )  # fmt: skip
        if self.differences:
            sentences += self._verdicts()
        planned = len(self.environments) * len(self.variants) * len(self.results.study.seeds)
        finished, failed = len(self.results.runs), len(self.results.failures)
        missing = planned - finished - failed
        sentences.append(
            f"{finished} of {planned} runs finished"
            + (f", {failed} failed" if failed else "")
            + (f", {missing} {'is' if missing == 1 else 'are'} not there yet" if missing else "")
            + "."
        )
        partial = [variant for variant in self.variants if variant not in self.scores]
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
                rows.append((self._label(variant), UNKNOWN, UNKNOWN, "no run in some environment", UNKNOWN, str(runs)))
                continue
            score = format_interval(bootstrap_interval(self.scores[variant]))
            rows.append((self._label(variant), score, *self._comparison(variant, self.differences), str(runs)))
        head = ["Variant", "Score [95%]", *COMPARISON, "Runs"]
        return Table("Scores over all environments", head, rows)

    def _environment_table(self, environment: Environment) -> Table:
        returns = self._returns(environment.name)
        differences = self._differences({variant: [values] for variant, values in returns.items()})
        rows = []
        for variant in self.variants:
            seeds = [run.seed for run in self.runs(environment.name, variant)]
            if variant not in returns:
                rows.append((self._label(variant), UNKNOWN, UNKNOWN, "no run", UNKNOWN, UNKNOWN, "none"))
                continue
            values = returns[variant]
            spread = f"{format_number(values.min())} to {format_number(values.max())}"
            final = format_interval(bootstrap_interval([values]))
            comparison = self._comparison(variant, differences)
            rows.append((self._label(variant), final, *comparison, spread, f"{len(seeds)} ({format_ranges(seeds)})"))
        head = ["Variant", "Final return [95%]", *COMPARISON, "Lowest to highest", "Runs (seeds)"]
        return Table(f"Final returns, {environment.name}", head, rows)

    def _comparison(self, variant: str, differences: Mapping[str, Difference]) -> tuple[str, str, str]:
        """The difference, the verdict in words, and the p-value."""
        if variant == self.base:
            return "", "the base", ""
        if variant not in differences:
            return UNKNOWN, "the base has no run", UNKNOWN
        difference = differences[variant]
        p_value = "< 0.001" if difference.p_value < 0.001 else f"{difference.p_value:.3f}"
        return format_interval(difference.interval), verdict(difference), p_value

    def _label(self, variant: str) -> str:
        return f"{variant} (base)" if variant == self.base else variant

    def _threshold_table(self, environment: Environment) -> Table:
        rows = []
        for variant in self.variants:
            runs = self.runs(environment.name, variant)
            if not runs:
                rows.append((self._label(variant), "no run", UNKNOWN, UNKNOWN))
                continue
            reached = sum(run.steps_to_threshold is not None for run in runs)
            steps = censored_median([run.steps_to_threshold for run in runs])
            seconds = censored_median([run.seconds_to_threshold for run in runs])
            rows.append((self._label(variant), f"{reached} of {len(runs)}", format_interval(steps, whole=True),
                         format_interval(seconds)))  # fmt: skip
        head = ["Variant", "Reached it", "Median steps [95%]", "Median seconds [95%]"]
        return Table(f"Steps and time to the threshold, {environment.name}", head, rows)

    def _changes_table(self) -> Table:
        """A line a changed setting: where, what it is in the base, and what in the variant."""
        configurations = self.results.study.configurations
        rows = []
        for variant in self.results.study.variants:
            name = self._label(variant.name)
            if not _changes(variant):
                rows.append((name, "nothing", "", "", ""))
            for where, setting, value in _changes(variant):
                configs = [configurations[where]] if where else list(configurations.values())
                before = dict.fromkeys(describe_value(_lookup(config, setting)) for config in configs)
                rows.append((name, setting, " or ".join(before), describe_value(value), where or "everywhere"))
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
        steps = {run.environment: run.steps for run in self.results.runs}
        head = [f"{e.name}, {steps[e.name]:,} steps" if e.name in steps else e.name for e in self.environments]
        return Table("Run times", ["Variant", *head], rows)

    def _runs_table(self) -> Table:
        rows = [
            (
                f"{run.environment}, {run.variant}, seed {run.seed}",
                format_number(run.final_return),
                f"{run.steps:,}",
                format_number(run.seconds),
                NEVER if run.steps_to_threshold is None else f"{run.steps_to_threshold:,}",
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
        points = [Point(variant, bootstrap_interval(scores)) for variant, scores in self.scores.items()]
        return Panel("Interquartile mean over all environments", "score", "", points)

    def _profile_panel(self) -> Panel:
        if not self.scores:
            return Panel("Share of runs above a score", "score", "share of runs", [])
        every = np.concatenate([sample for scores in self.scores.values() for sample in scores])
        thresholds = np.linspace(min(0.0, every.min()), max(1.0, every.max()), MAX_PLACES)
        curves = [Curve(v, thresholds, performance_profile(scores, thresholds)) for v, scores in self.scores.items()]
        return Panel("Share of runs above a score", "score", "share of runs", curves)

    def _improvement_panel(self) -> Panel:
        base = self.scores.get(self.base)
        points = [
            Point(variant, probability_of_improvement(scores, base))
            for variant, scores in self.scores.items()
            if base is not None and variant != self.base
        ]
        title = f"Probability of doing better than {self.base}"
        return Panel(title, "probability", "", points, mark=0.5, limits=(-0.05, 1.05))

    def _curves(self, environment: str, variant: str) -> list[Array]:
        """Points (step, return) of the finished runs that have any."""
        keys = [(environment, variant, run.seed) for run in self.runs(environment, variant)]
        return [np.array(points, dtype=np.float64) for key in keys if (points := self.results.curves.get(key))]

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
    if not difference.supported:
        return "not supported"
    return "supported: higher" if difference.interval.value > 0 else "supported: lower"


def describe_value(value: Any) -> str:
    """A setting as a short text: the class of an object and what it was made with."""
    if isinstance(value, Mapping) and "class_path" in value:
        arguments = value.get("init_args") or {}
        inside = ", ".join(f"{name}={describe_value(item)}" for name, item in arguments.items())
        return f"{str(value['class_path']).rsplit('.', 1)[-1]}({inside})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {describe_value(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(describe_value(item) for item in value)}]"
    return str(value)


def _changes(variant: Variant) -> list[tuple[str, str, Any]]:
    """Environment ("" for all), setting and value of everything that a variant changes."""
    changes = [("", *item) for item in variant.overrides.items()]
    return changes + [(where, *item) for where, own in variant.environments.items() for item in own.items()]


def _lookup(config: Mapping[str, Any], setting: str) -> Any:
    """The value of a dotted name; a class's arguments are below its init_args. A dash where the base has no such."""
    value: Any = config
    for part in setting.split("."):
        if isinstance(value, Mapping) and part not in value and "init_args" in value:
            value = value["init_args"]
        if not isinstance(value, Mapping) or part not in value:
            return UNKNOWN
        value = value[part]
    return value


def _normalize(returns: Array, environment: Environment) -> Array:
    return (returns - environment.low) / (environment.high - environment.low)


def _absolute(interval: Interval) -> Interval:
    """The size of a difference whose interval leaves out 0."""
    return interval if interval.value > 0 else Interval(-interval.value, -interval.high, -interval.low)
