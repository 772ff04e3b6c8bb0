"""A batch that is spread over the processes of ``torch.distributed``, for the losses that compare its rows.

Without an initialised process group there is one process, and nothing to gather.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def process_count() -> int:
    """The number of processes that share a batch."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if process_count() > 1 else 0


def first_row(rows: int) -> int:
    """The place of this process's first row among the rows of all processes, ``rows`` each."""
    return rows * process_rank()


def gather_rows(tensor: Tensor) -> Tensor:
    """Concatenate the rows of all processes, in the order of their ranks; gradients flow back to each.

    Every process must call it, with the same shape.

    Args:
        tensor: ``(N, ...)``.

    Returns:
        ``(processes * N, ...)``.
    """
    if process_count() == 1:
        return tensor
    gathered: Tensor = _GatherRows.apply(tensor)  # type: ignore[no-untyped-call]
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Any:
        gathered = tensor.new_empty((process_count(), *tensor.shape))
        dist.all_gather(list(gathered), tensor.contiguous())
        return gathered.flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        # Each process has a gradient for every row: a row's is the sum over processes.
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        rows = total.shape[0] // process_count()
        return total[first_row(rows) : first_row(rows) + rows]


def sum_over_processes(constant: Tensor) -> Tensor:
    """The sum of a constant over all processes."""
    if process_count() == 1:
        return constant
    assert dist.group.WORLD is not None
    # What ``dist.all_reduce`` becomes in a graph, which can hold nothing that changes its argument.
    total = torch.ops._c10d_functional.all_reduce(constant.detach(), "sum", dist.group.WORLD.group_name)
    result: Tensor = torch.ops._c10d_functional.wait_tensor(total)
    return result


def mean_over_processes(constant: Tensor) -> Tensor:
    """The average of a constant over all processes."""
    return constant if process_count() == 1 else sum_over_processes(constant) / process_count()
