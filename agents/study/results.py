"""What a study has found so far, as a few small files: all that a report is made of.

``results.csv`` has a line a finished run, ``curves.csv`` its evaluations, ``failures.csv`` what failed, ``study.yaml``
what was compared and ``versions.json`` with what.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from agents.run.checkpoint import write_atomic
from agents.study.variants import Job, Study

_CURVE_FIELDS = ["environment", "variant", "seed", "step", "eval_return"]
_FAILURE_FIELDS = ["environment", "variant", "seed", "error"]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        environment: Where.
        variant: Name of the variant.
        seed: Its seed.
        steps: Environment steps taken.
        seconds: Time they took, evaluations included.
        final_return: Mean return of the last evaluation.
        steps_to_threshold: Steps before the first evaluation at or above the threshold; None where there is none.
        seconds_to_threshold: Seconds before it.
        configuration: Digest of its configuration; empty where a file does not tell.
    """

    environment: str
    variant: str
    seed: int
    steps: int
    seconds: float
    final_return: float
    steps_to_threshold: int | None
    seconds_to_threshold: float | None
    configuration: str = ""


@dataclass(frozen=True)
class Results:
    """What a study has found.

    Attributes:
        study: What was compared.
        runs: The finished runs.
        curves: ``(step, mean return)`` of each evaluation, by environment, variant and seed.
        failures: Environment, variant, seed and error of each run that failed.
        versions: Names and versions of what ran it.
    """

    study: Study
    runs: list[Run]
    curves: dict[tuple[str, str, int], list[tuple[int, float]]]
    failures: list[tuple[str, str, int, str]]
    versions: dict[str, str]


def read_run(folder: Path, job: Job, threshold: float | None) -> tuple[Run, list[tuple[int, float]]]:
    """The run of a job and its evaluations, from its run directory.

    Raises:
        ValueError: No evaluation is in it.
    """
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["eval_return_mean"]]
    if not rows:
        raise ValueError(f"study: {folder} holds no evaluation")
    curve = [(int(row["step"]), float(row["eval_return_mean"])) for row in rows]
    seconds = [float(row["seconds"]) for row in rows]
    first = next((k for k, (_, value) in enumerate(curve) if threshold is not None and value >= threshold), None)
    reached = (None, None) if first is None else (curve[first][0], seconds[first])
    steps, final = curve[-1]
    return Run(*job.key, steps, seconds[-1], final, reached[0], reached[1], job.digest), curve


def write_results(directory: Path, results: Results) -> None:
    """Write a study's files, each whole or not at all."""
    curves = [(*key, *point) for key, points in results.curves.items() for point in points]
    texts = {
        "study.yaml": results.study.to_yaml(),
        "versions.json": json.dumps(results.versions, indent=2) + "\n",
        "results.csv": _to_csv(
            [field.name for field in fields(Run)], [list(asdict(run).values()) for run in results.runs]
        ),
        "curves.csv": _to_csv(_CURVE_FIELDS, curves),
        "failures.csv": _to_csv(_FAILURE_FIELDS, results.failures),
    }
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomic(directory / name, text.encode())


def read_results(directory: Path) -> Results:
    """Read what :func:`write_results` wrote.

    Raises:
        ValueError: Not a study's directory, or a file in it that is damaged.
    """
    missing = [name for name in ("study.yaml", "results.csv", "curves.csv") if not (directory / name).exists()]
    if missing:
        raise ValueError(f"{directory} is not a study's directory: it has no {missing[0]}")
    try:
        study = Study.from_yaml((directory / "study.yaml").read_text())
        runs = [_to_run(row) for row in _read_csv(directory / "results.csv")]
        curves: dict[tuple[str, str, int], list[tuple[int, float]]] = {}
        for row in _read_csv(directory / "curves.csv"):
            key = row["environment"], row["variant"], int(row["seed"])
            curves.setdefault(key, []).append((int(row["step"]), float(row["eval_return"])))
        failures = [
            (row["environment"], row["variant"], int(row["seed"]), row["error"])
            for row in _read_csv(directory / "failures.csv")
        ]
        versions = (
            json.loads((directory / "versions.json").read_text()) if (directory / "versions.json").exists() else {}
        )
    except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{directory} holds a damaged file: {error!r}") from error
    return Results(study, runs, curves, failures, versions)


def _to_run(row: Mapping[str, str]) -> Run:
    steps, seconds = row["steps_to_threshold"], row["seconds_to_threshold"]
    return Run(
        row["environment"],
        row["variant"],
        int(row["seed"]),
        int(row["steps"]),
        float(row["seconds"]),
        float(row["final_return"]),
        int(steps) if steps else None,
        float(seconds) if seconds else None,
        row.get("configuration", ""),
    )


def _to_csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()


def _read_csv(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
