"""Runs a study: its runs each in a process of its own, several at a time, restartable.

A run that is done is not run again, be it only in results.csv, which may come from another machine; one that was
stopped goes on from its checkpoint, and one whose configuration has changed since begins anew.
"""

from __future__ import annotations

import csv
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NoReturn, TypeAlias

from tqdm import tqdm

from agents.run.checkpoint import write_atomic
from agents.run.training import Interrupted, catch_signals
from agents.study.executors import Execution, Executor, Local, Ray, run_in
from agents.study.report import report
from agents.study.results import Results, Run, read_results, read_run, write_results
from agents.study.variants import Job, Study, load_study
from rlloss.core.checks import check_choice, check_integer

# What is known already of runs that are done.
Earlier: TypeAlias = Mapping[Job, tuple[Run, list[tuple[int, float]]]]

_POLL_SECONDS = 0.5
_POLL_SECONDS_OF_A_LOG = 30.0


class StudyFailed(Exception):
    """Some runs of a study failed; the others are done."""


def study(
    config: str,
    *,
    directory: str = "runs/studies",
    jobs: int | None = None,
    seeds: int | None = None,
    only: str = "",
    executor: Literal["local", "ray"] = "local",
    progress: bool = True,
) -> Path:
    """Run what is missing of a study: every variant in every environment with every seed; then report.

    In a script, call it under ``if __name__ == "__main__"``: the runs are processes, which import the script.

    Args:
        config: The study's file, see configs/studies/.
        directory: Where studies go: <directory>/<name of the study>/.
        jobs: Runs at a time, >= 1; as many as the executor has cores by default.
        seeds: Seeds 0 to seeds - 1 instead of the file's.
        only: Run what has this in the name of its variant or environment alone; the others' results stay.
        executor: "local" gives each run a process of this machine; "ray" makes it a task of a Ray cluster (RAY_ADDRESS,
            or the one this machine is part of, or a local one), and one whose worker dies goes on from its checkpoint.
        progress: Show the progress bar.

    Returns:
        The study's directory.

    Raises:
        ValueError: Not a study's file, an argument that ``agents train`` refuses, or a damaged file of earlier results.
        StudyFailed: Runs failed; the same command tries them again.
        Interrupted: SIGINT or SIGTERM came; the runs have left checkpoints, and the same command goes on.
    """
    if jobs is not None:
        check_integer("study", "jobs", jobs, low=1)
    check_choice("study", "executor", executor, ("local", "ray"))
    if seeds is not None:
        check_integer("study", "seeds", seeds, low=1)
    plan, every = load_study(config, seeds=None if seeds is None else range(seeds))
    folder = Path(directory) / _slug(plan.name)
    earlier = _earlier(folder, plan, every)
    runner = _Runner(
        folder,
        [job for job in every if only in job.variant or only in job.environment],
        earlier,
        Local() if executor == "local" else Ray(),
        jobs,
    )
    runner.forget_changed()
    again = f"python -m agents study --config {config} --directory {directory}"
    if executor != "local":
        again += f" --executor {executor}"
    with catch_signals() as stop:
        with _progress(runner, enabled=progress) as bar:
            while runner.step(stopping=stop.number is not None):
                _show(bar, runner)
                time.sleep(_POLL_SECONDS)
            _show(bar, runner)
        results = collect(folder, plan, every, earlier)
        write_results(folder, results)
        if stop.number is not None:
            raise Interrupted(stop.number, again)
    page = f"report: {report(folder)}" if results.runs else "report: none, for no run is done"
    print(f"study: {folder}\n{page}")
    if runner.failed:
        first = results.failures[0]
        raise StudyFailed(
            f"{len(runner.failed)} runs failed, the first: {first[0]}, {first[1]}, seed {first[2]}: {first[3]}; "
            f"to try them again: {again}"
        )
    return folder


def _progress(runner: _Runner, *, enabled: bool) -> tqdm[NoReturn]:
    """One bar for all runs; where nobody watches a terminal, a line now and then."""
    interval = _POLL_SECONDS if sys.stderr.isatty() else _POLL_SECONDS_OF_A_LOG
    return tqdm(
        total=runner.steps, initial=runner.steps_done(), unit="step", unit_scale=True, mininterval=interval,
        disable=not enabled,
    )  # fmt: skip


def _show(bar: tqdm[NoReturn], runner: _Runner) -> None:
    bar.set_postfix_str(runner.summary(), refresh=False)
    bar.update(min(runner.steps_done(), runner.steps) - bar.n)


def _slug(name: str) -> str:
    """A name as that of a folder."""
    return re.sub(r"[^\w.=-]+", "-", name).strip("-") or "study"


def _earlier(directory: Path, plan: Study, jobs: Sequence[Job]) -> Earlier:
    """The runs that the study's small files tell of, and that are of the same configuration and threshold."""
    if not (directory / "results.csv").exists():
        return {}
    results = read_results(directory)
    runs = {(run.environment, run.variant, run.seed): run for run in results.runs}
    thresholds, known = ({at.name: at.threshold for at in study.environments} for study in (plan, results.study))
    return {
        job: (runs[job.key], results.curves[job.key])
        for job in jobs
        if job.key in runs
        and runs[job.key].configuration == job.digest
        and known[job.environment] == thresholds[job.environment]
    }


def folder_of(directory: Path, job: Job) -> Path:
    """Where a run and what belongs to it lie."""
    return directory / "runs" / _slug(job.environment) / _slug(job.variant) / f"s{job.seed}"


class _Runner:
    """The runs of a study, those that wait, those that run and those that have ended."""

    def __init__(
        self, directory: Path, jobs: Sequence[Job], earlier: Earlier, executor: Executor, number: int | None
    ) -> None:
        self.directory = directory
        self.jobs = list(jobs)
        self.earlier = earlier
        self.executor = executor
        self.number = executor.slots if number is None else number
        self.steps = sum(job.steps for job in jobs)
        self.waiting = [job for job in jobs if not self._is_done(job)]
        self.running: dict[Job, Execution] = {}
        self.failed: list[Job] = []

    def _folder(self, job: Job) -> Path:
        return folder_of(self.directory, job)

    def _is_done(self, job: Job) -> bool:
        folder = self._folder(job)
        here = (folder / "done").exists() and (folder / "job.yaml").read_text() == job.configuration
        return here or job in self.earlier

    def forget_changed(self) -> None:
        """Remove the runs of another configuration than the study's."""
        for job in self.jobs:
            path = self._folder(job) / "job.yaml"
            if path.exists() and path.read_text() != job.configuration:
                print(f"study: {path.parent} is of another configuration and begins anew", file=sys.stderr)
                shutil.rmtree(path.parent)

    def step(self, *, stopping: bool) -> bool:
        """Note what has ended and start what there is room for; whether anything is left to wait for."""
        for job, execution in list(self.running.items()):
            code = execution.poll()
            if code is not None:
                del self.running[job]
                self._end(job, code)
        if stopping:
            self.waiting.clear()
            for execution in self.running.values():
                execution.terminate()
            for job, execution in self.running.items():
                if execution.wait() == 0:
                    self._end(job, 0)
            self.running.clear()
        while self.waiting and len(self.running) < self.number:
            job = self.waiting.pop(0)
            self.running[job] = self._start(job)
        return bool(self.running)

    def _start(self, job: Job) -> Execution:
        folder = self._folder(job)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").unlink(missing_ok=True)
        return self.executor.start(job, folder)

    def _end(self, job: Job, code: int) -> None:
        folder = self._folder(job)
        if code == 0:
            run = run_in(folder)
            assert run is not None
            (run / "checkpoint.pt").unlink(missing_ok=True)  # by far the largest file, and nothing goes on from it
            write_atomic(folder / "done", b"")
        else:
            lines = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
            write_atomic(folder / "error.txt", (lines[-1] if lines else f"exit code {code}").encode())
            self.failed.append(job)

    def steps_done(self) -> int:
        """Environment steps taken so far in all runs."""
        return sum(
            job.steps if job in self.earlier else min(_last_step(self._folder(job)), job.steps) for job in self.jobs
        )

    def summary(self) -> str:
        """How many runs are where."""
        done = len(self.jobs) - len(self.waiting) - len(self.running) - len(self.failed)
        return f"{done}/{len(self.jobs)} runs done, {len(self.running)} running, {len(self.failed)} failed"


def _last_step(folder: Path) -> int:
    run = run_in(folder)
    if run is None or not (run / "metrics.csv").exists():
        return 0
    with (run / "metrics.csv").open(newline="") as file:
        return max((int(row["step"]) for row in csv.DictReader(file)), default=0)


def collect(directory: Path, plan: Study, jobs: Sequence[Job], earlier: Earlier) -> Results:
    """What the runs of a study have come to."""
    thresholds = {environment.name: environment.threshold for environment in plan.environments}
    results = Results(plan, [], {}, [], versions())
    for job in jobs:
        folder = folder_of(directory, job)
        run = run_in(folder)
        if run is not None and (folder / "done").exists():
            finished, results.curves[job.key] = read_run(run, job, thresholds[job.environment])
            results.runs.append(finished)
        elif job in earlier:
            finished, results.curves[job.key] = earlier[job]
            results.runs.append(finished)
        elif (folder / "error.txt").exists():
            results.failures.append((*job.key, (folder / "error.txt").read_text()))
    return results


def versions() -> dict[str, str]:
    """What runs a study here: packages, Python and machine."""
    packages = {name: importlib.metadata.version(name) for name in ("rlloss", "torch", "gymnasium", "numpy")}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "python": platform.python_version(),
        **packages,
        "commit": commit.stdout.strip() or "unknown",
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
