"""What a study has found so far, as a few small files: all that a report is made of.

``curves.csv`` has the evaluations of each finished run and ``results.csv`` a line a run, with the digest of its
configuration and what its curve comes to; ``failures.csv`` tells what failed, ``study.yaml`` what was compared and
``versions.json`` with what.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import yaml

from agents.run.checkpoint import write_atomic
from agents.study.variants import Job, Study

_RUN_FIELDS = ["environment", "variant", "seed", "configuration", "steps", "seconds", "final_return"]
_RUN_FIELDS += ["steps_to_threshold", "seconds_to_threshold"]
_CURVE_FIELDS = ["environment", "variant", "seed", "configuration", "step", "eval_return", "seconds"]
_FAILURE_FIELDS = ["environment", "variant", "seed", "error"]


# Environment, variant, seed and digest of the configuration: runs of which all four are the same are the same.
RunKey: TypeAlias = tuple[str, str, int, str]


class CurvePoint(NamedTuple):
    """An evaluation: environment steps before it, mean return, and seconds since the run began."""

    step: int
    eval_return: float
    seconds: float


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        environment: Where.
        variant: Name of the variant.
        seed: Its seed.
        configuration: Digest of its configuration.
        curve: Its evaluations, one or more, in order.
    """

    environment: str
    variant: str
    seed: int
    configuration: str
    curve: list[CurvePoint]

    @property
    def key(self) -> RunKey:
        """Environment, variant, seed and configuration."""
        return self.environment, self.variant, self.seed, self.configuration

    @property
    def steps(self) -> int:
        """Environment steps taken."""
        return self.curve[-1].step

    @property
    def seconds(self) -> float:
        """Time they took, evaluations included."""
        return self.curve[-1].seconds

    @property
    def final_return(self) -> float:
        """Mean return of the last evaluation."""
        return self.curve[-1].eval_return

    def reached(self, threshold: float | None) -> CurvePoint | None:
        """The first evaluation at or above a threshold, if there is one."""
        return next((point for point in self.curve if threshold is not None and point.eval_return >= threshold), None)


@dataclass(frozen=True)
class Results:
    """What a study has found.

    Attributes:
        study: What was compared.
        runs: The finished runs; also those of variants, seeds and configurations that the study no longer asks for.
        failures: Environment, variant, seed and error of each run that failed.
        versions: Names and versions of what ran it.
    """

    study: Study
    runs: list[Run]
    failures: list[tuple[str, str, int, str]]
    versions: dict[str, str]


def read_run(folder: Path, job: Job) -> Run:
    """The finished run of a job, from its run directory.

    Raises:
        ValueError: No evaluation is in it.
    """
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["eval_return_mean"]]
    if not rows:
        raise ValueError(f"study: {folder} holds no evaluation")
    curve = [CurvePoint(int(row["step"]), float(row["eval_return_mean"]), float(row["seconds"])) for row in rows]
    return Run(*job.key, curve)


def write_results(directory: Path, results: Results) -> None:
    """Write a study's files, each whole or not at all."""
    thresholds = {environment.name: environment.threshold for environment in results.study.environments}
    runs = []
    for run in results.runs:
        reached = run.reached(thresholds.get(run.environment))
        first = ("", "") if reached is None else (reached.step, reached.seconds)
        runs.append((*run.key, run.steps, run.seconds, run.final_return, *first))
    texts = {
        "study.yaml": results.study.to_yaml(),
        "versions.json": json.dumps(results.versions, indent=2) + "\n",
        "results.csv": _to_csv(_RUN_FIELDS, runs),
        "curves.csv": _to_csv(_CURVE_FIELDS, [(*run.key, *point) for run in results.runs for point in run.curve]),
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
    name = ""
    try:
        name = "study.yaml"
        study = Study.from_yaml((directory / name).read_text())
        name = "curves.csv"
        curves: dict[RunKey, list[CurvePoint]] = {}
        for row in _read_csv(directory / name):
            point = CurvePoint(int(row["step"]), _finite(row["eval_return"]), _finite(row["seconds"]))
            curves.setdefault(_key(row), []).append(point)
        name = "results.csv"
        runs = [_to_run(row, curves) for row in _read_csv(directory / name)]
        name = "failures.csv"
        failures = [
            (row["environment"], row["variant"], int(row["seed"]), row["error"]) for row in _read_csv(directory / name)
        ]
        name = "versions.json"
        text = (directory / name).read_text() if (directory / name).exists() else "{}"
        versions = {what: str(which) for what, which in json.loads(text).items()}
    except (AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{directory / name} is damaged: {reason[:200]}") from error
    return Results(study, runs, failures, versions)


def _key(row: Mapping[str, str]) -> RunKey:
    return row["environment"], row["variant"], int(row["seed"]), row["configuration"]


def _to_run(row: Mapping[str, str], curves: Mapping[RunKey, list[CurvePoint]]) -> Run:
    run = Run(*_key(row), curves.get(_key(row), []))
    if not run.curve or run.steps != int(row["steps"]):
        raise ValueError(f"curves.csv does not hold all of {run.environment}, {run.variant}, seed {run.seed}")
    return run


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number must be finite, got {text}")
    return value


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
