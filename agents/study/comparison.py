"""Runs made by hand, side by side: what differs in their configurations, and what came of it."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import scipy.stats

from agents.run.configuration import dump_config, flatten, load_config
from agents.study.figures import Curve, Panel, draw
from agents.study.page import UNKNOWN, Table, format_interval, format_number, format_ranges, write_file, write_page
from agents.study.statistics import CONFIDENCE, Array, Band, Interval, align_curves, common_places

PICTURES = (".png", ".svg", ".pdf")
# A label longer than this goes by the run's name instead of what differs.
MAX_LABEL = 40


@dataclass(frozen=True)
class MadeRun:
    """A run directory, read back.

    Attributes:
        directory: Where it is.
        config: Its configuration.
        rows: The columns of metrics.csv by name, NaN where a row has no value.
    """

    directory: Path
    config: dict[str, Any]
    rows: dict[str, Array]

    def last(self, column: str) -> float:
        """The last value of a column; NaN where it has none."""
        values = self.rows.get(column, np.array([]))
        known = values[np.isfinite(values)]
        return float(known[-1]) if known.size else math.nan

    def curve(self, column: str) -> Array:
        """The points (step, value) of a column."""
        values = self.rows.get(column, np.full_like(self.rows["step"], np.nan))
        known = np.isfinite(values)
        return np.stack([self.rows["step"][known], values[known]], axis=1)


@dataclass(frozen=True)
class Group:
    """Runs of one configuration, whose seeds differ."""

    label: str
    differing: dict[str, str]
    runs: list[MadeRun]

    @property
    def env(self) -> str:
        """The environment's id."""
        return str(self.runs[0].config["env"])

    @property
    def final_return(self) -> Interval:
        """The last evaluation: over its episodes for one run, over the runs' means for several."""
        if len(self.runs) > 1:
            return mean_interval([run.last("eval_return_mean") for run in self.runs])
        run = self.runs[0]
        mean, std, episodes = run.last("eval_return_mean"), run.last("eval_return_std"), run.config["eval_episodes"]
        return _t_interval(mean, std, int(episodes))

    def mean(self, column: str) -> float:
        """Mean over the runs of a column's last value."""
        return float(np.mean([run.last(column) for run in self.runs]))


def compare(runs: Sequence[Path | str], *, output: Path | str | None = None) -> str:
    """Compare runs: the table as text, and their learning curves as a picture.

    Args:
        runs: Run directories; those whose configurations differ in the seed alone are one row.
        output: A file for the learning curves, .png, .svg or .pdf; or .html, a page of curves and table.

    Returns:
        The table.

    Raises:
        ValueError: Not a run directory, one that comes twice or is without a row of metrics, or a file that cannot be
            written.
    """
    places = [Path(run).resolve() for run in runs]
    twice = next((run for run, place in zip(runs, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise ValueError(f"compare: {twice} comes twice, which would count its returns twice")
    groups = make_groups([read_run(Path(run)) for run in runs])
    path = None if output is None else Path(output)
    if path is not None and path.suffix.lower() not in (*PICTURES, ".html"):
        raise ValueError(f"compare: output must end in {', '.join(PICTURES)} or .html, got {path}")
    if path is not None:
        _write(path, groups)
    return _as_text(groups)


def read_run(directory: Path) -> MadeRun:
    """Read a run directory; nothing in it is unpickled.

    Raises:
        ValueError: Not a run directory, or one without a row of metrics.
    """
    config = load_config(directory / "config.yaml")
    try:
        with (directory / "metrics.csv").open(newline="") as file:
            table = list(csv.DictReader(file))
        columns = {name: np.array([float(row[name] or "nan") for row in table]) for name in (table[0] if table else [])}
    except (OSError, ValueError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{directory / 'metrics.csv'} cannot be read: {error}") from error
    if not {"step", "seconds"} <= columns.keys():
        raise ValueError(f"{directory} has no row of metrics yet")
    return MadeRun(directory, config, columns)


def make_groups(runs: Sequence[MadeRun]) -> list[Group]:
    """Put runs of one configuration together, in the order in which each first came."""
    grouped: dict[str, list[MadeRun]] = {}
    for run in runs:
        config = {name: value for name, value in run.config.items() if name != "seed"}
        grouped.setdefault(dump_config(config), []).append(run)
    settings = [{name: str(value) for name, value in flatten(m[0].config).items()} for m in grouped.values()]
    differing = [name for name in _differing(settings) if name != "seed"]
    groups = []
    for number, (members, flat) in enumerate(zip(grouped.values(), settings, strict=True)):
        own = {name: flat.get(name, UNKNOWN) for name in differing}
        groups.append(Group(_label(number, own, members), own, members))
    return groups


def _differing(settings: Sequence[Mapping[str, str]]) -> list[str]:
    """Names whose values differ; without those that a class brings along which differs itself."""

    def values(name: str) -> set[str | None]:
        return {flat.get(name) for flat in settings}

    def is_brought_along(name: str) -> bool:
        parts = name.split(".")
        above = [".".join(parts[:end]) for end in range(1, len(parts))]
        return len(values(name) - {None}) == 1 and any(len(values(other)) > 1 for other in above)

    names = dict.fromkeys(name for flat in settings for name in flat)
    return [name for name in names if len(values(name)) > 1 and not is_brought_along(name)]


def _label(number: int, differing: Mapping[str, str], runs: Sequence[MadeRun]) -> str:
    """A letter, and what differs where that is short, or the run's name."""
    letter = ascii_uppercase[number] if number < len(ascii_uppercase) else f"Z{number}"
    known = {name: value for name, value in differing.items() if value != UNKNOWN}
    text = ", ".join(f"{name.rsplit('.', 1)[-1]}={value}" for name, value in known.items())
    return f"{letter}: {text if 0 < len(text) <= MAX_LABEL else runs[0].directory.name}"


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean and Student's interval of it; unlike the bootstrap's, it is right for two or three values too."""
    if len(values) < 2:
        return Interval(float(np.mean(values)), math.nan, math.nan)
    return _t_interval(float(np.mean(values)), float(np.std(values, ddof=1)), len(values))


def _t_interval(mean: float, std: float, n: int) -> Interval:
    half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * std / math.sqrt(n) if n > 1 else math.nan
    return Interval(mean, mean - half, mean + half)


def _rows(groups: Sequence[Group]) -> Table:
    rows = []
    for group in groups:
        steps, seconds = group.mean("step"), group.mean("seconds")
        final = UNKNOWN if math.isnan(group.final_return.value) else format_interval(group.final_return)
        rows.append((
            group.label, str(len(group.runs)), final, format_number(group.mean("return_mean")), _span(group),
            format_number(seconds), format_number(steps / seconds, 0) if seconds else UNKNOWN,
        ))  # fmt: skip
    head = ["", "runs", "final return [95%]", "training return", "steps", "seconds", "steps/s"]
    return Table("Runs", head, rows)


def _span(group: Group) -> str:
    """The runs' steps: from the shortest to the longest where one is not as far as the others."""
    fewest, most = (end(run.last("step") for run in group.runs) for end in (min, max))
    return f"{most:,.0f}" if most - fewest <= group.runs[0].config["num_envs"] else f"{fewest:,.0f} to {most:,.0f}"


def _as_text(groups: Sequence[Group]) -> str:
    """What each group is, and below it the numbers in columns."""
    lines = []
    for group in groups:
        lines.append(f"{group.label}, {_where(group)}")
        lines += [f"    {name}: {value}" for name, value in group.differing.items() if value != UNKNOWN]
    table = _rows(groups)
    cells = [table.head, *table.rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.head))]
    lines.append("")
    for row in cells:
        first, *others = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([first, *others]).rstrip())
    lines += ["", NOTE]
    return "\n".join(lines)


NOTE = (
    "Final return: the last evaluation, with an interval over its episodes for one run, over the runs for several.\n"
    "Training return: mean of the last training episodes. Where there are several runs, all numbers are their means."
)


def _where(group: Group) -> str:
    directories = [str(run.directory) for run in group.runs]
    if len(directories) == 1:
        return directories[0]
    seeds = format_ranges([run.config["seed"] for run in group.runs])
    return f"{directories[0]} and {len(directories) - 1} more, seeds {seeds}"


def make_panels(groups: Sequence[Group]) -> list[Panel]:
    """Learning curves by environment: of the evaluations where all runs have two or more, else of training."""
    panels = []
    for env in dict.fromkeys(group.env for group in groups):
        members = [group for group in groups if group.env == env]
        evaluated = all(len(run.curve("eval_return_mean")) > 1 for group in members for run in group.runs)
        column, name = ("eval_return_mean", "return, evaluations") if evaluated else ("return_mean", "return, training")
        curves = [curve for group in members if (curve := _curve(group, column)) is not None]
        panels.append(Panel(env, "steps", name, curves))
    return panels


def _curve(group: Group, column: str) -> Curve | None:
    """The mean over the runs, with Student's interval where there are several; none without points."""
    points = [curve for run in group.runs if len(curve := run.curve(column))]
    if not points:
        return None
    places = common_places([curve[:, 0] for curve in points])
    intervals = [mean_interval(row) for row in align_curves(points, places)]
    return Curve(group.label, places, Band(*np.array(intervals).T))


def _write(path: Path, groups: Sequence[Group]) -> None:
    panels, labels = make_panels(groups), [group.label for group in groups]
    if path.suffix.lower() != ".html":
        write_file(path, draw(panels, labels, path.suffix[1:].lower()))
        return
    names = list(groups[0].differing)
    rows = [(name, *(group.differing[name] for group in groups)) for name in names]
    settings = Table("What differs", ["Setting", *(group.label for group in groups)], rows)
    where = Table("Run directories", ["", "Runs"], [(group.label, _where(group)) for group in groups])
    content = {"results": _rows(groups), "settings": settings, "where": where, "note": NOTE}
    write_page(path, "comparison.html", {"curves": panels}, labels, content)
