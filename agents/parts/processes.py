"""Several processes that train one agent (torchrun): each with its share of environments and batch, gradients averaged.

All of them take the same steps at the same time, so what is decided by counts, such as when to learn, needs no words.
Everything here is for one process too, where it costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@contextmanager
def join_processes(device: str) -> Iterator[None]:
    """Meet the other processes that torchrun started, over NCCL on GPUs, where each has its own, else over gloo."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def count_processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own_rank() -> int:
    """The number of this process, from 0; the first one also evaluates and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def own_share(function: str, name: str, number: int) -> int:
    """What of a number falls to each process.

    Raises:
        ValueError: It cannot be shared evenly.
    """
    share, left = divmod(number, count_processes())
    if left:
        raise ValueError(f"{function}: {name} must be a multiple of the {count_processes()} processes, got {number}")
    return share


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of all processes' tensors, for each of them; in place where there are several."""
    if count_processes() > 1:
        dist.all_reduce(tensor)
    return tensor


def largest_of_processes(number: int) -> int:
    """The largest number of all processes."""
    if count_processes() == 1:
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(number, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return int(tensor)


def from_first_process(make: Callable[[], T]) -> T:
    """What the first process makes, for all of them."""
    if count_processes() == 1:
        return make()
    made = [make() if own_rank() == 0 else None]
    dist.broadcast_object_list(made)
    return made[0]  # type: ignore[return-value]


def wait_for_processes() -> None:
    """Go on when all processes are here."""
    if count_processes() > 1:
        dist.barrier()
