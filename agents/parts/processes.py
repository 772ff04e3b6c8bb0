"""Several processes that train one agent (torchrun): each with its share of environments and batch, gradients averaged.

All of them take the same steps at the same time, so what is decided by counts, such as when to learn, needs no words.
Everything here is for one process too, where it costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from rlloss.core.distributed import process_count, process_rank

T = TypeVar("T")


@contextmanager
def join_processes(device: str) -> Iterator[None]:
    """Meet the other processes that torchrun started, over NCCL on GPUs, where each has its own, else over gloo."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # The others wait as long as an evaluation takes; torchrun ends them where one process fails.
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(days=1))
    try:
        yield
    finally:
        dist.destroy_process_group()


def own_share(function: str, name: str, number: int) -> int:
    """What of a number falls to each process.

    Raises:
        ValueError: It cannot be shared evenly.
    """
    share, left = divmod(number, process_count())
    if left:
        raise ValueError(f"{function}: {name} must be a multiple of the {process_count()} processes, got {number}")
    return share


def largest_of_processes(number: int) -> int:
    """The largest number of all processes."""
    if process_count() == 1:
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(number, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def from_first_process(make: Callable[[], T]) -> T:
    """What the first process makes, for all of them."""
    if process_count() == 1:
        return make()
    made = [make() if process_rank() == 0 else None]
    dist.broadcast_object_list(made)
    return made[0]  # type: ignore[return-value]


def wait_for_processes() -> None:
    """Go on when all processes are here."""
    if process_count() > 1:
        dist.barrier()
