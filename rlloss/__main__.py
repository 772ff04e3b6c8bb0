"""The command line: ``python -m rlloss list`` and ``python -m rlloss plot``."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import groupby

from rlloss.catalogue import catalogue
from rlloss.plot import AXES, PlotError, plot


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, or 2 for a mistake in the arguments, or 1 for a missing package."""
    options = _parser().parse_args(arguments)
    if options.command == "list":
        _print(_listing(shutil.get_terminal_size((120, 24)).columns))
        return 0
    try:
        plot(options.losses, options.out, over=options.over)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        print("python -m rlloss plot: matplotlib is missing: pip install matplotlib", file=sys.stderr)
        return 1
    except PlotError as error:
        print(f"python -m rlloss plot: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


def _print(text: str) -> None:
    """Print to a reader that may have enough before the end, as ``head`` has."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes once more when it ends, and would complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rlloss", description="Losses for PyTorch: what there is, to look at."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("list", help="print every function: name, formula and paper, by family")
    draw = commands.add_parser(
        "plot",
        help="draw losses and their gradients into a picture",
        description="Draw losses and their gradients into a picture. Needs matplotlib.",
        epilog="example: python -m rlloss plot mse_loss huber_loss huber_loss:delta=2 --out losses.png",
    )
    draw.add_argument(
        "losses", nargs="+", metavar="loss", help="a name, and hyper-parameters if any: name:key=value,key=value"
    )
    draw.add_argument("--out", default="losses.png", help="the picture's file: png, pdf or svg (default: %(default)s)")
    draw.add_argument(
        "--over", choices=list(AXES), help="what is on the horizontal axis (default: the first that fits all)"
    )
    return parser


def _listing(width: int) -> str:
    """The catalogue as text: a paragraph per function, under the name of its family."""
    entries = catalogue()
    column = max(len(entry.name) for entry in entries) + 4
    lines = []
    for family, members in groupby(entries, key=lambda entry: entry.family):
        lines += ["", family]
        for entry in members:
            name = f"  {entry.name}".ljust(column)
            lines += _wrap(name + entry.formula, width, "", " " * column)
            for paper in entry.papers:
                lines += _wrap(paper, width, " " * column, " " * (column + 2))
    return "\n".join(lines[1:])


def _wrap(text: str, width: int, first: str, others: str) -> list[str]:
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)


if __name__ == "__main__":
    sys.exit(main())
