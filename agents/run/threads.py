"""How many threads of a CPU a run's kernels take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.utils.benchmark import Timer

from agents.agent import Agent
from agents.parts.processes import largest_of_processes
from agents.parts.transition import Transitions

# How much faster twice the threads have to be. Where other work keeps a core busy, they are half as fast instead.
_WORTH_TWICE_THE_THREADS = 1.3


@contextmanager
def use_threads(number: int) -> Iterator[None]:
    """Give torch's kernels so many threads, and afterwards the caller's number again.

    numpy's matrix products, which choose actions, get one: its threads are others than torch's, and after a product
    each kind keeps the cores busy in which the other would compute.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


def measure_threads(agent: Agent) -> int:
    """The number of threads that suits an agent, by how long its networks' gradient takes with one, two, four...

    Takes up to a second, in which nothing changes. Several processes come to the same number, of each one's share of
    the machine.

    Args:
        agent: Built already. What it does on a GPU, threads do not make faster.
    """
    if agent.device.type != "cpu":
        return 1
    most = _cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    number, seconds = 1, _seconds_of_a_gradient(agent, 1)
    while 2 * number <= most:
        next_seconds = _seconds_of_a_gradient(agent, 2 * number)
        if seconds < _WORTH_TWICE_THE_THREADS * next_seconds:
            break
        number, seconds = 2 * number, next_seconds
    return -largest_of_processes(-number)


def _cores() -> int:
    """Of those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _seconds_of_a_gradient(agent: Agent, threads: int) -> float:
    """The median time of the gradient of an agent's networks for one batch of zeros."""
    rows = torch.zeros(agent.batch_rows, agent.layout.row_bytes, dtype=torch.uint8)
    observation = Transitions(rows, agent.layout, agent.batch_rows).observation
    parameters = list(agent.model.parameters())

    def gradient() -> None:
        outputs = agent.model(observation)
        several = [outputs] if isinstance(outputs, Tensor) else outputs
        torch.autograd.grad([x.sum() for x in several], parameters, allow_unused=True)

    timer = Timer("gradient()", globals={"gradient": gradient}, num_threads=threads)
    return timer.blocked_autorange(min_run_time=0.2).median
