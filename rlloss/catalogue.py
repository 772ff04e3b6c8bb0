"""What the library holds, read from the docstrings, so that each formula and each paper is written in one place."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from rlloss import functional


class Entry(NamedTuple):
    """A function of :mod:`rlloss.functional`: its name, its family (the module), what it computes and where from."""

    name: str
    family: str
    formula: str
    papers: tuple[str, ...]


def catalogue() -> list[Entry]:
    """Every function of :mod:`rlloss.functional`, families in the order of the alphabet."""
    entries = [_entry(getattr(functional, name)) for name in functional.__all__]
    return sorted(entries, key=lambda entry: (entry.family, entry.name))


def _entry(function: Callable[..., Any]) -> Entry:
    text = inspect.getdoc(function) or ""
    return Entry(function.__name__, function.__module__.rsplit(".", 1)[-1], _formula(text), _papers(text))


def _formula(text: str) -> str:
    """What follows the colon of the first line if it holds code, else the first sentence elsewhere that does."""
    first, *others = text.split("\n\n")
    _, colon, after = first.partition(": ")
    if colon and "``" in after:
        return _plain(after).removesuffix(".")
    sentences = [sentence for part in [*others, first] for sentence in re.split(r"(?<=\.) ", " ".join(part.split()))]
    return _plain(next((sentence for sentence in sentences if "``" in sentence), first)).removesuffix(".")


def _papers(text: str) -> tuple[str, ...]:
    """The entries of the section ``Reference:``: authors, a title in quotes, and a sentence's end after the year."""
    _, section, rest = text.partition("\nReference:\n")
    lines = _plain(rest.split("\n\n")[0]) if section else ""
    return tuple(paper.strip() for paper in re.findall(r'[^"]+"[^"]+".*?\b\d{4}\b[^.]*\.', lines))


def _plain(text: str) -> str:
    """Markup and line breaks taken out."""
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"\1", text)
    return " ".join(text.replace("``", "").split())
