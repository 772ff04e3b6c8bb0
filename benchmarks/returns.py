"""Time of the returns and advantages over T steps of 64 environments, eager and compiled.

    python benchmarks/returns.py                    # forward, one thread
    python benchmarks/returns.py --backward         # and the gradient of every input
    python benchmarks/returns.py --only vtrace      # rows whose name has this in it

A time is the median of its repeats; compiling is timed apart, with torch's cache off.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial

os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # before torch is imported

import torch
from torch import Tensor

import rlloss.functional as F

Returns = Callable[..., Tensor]
ENVIRONMENTS = 64


def _last(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> Tensor:
    """The advantage of V-trace, which is computed from its target."""
    return function(*tensors)[-1]


# What is timed, and the trajectories (T, 64) that it takes.
FUNCTIONS: dict[str, tuple[Returns, tuple[str, ...]]] = {
    "lambda_returns": (partial(F.lambda_returns, lambda_=0.95), ("reward", "discount", "next_value")),
    "gae": (F.gae, ("reward", "discount", "value", "next_value")),
    "n_step_returns, n=5": (partial(F.n_step_returns, n=5), ("reward", "discount", "next_value")),
    "n_step_returns, n=500": (partial(F.n_step_returns, n=500), ("reward", "discount", "next_value")),
    "upgo_returns": (F.upgo_returns, ("reward", "discount", "next_value")),
    "retrace": (F.retrace, ("log_rho", "reward", "discount", "q", "next_value")),
    "vtrace": (partial(_last, F.vtrace), ("log_rho", "reward", "discount", "value", "next_value")),
}


def inputs(names: tuple[str, ...], length: int, backward: bool) -> list[Tensor]:
    """Random trajectories, one step of a hundred a termination."""
    tensors = [torch.randn(length, ENVIRONMENTS) for _ in names]
    ended = torch.rand(length, ENVIRONMENTS) < 0.01
    tensors[names.index("discount")] = torch.where(ended, 0.0, 0.99)
    return [tensor.requires_grad_(backward) for tensor in tensors]


def run(function: Returns, tensors: list[Tensor], backward: bool) -> None:
    """One pass."""
    result = function(*tensors)
    if backward:
        torch.autograd.grad(result.sum(), tensors)


def median_time(function: Returns, tensors: list[Tensor], backward: bool, seconds: float) -> float:
    """Of at least 20 repeats, in seconds."""
    times: list[float] = []
    for _ in range(3):
        run(function, tensors, backward)
    end = time.perf_counter() + seconds
    while len(times) < 20 or time.perf_counter() < end:
        start = time.perf_counter()
        run(function, tensors, backward)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backward", action="store_true", help="the gradients as well")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 20, 128, 1000], help="the values of T")
    parser.add_argument("--seconds", type=float, default=0.5, help="how long a figure is timed")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    what = "forward and backward" if arguments.backward else "forward"
    print(f"torch {torch.__version__}, {arguments.threads} threads, {ENVIRONMENTS} environments; {what}\n")
    print("| function | T | eager (ms) | compiled (ms) | compiling (s) |")
    print("|---|---:|---:|---:|---:|")
    for name, (function, names) in FUNCTIONS.items():
        for length in arguments.steps if arguments.only in name else []:
            tensors = inputs(names, length, arguments.backward)
            eager = median_time(function, tensors, arguments.backward, arguments.seconds)
            torch.compiler.reset()
            compiled = torch.compile(function, fullgraph=True)
            start = time.perf_counter()
            run(compiled, tensors, arguments.backward)
            compiling = time.perf_counter() - start
            fast = median_time(compiled, tensors, arguments.backward, arguments.seconds)
            print(f"| `{name}` | {length} | {eager * 1e3:.3f} | {fast * 1e3:.3f} | {compiling:.1f} |", flush=True)


if __name__ == "__main__":
    main()
