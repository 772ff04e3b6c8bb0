"""Pages of HTML that need nothing but a browser, and numbers as text."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.run.checkpoint import write_atomic
from agents.study.figures import Panel, draw, look, plotly_panel
from agents.study.statistics import Interval

TEMPLATES = Path(__file__).parent / "templates"
UNKNOWN = "–"
NEVER = "never"


@dataclass(frozen=True)
class Table:
    """Text in rows; the first cell of a row names it."""

    label: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_page(
    path: Path, template: str, figures: Mapping[str, Sequence[Panel]], variants: Sequence[str], content: dict[str, Any]
) -> dict[str, bytes]:
    """Write a page whose figures answer to the pointer, and are plain pictures in print and without JavaScript.

    Args:
        path: The page's file.
        template: Name of a file in templates/.
        figures: Panels by the name of their figure.
        variants: Names in the order of their looks.
        content: What else the template is filled with.

    Returns:
        The plain pictures, SVG by the name of their figure.

    Raises:
        ValueError: A package of the extra "report" is missing, or the file cannot be written.
    """
    try:
        import jinja2
        import matplotlib  # noqa: F401
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        raise ValueError(f"a page needs the package {error.name}: pip install -e '.[report]'") from error
    panels = [panel for group in figures.values() for panel in group]
    pictures = {name: draw(group, variants, "svg") for name, group in figures.items()}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    text = environment.get_template(template).render(
        **content,
        figures={
            name: {
                "alt": "; ".join(panel.title for panel in group),
                "svg": base64.b64encode(pictures[name]).decode(),
                "panels": [{"title": panel.title, "number": panels.index(panel)} for panel in group],
            }
            for name, group in figures.items()
        },
        plotly_panels=[plotly_panel(panel, variants) for panel in panels],
        plotly_script=get_plotlyjs(),
        looks=[(name, look(number)) for number, name in enumerate(variants)],
    )
    write_file(path, text.encode())
    return pictures


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and the folder it lies in.

    Raises:
        ValueError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error


def format_number(value: float, digits: int | None = None) -> str:
    """A number with a true minus sign; about three figures where no number of digits is asked for."""
    if math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return NEVER
    text = f"{value:,.{_digits(value) if digits is None else digits}f}"
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text.replace("-", "−")


def format_given(value: float) -> str:
    """A number as a person wrote it."""
    return f"{value:g}".replace("-", "−")


def format_interval(interval: Interval, *, whole: bool = False) -> str:
    """The estimate with its interval in brackets, all with as many digits."""
    digits = 0 if whole else _digits(*interval)
    value, low, high = (format_number(end, digits) for end in interval)
    if math.isnan(interval.low):
        return f"{value} (too few runs for an interval)"
    return value if value == low == high == NEVER else f"{value} [{low}, {high}]"


def _digits(*values: float) -> int:
    """Decimals for numbers of this size."""
    size = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return 0 if size >= 1000 else 1 if size >= 10 else 2


def format_ranges(numbers: Sequence[int]) -> str:
    """Whole numbers, those in a row as a range.

    >>> format_ranges([5, 0, 1, 2])
    '0-2, 5'
    """
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def join_names(names: Sequence[str]) -> str:
    """Names in a sentence; with semicolons where one of them has a comma.

    >>> join_names(["MSE", "Huber", "LogCosh"])
    'MSE, Huber and LogCosh'
    """
    comma = "; " if any("," in name for name in names) else ", "
    return " and ".join(part for part in [comma.join(names[:-1]), names[-1]] if part)
