"""README names every loss, and nothing that does not exist."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import rlloss
from rlloss import functional

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8").split("## The losses")[1].split("\n## ")[0]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in README.splitlines() if line.startswith("| ")]
LOSSES = [row for row in ROWS if row[0] != "The article's name"]


def test_tables() -> None:
    assert len(LOSSES) > 30
    assert all(len(row) == 5 for row in ROWS), "name, function, class, paper, note"


@pytest.mark.parametrize("row", LOSSES, ids=[row[1].strip("`") for row in LOSSES])
def test_names_exist(row: list[str]) -> None:
    """The function and its class, which stand side by side; in the notes, arguments of the function and functions."""
    _, function, cls, _, note = row
    assert function.strip("`") in functional.__all__ and cls.strip("`") in rlloss.__all__
    value = getattr(functional, function.strip("`"))
    assert value.__module__ == getattr(rlloss, cls.strip("`")).__module__
    for name, argument in re.findall(r"`(\w+)(=[^`]*)?`", note):
        if argument:
            assert any(
                name in inspect.signature(getattr(functional, other[1].strip("`"))).parameters for other in LOSSES
            )
        elif "_" in name:
            assert name in functional.__all__ or name in inspect.signature(value).parameters, name


@pytest.mark.parametrize("name", functional.__all__)
def test_every_loss_is_there(name: str) -> None:
    if "reduction" in inspect.signature(getattr(functional, name)).parameters:
        assert [row for row in LOSSES if row[1] == f"`{name}`"], f"README has no row for {name}"
    else:
        assert f"`{name}`" in README


def test_readme_names_what_exists() -> None:
    classes = re.findall(r"`(\w+Loss)`", README)
    assert set(classes) <= set(rlloss.__all__)


@pytest.mark.parametrize(
    "name",
    [
        "cross-entropy", "negative log loss", "categorical cross-entropy", "softmax loss", "multi-label classification",
        "binary cross-entropy", "sigmoid cross-entropy", "focal loss", "kullback-leibler divergence", "hinge loss",
        "multi-class svm loss", "squared hinge", "soft margin", "polyloss", "generalized end-to-end loss",
        "additive angular margin loss", "arcface", "sphereface", "centre loss", "dice loss", "mean absolute error",
        "l1 loss", "mean squared error", "l2 loss", "root mean squared error", "normalized mean absolute error",
        "huber loss", "smooth l1 loss", "smooth mean absolute error", "asymmetric huber loss", "logcosh",
        "mean absolute percentage error", "mean squared logarithmic error", "poisson regression",
        "margin ranking loss", "soft pairwise loss", "pairwise logistic loss", "pairwise ranking loss", "triplet loss",
        "multiple negatives ranking loss", "contrastive loss", "infonce loss", "cosine embedding loss",
        "hinge embedding loss", "simclr's contrastive loss", "q-value loss", "policy gradient loss",
    ],
)  # fmt: skip
def test_the_articles_names_are_found(name: str) -> None:
    assert any(name in row[0].lower() for row in LOSSES)


def test_rlax_names_what_exists() -> None:
    """The middle column is ours."""
    text = (ROOT / "docs" / "rlax.md").read_text("utf-8")
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    assert len(rows) > 60 and all(len(row) == 3 for row in rows)
    names = {name for row in rows for name in re.findall(r"`(\w+)`", row[1])}
    assert names - {*functional.__all__, *rlloss.__all__} == set()
