"""Runs a study: its runs each in a process of its own, several at a time, restartable.

A run that is done is not run again, be it only in results.csv, which may come from another machine; one that was
stopped goes on from its checkpoint. What has another configuration is another run, and nothing that is done is removed.
"""

from __future__ import annotations

import csv
import importlib.metadata
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, NoReturn

from tqdm import tqdm

from agents.run.checkpoint import write_atomic
from agents.run.training import Interrupted, catch_signals
from agents.study.executors import Execution, Executor, Local, Ray, run_in
from agents.study.report import report
from agents.study.results import Results, Run, read_results, read_run, write_results
from agents.study.variants import Job, Study, load_study, slug
from rlloss.core.checks import check_choice, check_integer

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
        only: Run the variant, or what runs in the environment, of this name alone, or of such names as match it as a
            pattern ("*Huber*"); the others' results stay.
        executor: "local" gives each run a process of this machine; "ray" makes it a task of a Ray cluster (RAY_ADDRESS,
            or the one this machine is part of, or a local one), and one whose worker dies goes on from its checkpoint.
        progress: Show the progress bar.

    Returns:
        The study's directory.

    Raises:
        ValueError: Not a study's file, an argument that ``agents train`` refuses, a damaged file of earlier results, or
            another process that runs the same study.
        StudyFailed: Runs failed; the same command tries them again.
        Interrupted: SIGINT, SIGTERM or SIGHUP came; the runs have left checkpoints, and the same command goes on.
    """
    if jobs is not None:
        check_integer("study", "jobs", jobs, low=1)
    check_choice("study", "executor", executor, ("local", "ray"))
    if seeds is not None:
        check_integer("study", "seeds", seeds, low=1)
    plan, every = load_study(config, seeds=None if seeds is None else range(seeds))
    chosen = [job for job in every if not only or fnmatchcase(job.variant, only) or fnmatchcase(job.environment, only)]
    if not chosen:
        raise ValueError(f"study: {config} has no variant or environment of the name {only!r}")
    folder = Path(directory) / slug(plan.name)
    with _alone(folder), catch_signals() as stop:
        earlier = read_results(folder) if (folder / "results.csv").exists() else None
        runner = _Runner(folder, chosen, earlier, Local() if executor == "local" else Ray(), jobs)
        with _progress(runner, enabled=progress) as bar:
            while runner.step(stopping=stop.number is not None):
                _show(bar, runner)
                time.sleep(_POLL_SECONDS)
            _show(bar, runner)
        results = collect(folder, plan, every, earlier, ran=bool(runner.started))
        write_results(folder, results)
        given = {"config": config, "directory": directory, "jobs": jobs, "seeds": seeds, "only": only or None,
                 "executor": executor}  # fmt: skip
        again = _command(given)
        if stop.number is not None:
            raise Interrupted(stop.number, again)
        asked_for = {job.key for job in every}
        any_done = any(run.key in asked_for for run in results.runs)
        page = f"report: {report(folder)}" if any_done else "report: none, for no run is done"
    print(f"study: {folder}\n{page}")
    if runner.failed:
        first = runner.failed[0]
        count = "a run" if len(runner.failed) == 1 else f"{len(runner.failed)} runs"
        raise StudyFailed(
            f"{count} failed, the first: {first.environment}, {first.variant}, seed {first.seed}: "
            f"{(folder_of(folder, first) / 'error.txt').read_text()}; to try again: {again}"
        )
    return folder


def _command(arguments: Mapping[str, object]) -> str:
    given = [(f"--{name}", str(value)) for name, value in arguments.items() if value is not None]
    return shlex.join(["python", "-m", "agents", "study", *(part for pair in given for part in pair)])


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second process out of a study's directory: both would start the same runs."""
    import fcntl  # which Windows lacks, as it does what starts the runs

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"study: another process runs the study in {folder}") from error
        yield


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


def folder_of(directory: Path, job: Job) -> Path:
    """Where a run and what belongs to it lie."""
    return directory / "runs" / slug(job.environment) / slug(job.variant) / f"s{job.seed}-{job.digest}"


def is_done(directory: Path, job: Job) -> bool:
    """Whether a run is finished here."""
    return (folder_of(directory, job) / "done").exists()


class _Runner:
    """The runs of a study, those that wait, those that run and those that have ended."""

    def __init__(
        self, directory: Path, jobs: Sequence[Job], earlier: Results | None, executor: Executor, number: int | None
    ) -> None:
        self.directory = directory
        self.jobs = list(jobs)
        self.executor = executor
        self.number = executor.slots if number is None else number
        self.steps = sum(job.steps for job in jobs)
        known = {run.key for run in earlier.runs} if earlier is not None else set()
        self.done = {job for job in jobs if is_done(directory, job) or job.key in known}
        self.waiting = [job for job in jobs if job not in self.done]
        self.running: dict[Job, Execution] = {}
        self.failed: list[Job] = []
        self.started = 0

    def step(self, *, stopping: bool) -> bool:
        """Note what has ended and start what there is room for; whether anything is left to wait for."""
        for job, execution in list(self.running.items()):
            code = execution.poll()
            if code is not None:
                del self.running[job]
                self._end(job, code)
        if stopping:
            for execution in self.running.values():
                execution.terminate()
            for job, execution in self.running.items():
                if execution.wait() == 0:
                    self._end(job, 0)
            self.running.clear()
            return False
        while self.waiting and len(self.running) < self.number:
            job = self.waiting.pop(0)
            self.running[job] = self._start(job)
        return bool(self.running)

    def _start(self, job: Job) -> Execution:
        folder = folder_of(self.directory, job)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").unlink(missing_ok=True)
        self.started += 1
        return self.executor.start(job, folder)

    def _end(self, job: Job, code: int) -> None:
        folder = folder_of(self.directory, job)
        if code == 0:
            run = run_in(folder)
            assert run is not None
            (run / "checkpoint.pt").unlink(missing_ok=True)  # by far the largest file, and nothing goes on from it
            write_atomic(folder / "done", b"")
            self.done.add(job)
        else:
            write_atomic(folder / "error.txt", _reason(folder / "log.txt", code).encode())
            self.failed.append(job)

    def steps_done(self) -> int:
        """Environment steps taken so far in all runs."""
        return sum(
            job.steps if job in self.done else min(_last_step(folder_of(self.directory, job)), job.steps)
            for job in self.jobs
        )

    def summary(self) -> str:
        """How many runs are where."""
        return f"{len(self.done)}/{len(self.jobs)} runs done, {len(self.running)} running, {len(self.failed)} failed"


def _reason(log: Path, code: int) -> str:
    """Why a run failed: the last line of its log, unless it had no time to write one."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (", perhaps for want of memory" if -code == signal.SIGKILL else "")
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else f"exit code {code}"


def _last_step(folder: Path) -> int:
    run = run_in(folder)
    if run is None or not (run / "metrics.csv").exists():
        return 0
    with (run / "metrics.csv").open(newline="") as file:
        return max((int(row["step"]) for row in csv.DictReader(file)), default=0)


def collect(directory: Path, plan: Study, jobs: Sequence[Job], earlier: Results | None, *, ran: bool) -> Results:
    """What the runs of a study have come to, those that earlier results tell of among them.

    Args:
        directory: The study's directory.
        plan: The study.
        jobs: All its runs.
        earlier: What its files told before.
        ran: Whether anything has run since.
    """
    known = {run.key: run for run in earlier.runs} if earlier is not None else {}
    runs: list[Run] = []
    failures = []
    for job in jobs:
        folder = folder_of(directory, job)
        before = known.pop(job.key, None)
        if is_done(directory, job):
            run = run_in(folder)
            assert run is not None
            runs.append(read_run(run, job))
        elif before is not None:
            runs.append(before)
        elif (folder / "error.txt").exists():
            failures.append((*job.key[:3], (folder / "error.txt").read_text()))
    return Results(plan, [*runs, *known.values()], failures, _versions(earlier, ran=ran))


def _versions(earlier: Results | None, *, ran: bool) -> dict[str, str]:
    """What has run a study: packages, Python and machine; all that there were where it went on with others."""
    found = dict(earlier.versions) if earlier is not None else {}
    if not ran and found:
        return found
    packages = {name: importlib.metadata.version(name) for name in ("rlloss", "torch", "gymnasium", "numpy")}
    describe = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False)
    now = {
        "python": platform.python_version(),
        **packages,
        "commit": commit.stdout.strip() or "unknown",
        "platform": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }
    return {name: "; ".join(dict.fromkeys([*filter(None, found.get(name, "").split("; ")), now[name]])) for name in now}
