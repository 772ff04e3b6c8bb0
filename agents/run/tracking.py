"""What a run writes down: a row of ``metrics.csv`` and TensorBoard scalars per log interval, and a progress bar."""

from __future__ import annotations

import csv
import io
import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from agents.agent import Agent
from agents.parts.errors import DivergedError
from agents.run.checkpoint import write_atomic

RECENT_EPISODES = 100
# The columns that differ between two runs of the same seed.
WALL_CLOCK = ("seconds", "steps_per_second")


class Tracker:
    """Collects metrics on the device and reads them once per log interval.

    Args:
        run: The run directory.
        agent: Whose metrics are tracked.
        status: Names of the agent's host-side numbers.
        tensorboard: Whether to write event files.
        purge_step: Step from which an earlier writer's events are void, for a run that resumes.
        writes: Whether rows are written; of several processes that train together one does.
    """

    def __init__(
        self,
        run: Path,
        agent: Agent,
        status: Sequence[str],
        *,
        tensorboard: bool,
        purge_step: int | None = None,
        writes: bool = True,
    ) -> None:
        self.path = run / "metrics.csv"
        self.writes = writes
        self.metric_names = agent.metric_names
        self.columns = [
            "step",
            "episodes",
            "return_mean",
            "length_mean",
            *self.metric_names,
            *status,
            "eval_return_mean",
            "eval_return_std",
            *WALL_CLOCK,
        ]
        self.episodes = 0
        self.returns: deque[float] = deque(maxlen=RECENT_EPISODES)
        self.lengths: deque[int] = deque(maxlen=RECENT_EPISODES)
        self.last_loss = math.nan
        self.best_evaluation = -math.inf
        self.logged = 0  # the step of the last row
        self._pending: list[Tensor] = []
        self._seconds = 0.0
        self._started = self._last_time = time.perf_counter()
        self._last_step = 0
        self._writer: Any = None
        if tensorboard and writes:
            from torch.utils.tensorboard import SummaryWriter  # imported late: it takes a second

            self._writer = SummaryWriter(str(run / "tensorboard"), purge_step=purge_step)

    def describe(self, settings: Mapping[str, float | str]) -> None:
        """Tell TensorBoard's HParams page what the run's settings are.

        Only the session's own event: an event of the whole experiment, as ``SummaryWriter.add_hparams`` writes one for
        each run, makes TensorBoard show the settings of the first run alone.
        """
        if self._writer is not None:
            from torch.utils.tensorboard.summary import hparams

            _, session, _ = hparams(dict(settings), {})  # type: ignore[no-untyped-call]
            self._writer.file_writer.add_summary(session)

    def episode(self, episode_return: float, length: int) -> None:
        """Record an episode that ended."""
        self.episodes += 1
        self.returns.append(episode_return)
        self.lengths.append(length)

    def update(self, metrics: Sequence[Tensor]) -> None:
        """Record gradient steps; their values stay on the device."""
        self._pending.extend(metrics)

    @property
    def return_mean(self) -> float:
        """Mean return of the last episodes; NaN before the first."""
        return sum(self.returns) / len(self.returns) if self.returns else math.nan

    def check(self, step: int) -> dict[str, float]:
        """Means of the metrics since the last row; one transfer to the host.

        Raises:
            DivergedError: One of them is not finite.
        """
        if not self._pending:
            return {}
        means = dict(zip(self.metric_names, torch.stack(self._pending).mean(0).tolist(), strict=True))
        for name, value in means.items():
            if not math.isfinite(value):
                raise DivergedError(f"{name} is {value} at step {step}")
        self.last_loss = means.get("loss", math.nan)
        return means

    def log(self, step: int, status: Mapping[str, float], evaluation: Mapping[str, float]) -> None:
        """Write one row.

        Raises:
            DivergedError: A metric is not finite; the row is not written.
        """
        now = time.perf_counter()
        row: dict[str, float] = {"step": step, "episodes": self.episodes}
        if self.returns:
            row["return_mean"] = self.return_mean
            row["length_mean"] = sum(self.lengths) / len(self.lengths)
        row |= self.check(step)
        self._pending.clear()
        row |= status
        row |= evaluation
        row["seconds"] = self._seconds + now - self._started
        row["steps_per_second"] = (step - self._last_step) / max(now - self._last_time, 1e-9)
        self.logged = self._last_step = step
        self._last_time = now
        if self.writes:
            self._write_row(row)
        if self._writer is not None:
            for name, value in row.items():
                if name != "step":
                    self._writer.add_scalar(_tag(name), value, step)

    def _write_row(self, row: Mapping[str, float]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, restval="", lineterminator="\n")
        if not self.path.exists() or not self.path.stat().st_size:
            writer.writeheader()
        writer.writerow(dict(row))
        # One write call of a whole line: a crash leaves no half of it.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, text.getvalue().encode())
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()

    def state_dict(self) -> dict[str, Any]:
        """What the next row is made from."""
        pending = torch.stack(self._pending) if self._pending else torch.zeros(0, len(self.metric_names))
        return {
            "episodes": self.episodes,
            "returns": list(self.returns),
            "lengths": list(self.lengths),
            "pending": pending,
            "best_evaluation": self.best_evaluation,
            "logged": self.logged,
            "seconds": self._seconds + time.perf_counter() - self._started,
        }

    def load_state_dict(self, state: Mapping[str, Any], step: int) -> None:
        """Restore :meth:`state_dict`, and drop the rows that were written after it."""
        self.episodes = int(state["episodes"])
        self.returns.extend(state["returns"])
        self.lengths.extend(state["lengths"])
        self._pending = list(state["pending"])
        self.best_evaluation = float(state["best_evaluation"])
        self._seconds = float(state["seconds"])
        self.logged = int(state["logged"])
        self._last_step = step
        if self.writes and self.path.exists():
            whole = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            try:
                kept = [line for line in whole[1:] if int(line.split(",")[0]) <= self.logged]
            except ValueError as error:
                raise ValueError(f"{self.path} holds a row that the run did not write: {error}") from error
            write_atomic(self.path, "".join([*whole[:1], *kept]).encode())


def _tag(name: str) -> str:
    """TensorBoard groups scalars by what stands before the slash."""
    if name in ("return_mean", "length_mean", "episodes"):
        return f"episode/{name}"
    if name.startswith("eval_"):
        return f"evaluation/{name.removeprefix('eval_')}"
    return f"time/{name}" if name in WALL_CLOCK else f"train/{name}"


class Progress:
    """The live line: steps, steps per second, time left, mean return, loss and epsilon."""

    def __init__(self, total: int, initial: int, *, enabled: bool) -> None:
        self._total = total
        self._bar = tqdm(
            total=total,
            initial=initial,
            unit=" steps",
            disable=not enabled,
            dynamic_ncols=True,
            mininterval=0.2,
            smoothing=0.05,
        )

    def update(self, steps: int, tracker: Tracker, status: Callable[[], Mapping[str, float]]) -> None:
        """Move on by some steps."""
        if self._bar.disable:
            return
        # tqdm redraws five times a second at most; the text is only made when it does.
        # Environments step together, so the last steps may be more than were asked for.
        if self._bar.update(min(steps, self._total - self._bar.n)):
            shown = {"return": f"{tracker.return_mean:.1f}", "loss": f"{tracker.last_loss:.3g}"}
            if "epsilon" in (numbers := status()):
                shown["epsilon"] = f"{numbers['epsilon']:.2f}"
            self._bar.set_postfix({name: text for name, text in shown.items() if text != "nan"}, refresh=False)

    def close(self) -> None:
        """Leave the line as it stands."""
        self._bar.close()
