"""The clock of train_speed.py, and of what else times calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple


class Result(NamedTuple):
    """One run.

    Attributes:
        speed: Environment steps per second, summed over environments, in the last two thirds of the run.
        whole: Environment steps per second of the whole run, with all that happens once: making things, compiling.
        mean_return: Mean return of its last 100 episodes; NaN where nothing learns.
    """

    speed: float
    whole: float
    mean_return: float


Run = Callable[[int, int, int], Result]  # from the number of environments, of environment steps, and the seed


class Clock:
    """Times a run: it is started before anything is made, and told how far the run is.

    Args:
        steps: Environment steps of the run.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.began = time.perf_counter()
        self.first: tuple[float, int] | None = None

    def tick(self, done: int) -> None:
        """So many environment steps are done."""
        if self.first is None and done >= self.steps // 3:
            self.first = time.perf_counter(), done

    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.began

    def stop(self, done: int, returns: list[float]) -> Result:
        """The run is over, and its episodes had these returns."""
        assert self.first is not None
        seconds, before = time.perf_counter() - self.first[0], self.first[1]
        last = returns[-100:]
        mean_return = sum(last) / len(last) if last else float("nan")
        return Result((done - before) / seconds, done / self.seconds(), mean_return)


def seconds_of(function: Callable[[], Any], seconds: float = 0.5) -> float:
    """Mean time of a call, of as many as fit into ``seconds`` after the first."""
    function()
    calls, began = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - began < seconds:
        function()
        calls += 1
    return (time.perf_counter() - began) / calls
