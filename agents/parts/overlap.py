"""Learning on a thread of its own, beside the acting; torch lets go of Python's lock while it computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import torch
from torch import Tensor


class Overlap:
    """One piece of work at a time, whose results wait until they are asked for.

    Attributes:
        results: What the last piece of work came to; empty once taken.
    """

    def __init__(self) -> None:
        self.results: list[Tensor] = []
        self._worker: ThreadPoolExecutor | None = None
        self._running: Future[list[Tensor]] | None = None

    def start(self, function: Callable[..., list[Tensor]], *arguments: Any) -> None:
        """Begin a piece of work; the last one's results must be taken before."""
        if self._worker is None:  # how many threads torch uses is a matter of the thread that asks
            threads = torch.get_num_threads()
            self._worker = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))
        # With this thread's context, in which torch keeps the compiler's settings.
        self._running = self._worker.submit(copy_context().run, function, *arguments)

    def wait(self) -> None:
        """Go on when nothing is running; raises what the work raised."""
        if self._running is not None:
            running, self._running = self._running, None
            self.results = running.result()

    def take(self) -> list[Tensor]:
        """The results of the last piece of work, once; waits for it."""
        self.wait()
        results, self.results = self.results, []
        return results
