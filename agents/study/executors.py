"""Where the runs of a study happen: as processes of this machine, or as tasks of a Ray cluster."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing.process
import os
import runpy
import shutil
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any, Protocol

from agents.run.checkpoint import write_atomic
from agents.study.variants import Job

# How often Ray starts a run again whose worker died.
_MAX_RETRIES = 3


class Execution(Protocol):
    """A run on its way."""

    def poll(self) -> int | None:
        """Its exit code once it has ended."""

    def terminate(self) -> None:
        """Ask it to write a checkpoint and end."""

    def wait(self) -> int:
        """Its exit code, when it has ended."""


class Executor(Protocol):
    """What starts runs."""

    @property
    def slots(self) -> int:
        """How many runs it can work on at a time."""

    def start(self, job: Job, folder: Path) -> Execution:
        """Start a run in its folder, or let it go on."""


def run_in(folder: Path) -> Path | None:
    """The run directory that ``agents train`` made in a run's folder."""
    return next((path.parent for path in sorted(folder.rglob("config.yaml"))), None)


def next_command(job: Job, folder: Path) -> list[str]:
    """The arguments of ``python -m agents`` that begin a run, or go on with it where it has left a checkpoint."""
    run = run_in(folder)
    if run is not None and (run / "checkpoint.pt").exists():
        command = ["resume", str(run)]
    else:
        if run is not None:
            shutil.rmtree(run)
        write_atomic(folder / "job.yaml", job.configuration.encode())
        command = ["train", "--config", str(folder / "job.yaml"), "--seed", str(job.seed), "--run_dir", str(folder)]
    return [*command, "--progress", "false"]


def _work(job: Job, folder: Path) -> int:
    """Begin a run, or go on with it, in this process, as ``python -m agents`` does; its exit code."""
    sys.argv = ["agents", *next_command(job, folder)]
    # runpy's: the process that this one is forked from has imported the module, and done nothing with it.
    warnings.filterwarnings("ignore", "'agents.__main__' found in sys.modules", RuntimeWarning)
    with (
        (folder / "log.txt").open("a", buffering=1) as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        try:
            runpy.run_module("agents", run_name="__main__")
        except SystemExit as ended:
            return int(ended.code or 0)
        except Exception:
            traceback.print_exc()
        return 1


class Local:
    """Processes of this machine, forked from one that has imported everything and done nothing yet."""

    def __init__(self) -> None:
        self.slots = os.cpu_count() or 1
        # Read when numpy is imported: runs that take the cores from each other help nobody.
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, "1")
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["agents.__main__"])

    def start(self, job: Job, folder: Path) -> Execution:
        """Start a run in its folder, or let it go on."""
        process = self._context.Process(target=_work_alone, args=(job, folder))
        process.start()
        return _LocalExecution(process)


def _work_alone(job: Job, folder: Path) -> None:
    os.setsid()  # else Ctrl-C reaches it twice, and the second time it does not save
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(_work(job, folder))


def _end_with_parent() -> None:
    """Write a checkpoint and end when the study's own process is gone: killed, it could ask for nothing."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # about to train, or asked already and saving
        time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGTERM)


class _LocalExecution:
    """A process of this machine."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self._process = process

    def poll(self) -> int | None:
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self) -> int:
        self._process.join()
        code = self._process.exitcode
        assert code is not None
        return code


class Ray:
    """Tasks of the Ray cluster that RAY_ADDRESS names or this machine is part of, else of one started here.

    A worker's process is the run's, so they die together; the task is started again, on another machine where there is
    one, and goes on from the run's checkpoint. So the study's directory and this package must be at one place on all.

    Raises:
        ValueError: Ray is not installed.
    """

    def __init__(self) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise ValueError("study: executor is ray, which needs pip install -e '.[ray]'") from error
        if not self._ray.is_initialized():
            self._ray.init(include_dashboard=False, log_to_driver=False)
        self.slots = max(int(self._ray.cluster_resources().get("CPU", 1)), 1)
        self._task = self._ray.remote(num_cpus=1, max_retries=_MAX_RETRIES)(_work)

    def start(self, job: Job, folder: Path) -> Execution:
        """Start a run in its folder, or let it go on."""
        folder = folder.resolve()
        return _RayExecution(self._ray, self._task.remote(job, folder), folder / "log.txt")


class _RayExecution:
    """A task of Ray, with the three methods of a process."""

    def __init__(self, ray: Any, task: Any, log: Path) -> None:
        self._ray = ray
        self._task = task
        self._log = log

    def poll(self) -> int | None:
        ended, _ = self._ray.wait([self._task], timeout=0)
        return self.wait() if ended else None

    def terminate(self) -> None:
        self._ray.cancel(self._task)  # reaches the worker as Ctrl-C does a process

    def wait(self) -> int:
        try:
            code: int = self._ray.get(self._task)
        except self._ray.exceptions.RayError as error:  # its workers died too often, or it was stopped before it began
            with self._log.open("a") as log:
                log.write(f"ray: {' '.join(str(error).split())}\n")
            return 1
        return code
