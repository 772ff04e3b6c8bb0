"""How many threads of a CPU a run's kernels take."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from agents.agent import Agent
from agents.parts.processes import largest_of_processes
from agents.parts.transition import Transitions

# How much faster twice the threads have to be. Where other work keeps a core busy, they are half as fast instead.
_WORTH_TWICE_THE_THREADS = 1.3
# For each number of threads, at least.
_SECONDS_OF_MEASURING = 0.2


@contextmanager
def one_thread() -> Iterator[None]:
    """Give torch's kernels and numpy's matrix products one thread, and afterwards the caller's numbers again.

    Orthogonal weights depend on it in their last bits, so that a run is to make them with one and choose its own number
    then. numpy's products, which choose actions, are to keep one: its threads are others than torch's, and after a
    product each kind keeps the cores busy in which the other would compute.
    """
    before = torch.get_num_threads()
    try:
        with threadpool_limits(1, user_api="blas"):
            torch.set_num_threads(1)  # after the limit, which is torch's own where both share a library
            yield
    finally:
        torch.set_num_threads(before)


def measure_threads(agent: Agent) -> int:
    """The number of threads that suits an agent, by how long its networks' gradient takes with one, two, four...

    Takes about a second, or two gradients of each number of threads where these take long; nothing changes. Several
    processes come to the same number, out of each one's share of the machine.

    Args:
        agent: Built already. What it does on a GPU, threads do not make faster.
    """
    if agent.device.type != "cpu":
        return 1
    most = _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    before = torch.get_num_threads()
    try:
        number, seconds = 1, _seconds_of_a_gradient(agent, 1)
        while 2 * number <= most:
            next_seconds = _seconds_of_a_gradient(agent, 2 * number)
            if seconds < _WORTH_TWICE_THE_THREADS * next_seconds:
                break
            number, seconds = 2 * number, next_seconds
    finally:
        torch.set_num_threads(before)
    return -largest_of_processes(-number)


def _cores() -> int:
    """Of those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _seconds_of_a_gradient(agent: Agent, threads: int) -> float:
    """The median time of the gradient of an agent's networks for one batch of zeros, the first one left out."""
    rows = torch.zeros(agent.batch_rows, agent.layout.row_bytes, dtype=torch.uint8)
    observation = Transitions(rows, agent.layout, agent.batch_rows).observation
    parameters = [parameter for parameter in agent.model.parameters() if parameter.requires_grad]

    def gradient() -> None:
        outputs = agent.model(observation)
        several = [outputs] if isinstance(outputs, Tensor) else outputs
        torch.autograd.grad([x.sum() for x in several], parameters, allow_unused=True)

    torch.set_num_threads(threads)
    gradient()
    times: list[float] = []
    end = time.perf_counter() + _SECONDS_OF_MEASURING
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        gradient()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
