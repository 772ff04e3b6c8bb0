"""Environment steps per second while training on CartPole, ours and its peers', in one go.

    python benchmarks/train_speed.py                             # all rows, three repeats: three quarters of an hour
    python benchmarks/train_speed.py --only "A2C, 64"            # rows whose name has this in it (or the next text)
    python benchmarks/train_speed.py --only floor rlloss --repeats 1
    python benchmarks/train_speed.py --cold                      # ours compiles without what it compiled before

All have the same networks, optimisers, batch sizes, update ratios (task.py) and one thread. They take turns, each
run in a process of its own, so that the ratios hold where the machine's speed drifts: they are of runs of the same
turn, and the table has their medians. A peer that is not installed is left out. Single runs go to stderr as they end.

- "steps/s" is the speed of the last two thirds of a run (of all of it where it is one call, JAX's); "from start" that
  of the whole run, which has making everything and compiling in it (and for ours the last evaluation and checkpoint);
  "start-up" is the difference in seconds. Importing is in none.
- "return" is the mean of the last 100 episodes: a fast run that learns nothing is not a fast run. A peer that would
  take hours trains for fewer steps, which stand beside it.
- The last columns say how many times as fast as the row ours is: eager, compiled, and on the device, where
  environments, acting and learning are one graph.
- "overlapped" is compiled too, and learns on a second core beside the acting.
- "floor" (floor.py) is stepping the environments and gradient steps by hand, and nothing else: its ratio is our share.

Ours steps Gymnasium's vectorised CartPole, and a single one alone. Peers step single environments, as they do by
default, but for "SB3, vectorised", which has the same as ours.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from statistics import median
from typing import Literal, NamedTuple

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

import csv

import task
import torch
from floor import check, floor_a2c, floor_dqn
from timing import Clock, Result, Run
from torch_peers import (
    sb3_a2c,
    sb3_dqn,
    single_file_dqn,
    tianshou_a2c,
    tianshou_dqn,
    torchrl_a2c,
    torchrl_dqn,
)

from agents import A2C, DQN, train
from agents.agent import Agent
from rlloss import MSELoss, SmoothL1Loss, TDLoss

DEVICE_ENV = "rlloss/CartPole-v1"
EAGER, COMPILED, ON_DEVICE, FLOOR = "rlloss, eager", "rlloss, compiled", "rlloss, on the device", "floor"
OVERLAPPED = "rlloss, overlapped"
OURS = EAGER, COMPILED, ON_DEVICE


def make_dqn() -> DQN:
    """Our DQN with the benchmark's settings."""
    return DQN(
        loss=TDLoss(SmoothL1Loss()),
        discount=task.DISCOUNT,
        hidden_sizes=task.DQN_NET,
        learning_rate=task.DQN_LEARNING_RATE,
        batch_size=task.BATCH_SIZE,
        replay_ratio=1 / task.STEPS_PER_UPDATE,
        replay_capacity=task.REPLAY_CAPACITY,
        learning_starts=task.LEARNING_STARTS,
        target_update_every=task.UPDATES_PER_TARGET,
        max_grad_norm=task.DQN_MAX_GRAD_NORM,
        epsilon_end=task.EPSILON_END,
        epsilon_steps=task.EPSILON_STEPS,
    )


def make_a2c(*, overlap: bool = False) -> A2C:
    """Our A2C with the benchmark's settings, which are Stable-Baselines3's defaults."""
    return A2C(
        critic_loss=MSELoss(),
        discount=task.DISCOUNT,
        rollout_length=task.ROLLOUT_LENGTH,
        hidden_sizes=task.A2C_NET,
        value_coefficient=task.VALUE_COEFFICIENT,
        learning_rate=task.A2C_LEARNING_RATE,
        optimizer_args={"eps": task.RMSPROP_EPS},
        max_grad_norm=task.A2C_MAX_GRAD_NORM,
        overlap=overlap,
    )


def run_ours(
    make: Callable[[], Agent], compiled: Literal["on", "off"], env: str, num_envs: int, steps: int, seed: int
) -> Result:
    """Train ours, as a user would."""
    clock = Clock(steps)
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            make(), env, num_envs=num_envs, steps=steps, seed=seed, device="cpu", compile=compiled,
            log_every=max(steps // 60, 1_000), eval_episodes=1, tensorboard=False, progress=False, run_dir=folder,
        )  # fmt: skip
        whole = clock.seconds()
        with (run / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if not row["eval_return_mean"]]  # the last one timed more
    first, last = next(row for row in rows if int(row["step"]) >= steps // 3), rows[-1]
    speed = (int(last["step"]) - int(first["step"])) / (float(last["seconds"]) - float(first["seconds"]))
    return Result(speed, steps / whole, float(last["return_mean"]))


def run_jax(agent: Literal["a2c", "dqn"], num_envs: int, steps: int, seed: int) -> Result:
    """A whole training loop in JAX, which is imported here alone."""
    import jax_peers

    return (jax_peers.a2c if agent == "a2c" else jax_peers.dqn)(num_envs, steps, seed)


class Case(NamedTuple):
    """A part of the table: the same training for all of ``runs``."""

    agent: str
    num_envs: int
    steps: int
    runs: dict[str, Run]

    def steps_of(self, name: str) -> int:
        """Environment steps of a row's runs."""
        return min(self.steps, MOST_STEPS.get(name, self.steps))

    @property
    def name(self) -> str:
        """What is trained."""
        return f"{self.agent}, {self.num_envs:,} environment{'s' if self.num_envs > 1 else ''}"


def ours(make: Callable[[], Agent]) -> dict[str, Run]:
    """The rows of ours in Gymnasium's environments, and on the device."""
    return {
        EAGER: partial(run_ours, make, "off", task.ENV),
        COMPILED: partial(run_ours, make, "on", task.ENV),
        ON_DEVICE: partial(run_ours, make, "on", DEVICE_ENV),
    }


DQN_RUNS: dict[str, Run] = {
    **ours(make_dqn),
    "SB3": sb3_dqn,
    "Tianshou": tianshou_dqn,
    "TorchRL": torchrl_dqn,
    "single file": single_file_dqn,
    "JAX, whole loop": partial(run_jax, "dqn"),
    FLOOR: floor_dqn,
}
A2C_RUNS: dict[str, Run] = {
    **ours(make_a2c),
    OVERLAPPED: partial(run_ours, partial(make_a2c, overlap=True), "on", task.ENV),
    "SB3": sb3_a2c,
    "SB3, vectorised": partial(sb3_a2c, vectorized=True),
    "Tianshou": tianshou_a2c,
    "TorchRL": torchrl_a2c,
    "JAX, whole loop": partial(run_jax, "a2c"),
    FLOOR: floor_a2c,
}
PACKAGES = {
    "SB3": ["stable_baselines3"],
    "SB3, vectorised": ["stable_baselines3"],
    "Tianshou": ["tianshou"],
    "TorchRL": ["torchrl"],
    "JAX, whole loop": ["jax", "gymnax", "optax"],
}

# Environment steps at most of those that would take hours.
MOST_STEPS = {"Tianshou": 100_000, "TorchRL": 30_000}


def without(runs: dict[str, Run], *names: str) -> dict[str, Run]:
    """All rows but these."""
    return {name: run for name, run in runs.items() if name not in names}


CASES = [
    Case("DQN", 1, 30_000, without(DQN_RUNS, ON_DEVICE, "JAX, whole loop")),
    Case("DQN", 8, 50_000, without(DQN_RUNS, ON_DEVICE, "JAX, whole loop")),
    Case("DQN", 10, 100_000, {name: DQN_RUNS[name] for name in (COMPILED, ON_DEVICE, "JAX, whole loop", FLOOR)}),
    Case("DQN", 64, 100_000, {name: DQN_RUNS[name] for name in (EAGER, COMPILED, "SB3", FLOOR)}),
    Case("A2C", 8, 400_000, without(A2C_RUNS, "SB3, vectorised")),
    Case("A2C", 64, 1_000_000, without(A2C_RUNS, "SB3")),
    Case("A2C", 1_024, 4_000_000, without(A2C_RUNS, "SB3")),
]


def missing(name: str) -> list[str]:
    """The packages that a row needs and that are not installed."""
    return [package for package in PACKAGES.get(name, []) if find_spec(package) is None]


def _start_process(cache: str | None) -> None:
    """One thread, silence, and the compiler's cache in that directory, where one is named."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    torch.set_num_threads(1)
    if cache is not None:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache


def in_new_process(case: Case, name: str, seed: int, cold: bool) -> Result:
    """One run of a row, with ``cold`` after no other."""
    context = get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as empty,
        ProcessPoolExecutor(
            1, mp_context=context, initializer=_start_process, initargs=(empty if cold else None,)
        ) as pool,
    ):
        return pool.submit(case.runs[name], case.num_envs, case.steps_of(name), seed).result()


def measure(case: Case, names: list[str], repeats: int, cold: bool) -> dict[str, list[Result]]:
    """The results of each row, a result a turn."""
    results: dict[str, list[Result]] = {name: [] for name in names}
    for seed in range(repeats):
        for name in names:
            results[name].append(in_new_process(case, name, seed, cold))
            print(f"{case.name}: {name}: {results[name][-1]}", file=sys.stderr, flush=True)
    return results


def ratio(results: dict[str, list[Result]], ours: str, name: str) -> str:
    """How many times as fast as a row ours is, or our share of the floor; the median over the turns."""
    if name == ours or ours not in results:
        return ""
    value = median(a.speed / b.speed for a, b in zip(results[ours], results[name], strict=True))
    return f"{value:.0%}" if name == FLOOR else f"{value:.2f}x"


def row(case: Case, name: str, results: dict[str, list[Result]]) -> str:
    """A line of the table."""
    runs = results[name]
    speed = median(run.speed for run in runs)
    cells = [case.name, name, f"{speed:,.0f}", "", "", ""]
    if name != FLOOR:
        steps = case.steps_of(name)
        start_up = median(steps / run.whole - steps / run.speed for run in runs)
        whole = median(run.whole for run in runs)
        mean_return = median(run.mean_return for run in runs)
        after = f" ({steps:,} steps)" if steps < case.steps else ""
        cells[3:] = [f"{whole:,.0f}", f"{max(start_up, 0.0):.1f} s", f"{mean_return:.0f}{after}"]
    return "| " + " | ".join([*cells, *(ratio(results, ours, name) for ours in OURS)]) + " |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="turns; a figure is the median of theirs")
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="TEXT", help='rows with it in "DQN, 8 environments: SB3"'
    )
    parser.add_argument("--steps", type=int, help="environment steps of every run, instead of its own number")
    parser.add_argument("--cold", action="store_true", help="empty torch's compiler cache before each run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    check()
    for name in PACKAGES:
        if missing(name):
            print(f"{name} is left out: {', '.join(missing(name))} not installed")
    print(
        f"{task.ENV}, torch {torch.__version__}, 1 thread, median of {options.repeats}, environment steps per second\n"
    )
    print("| training | who | steps/s | from start | start-up | return | eager is | compiled is | on the device is |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for case in CASES:
        case = case._replace(steps=options.steps or case.steps)
        wanted = [name for name in case.runs if any(text in f"{case.name}: {name}" for text in options.only)]
        names = [name for name in wanted if not missing(name)]
        results = measure(case, names, options.repeats, options.cold)
        for name in names:
            print(row(case, name, results), flush=True)


if __name__ == "__main__":
    main()
