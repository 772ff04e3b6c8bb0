"""Panels of curves and intervals: described once, drawn by matplotlib for files and by plotly for pages.

A variant has the same colour, line and marker in every panel. The colours (Okabe and Ito) are told apart by the
colour-blind, the lines and markers in black and white.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from agents.study.statistics import Array, Band, Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's without black and yellow, of which one is lost on a dark page and one on a white page.
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#808080"]
# Lengths of dashes and gaps; plotly's text of them is made from the same numbers.
DASHES: list[tuple[int, ...]] = [(), (6, 2), (2, 2), (8, 2, 2, 2), (12, 3)]
# matplotlib's name and plotly's of each marker.
MARKERS = [
    ("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("D", "diamond"), ("v", "triangle-down"), ("P", "cross"),
    ("X", "x"), ("*", "star"),
]  # fmt: skip
MARKERS_A_CURVE = 8
PNG_DPI = 150
# What plotly shows at the pointer: the variant, the value and its interval.
HOVER = "%{fullData.name}<br>%{VALUE:.4~g} [%{customdata[0]:.4~g}, %{customdata[1]:.4~g}]"


class Look(NamedTuple):
    """How a variant is drawn."""

    color: str
    dash: tuple[int, ...]
    marker: str
    plotly_marker: str

    @property
    def dash_text(self) -> str:
        """The dashes as SVG and plotly write them."""
        return ",".join(f"{length}px" for length in self.dash) or "solid"


def look(number: int) -> Look:
    """The look of the variant of that number; 280 pass before one comes again."""
    marker, plotly_marker = MARKERS[number % len(MARKERS)]
    return Look(COLORS[number % len(COLORS)], DASHES[number % len(DASHES)], marker, plotly_marker)


@dataclass(frozen=True)
class Curve:
    """A variant's line and band."""

    variant: str
    x: Array
    y: Band


@dataclass(frozen=True)
class Point:
    """A variant's estimate and interval."""

    variant: str
    x: Interval


@dataclass(frozen=True, eq=False)
class Panel:
    """A picture of all variants; equal to itself alone.

    Attributes:
        title: What it shows.
        x_label: Of the horizontal axis.
        y_label: Of the vertical axis; points have their variants' names there.
        items: All curves, or all points.
        mark: A value that a thin line is drawn at: a height for curves, a place on the horizontal axis for points.
        limits: Of the horizontal axis; by default what the items need.
    """

    title: str
    x_label: str
    y_label: str
    items: Sequence[Curve] | Sequence[Point]
    mark: float | None = None
    limits: tuple[float, float] | None = None

    @property
    def kind(self) -> Literal["curves", "points"]:
        """What the panel holds."""
        return "points" if self.items and isinstance(self.items[0], Point) else "curves"


def heights(panel: Panel) -> tuple[float, float] | None:
    """The vertical range of curves: bands that go far beyond all lines, as those of two runs do, are cut off."""
    values = np.concatenate([[], *(item.y.value for item in panel.items if isinstance(item, Curve))])
    ends = np.concatenate([[], *(end for item in panel.items if isinstance(item, Curve) for end in item.y[1:])])
    ends = ends[np.isfinite(ends)]
    if not ends.size or values.min() == values.max():
        return None
    room = (values.max() - values.min()) / 2
    low, high = max(values.min() - room, ends.min()), min(values.max() + room, ends.max())
    low, high = min(low, values.min()), max(high, values.max())
    if panel.mark is not None:
        low, high = min(low, panel.mark), max(high, panel.mark)
    edge = (high - low) / 20
    return float(low - edge), float(high + edge)


def draw(panels: Sequence[Panel], variants: Sequence[str], ending: str) -> bytes:
    """Draw panels side by side, curves with one legend below.

    Args:
        panels: What to draw; all of curves or all of points.
        variants: The names of all variants, whose order decides on their looks.
        ending: A format that matplotlib knows, such as "png" or "svg".

    Returns:
        The file's content, which is the same for the same data, to the last byte.

    Raises:
        ValueError: No such format.
    """
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    width = 9.0 if columns == 1 else 11.0
    has_legend = panels[0].kind == "curves"
    height = (3.6 if has_legend else 0.9 + 0.34 * len(variants)) * rows + 0.2
    if has_legend:
        height += 0.22 * math.ceil(len(variants) / _legend_columns(variants, width))
    with matplotlib.rc_context({"svg.hashsalt": "rlloss", "svg.fonttype": "path"}):  # the salt names clips alike
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel, axis in zip(panels, axes[: len(panels)], strict=True):
            _draw_panel(panel, variants, axis)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        if has_legend:
            _add_legend(figure, variants, width)
        content = io.BytesIO()
        figure.savefig(content, format=ending, dpi=PNG_DPI, metadata={"Date": None} if ending == "svg" else None)
    return content.getvalue()


def _draw_panel(panel: Panel, variants: Sequence[str], axis: Axes) -> None:
    from matplotlib.ticker import EngFormatter

    axis.set_title(panel.title, parse_math=False)
    axis.set_xlabel(panel.x_label, parse_math=False)
    axis.set_ylabel(panel.y_label, parse_math=False)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    for item in panel.items:
        shown = look(variants.index(item.variant))
        if isinstance(item, Curve):
            every = max(1, len(item.x) // MARKERS_A_CURVE)
            style: Any = (0, shown.dash) if shown.dash else "-"
            axis.plot(item.x, item.y.value, color=shown.color, linestyle=style, marker=shown.marker, markevery=every,
                      markersize=4.5, linewidth=1.6)  # fmt: skip
            axis.fill_between(item.x, item.y.low, item.y.high, color=shown.color, alpha=0.15, linewidth=0)
        else:
            place = variants.index(item.variant)
            axis.plot([item.x.low, item.x.high], [place, place], color=shown.color, linewidth=2)
            axis.plot([item.x.value], [place], color=shown.color, marker=shown.marker, markersize=7)
    if panel.kind == "points":
        axis.set_yticks(range(len(variants)), variants, parse_math=False)
        axis.set_ylim(len(variants) - 0.5, -0.5)
    if (vertical := heights(panel)) is not None:
        axis.set_ylim(vertical)
    if panel.limits is not None:
        axis.set_xlim(panel.limits)
    elif axis.get_xlim()[1] >= 1000:
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 500k for 500000
    if panel.mark is not None:
        line = axis.axvline if panel.kind == "points" else axis.axhline
        line(panel.mark, color="#555555", linewidth=0.9, linestyle=":", zorder=0)


def _legend_columns(variants: Sequence[str], width: float) -> int:
    """As many as fit: a letter takes about 0.085 inch, and a line beside it 0.7 inch."""
    return max(1, min(len(variants), int(width / (0.085 * max(map(len, variants)) + 0.7))))


def _add_legend(figure: Figure, variants: Sequence[str], width: float) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for number in range(len(variants)):
        shown = look(number)
        style: Any = (0, shown.dash) if shown.dash else "-"
        handles.append(Line2D([], [], color=shown.color, linestyle=style, marker=shown.marker, markersize=4.5))
    legend = figure.legend(
        handles, [f"variant {number}" for number in range(len(variants))], loc="outside lower center",
        ncols=_legend_columns(variants, width), frameon=False, handlelength=3.5, fontsize="small",
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), variants, strict=True):
        text.set_parse_math(False)  # a $ in a name is a $
        text.set_text(name)


def plotly_panel(panel: Panel, variants: Sequence[str]) -> dict[str, Any]:
    """A panel as plain data for ``Plotly.newPlot``: traces, of which each names its variant's number, and layout.

    Plotly reads names as a kind of HTML, so they are escaped.
    """
    traces = []
    for item in panel.items:
        number = variants.index(item.variant)
        traces += _curve_traces(item, number) if isinstance(item, Curve) else [_point_trace(item, number)]
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": _escape(panel.x_label)}, "automargin": True, "zeroline": False},
        "yaxis": {"title": {"text": _escape(panel.y_label)}, "automargin": True, "zeroline": False},
        "height": 340,
    }
    if panel.kind == "points":
        layout["yaxis"] |= {
            "tickvals": list(range(len(variants))),
            "ticktext": [_escape(_shorten(name)) for name in variants],
            "range": [len(variants) - 0.5, -0.5],
        }
        layout["height"] = 110 + 30 * len(variants)
    if (vertical := heights(panel)) is not None:
        layout["yaxis"]["range"] = list(vertical)
    if panel.limits is not None:
        layout["xaxis"]["range"] = list(panel.limits)
    if panel.mark is not None:
        along, across = ("x", "y") if panel.kind == "points" else ("y", "x")
        layout["shapes"] = [{
            "type": "line", "layer": "below", "line": {"width": 1, "dash": "dot", "color": "#808080"},
            f"{along}0": panel.mark, f"{along}1": panel.mark, f"{across}0": 0, f"{across}1": 1,
            f"{across}ref": "paper",
        }]  # fmt: skip
    return {"traces": traces, "layout": layout}


def _curve_traces(curve: Curve, number: int) -> list[dict[str, Any]]:
    """The band, and over it the line that answers to the pointer."""
    shown = look(number)
    common = {"type": "scatter", "legendgroup": str(number), "name": _escape(curve.variant), "showlegend": False}
    x, (value, low, high) = curve.x, curve.y
    known = np.isfinite(low) & np.isfinite(high)
    band = {
        **common,
        "x": _plain(np.concatenate([x[known], x[known][::-1]])),
        "y": _plain(np.concatenate([high[known], low[known][::-1]])),
        "mode": "lines", "fill": "toself", "fillcolor": f"{shown.color}26", "line": {"width": 0}, "hoverinfo": "skip",
    }  # fmt: skip
    line = {
        **common,
        "x": _plain(x), "y": _plain(value),
        "customdata": [list(ends) for ends in zip(_plain(low), _plain(high), strict=True)],
        "mode": "lines+markers",
        "line": {"color": shown.color, "dash": shown.dash_text, "width": 2},
        "marker": {"symbol": shown.plotly_marker, "size": 7, "maxdisplayed": MARKERS_A_CURVE},
        "hovertemplate": HOVER.replace("VALUE", "y") + " at %{x}<extra></extra>",
    }  # fmt: skip
    return [band, line]


def _point_trace(point: Point, number: int) -> dict[str, Any]:
    shown = look(number)
    value, low, high = point.x
    known = math.isfinite(low) and math.isfinite(high)
    return {
        "type": "scatter", "legendgroup": str(number), "name": _escape(point.variant), "showlegend": False,
        "x": [value], "y": [number], "mode": "markers", "customdata": [_plain(np.array([low, high]))],
        "marker": {"symbol": shown.plotly_marker, "size": 10, "color": shown.color},
        "error_x": {
            "type": "data", "symmetric": False, "array": [high - value if known else 0],
            "arrayminus": [value - low if known else 0], "color": shown.color, "thickness": 2, "width": 0,
        },
        "hovertemplate": HOVER.replace("VALUE", "x") + "<extra></extra>",
    }  # fmt: skip


def _plain(values: Array) -> list[float | None]:
    """Numbers for JSON, which has no NaN."""
    return [float(value) if math.isfinite(value) else None for value in values]


def _escape(text: str) -> str:
    """For plotly, which knows tags and the entities of < > & in a text, and not those of quotes."""
    return escape(text, quote=False)


def _shorten(name: str, length: int = 22) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
