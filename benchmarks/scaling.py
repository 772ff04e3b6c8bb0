"""Whether cost grows in proportion to the work: over environments, batches, replays and networks.

    python benchmarks/scaling.py                   # some minutes, and 2 GB of memory for the largest replay
    python benchmarks/scaling.py --quick           # small values
    python benchmarks/scaling.py --only replay     # parts whose name has this in it
    python benchmarks/scaling.py --compile         # compiled gradient steps

One thread. "cost" is the time of what the row is about, "unit" that time per unit of its work, and "growth" the unit's
cost over that of the row above: at most 1 where cost grows no more than in proportion. (What a call costs by itself is
shared by more work from row to row, so growth is below 1 where that cost is most of it.)
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is imported

import numpy as np
import task
import torch
from timing import seconds_of
from train_speed import make_a2c, make_dqn, run_ours

from agents import DQN
from agents.agent import Agent
from agents.parts.replay import PrioritizedReplay, Replay
from agents.parts.spaces import Box, Discrete, EnvSpec
from agents.parts.transition import Layout, Transitions, pack


class Row(NamedTuple):
    """A line of the table: a time, and the work that it is for."""

    what: str
    size: str
    seconds: float
    work: float
    unit: str
    note: str = ""


def cartpole(num_envs: int) -> EnvSpec:
    """CartPole's spaces."""
    return EnvSpec(Box((4,), torch.float32), Discrete(2), num_envs=num_envs)


def random_steps(layout: Layout, num_envs: int) -> Transitions:
    """A step of all environments, of random numbers."""
    random = np.random.default_rng(0)
    observation, successor = random.standard_normal((2, num_envs, 4), dtype=np.float32)
    return pack(
        layout,
        observation=observation,
        action=random.integers(2, size=num_envs),
        reward=np.ones(num_envs),
        next_observation=successor,
        terminated=random.random(num_envs) < 0.01,
        truncated=np.zeros(num_envs, bool),
    )


# Environments


def environments(quick: bool, compiled: bool) -> Iterator[Row]:
    """Training on CartPole as a user would, a step of all environments; DQN with a gradient step for ten steps."""
    agents: list[tuple[str, Callable[[], Agent]]] = [("A2C", make_a2c), ("DQN", make_dqn)]
    for name, make in agents:
        for num_envs in (1, 16) if quick else (1, 8, 64, 512, 4_096):
            steps = max(num_envs * (60 if quick else 300), 3_000 if quick else 15_000)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                speed = run_ours(make, "on" if compiled else "off", task.ENV, num_envs, steps, 0).speed
            yield Row(f"{name}, environments", f"{num_envs:,}", num_envs / speed, num_envs, "environment step")


# Batches and networks


def update_seconds(batch_size: int, hidden_sizes: list[int], compiled: bool) -> float:
    """A gradient step of DQN, drawing its batch included."""
    agent = DQN(
        hidden_sizes=hidden_sizes, batch_size=batch_size, replay_capacity=50_000, learning_starts=0, replay_ratio=0.001
    )
    agent.build(cartpole(1_000), compiled=compiled)
    steps = random_steps(agent.layout, 1_000)
    for _ in range(50):
        agent.observe(steps)
    agent.update()

    def one_more() -> None:
        agent.steps += 1_000  # which a gradient step is due for
        agent.update()

    return seconds_of(one_more)


def batches(quick: bool, compiled: bool) -> Iterator[Row]:
    """DQN's gradient step over batch sizes."""
    for batch_size in (32, 128) if quick else (32, 128, 512, 2_048, 8_192):
        seconds = update_seconds(batch_size, task.DQN_NET, compiled)
        yield Row("DQN, batch size", f"{batch_size:,}", seconds, batch_size, "transition")


def networks(quick: bool, compiled: bool) -> Iterator[Row]:
    """DQN's gradient step over the width of its two hidden layers."""
    for width in (32, 128) if quick else (32, 64, 128, 256, 512, 1_024):
        parameters = 4 * width + width + width * width + width + width * 2 + 2
        seconds = update_seconds(task.BATCH_SIZE, [width, width], compiled)
        yield Row("DQN, two hidden layers", f"{width:,} wide", seconds, parameters, "parameter")


# Replays


class ReplayCost(NamedTuple):
    """Seconds to write a transition and to draw a batch, and bytes of memory: what the process gained."""

    write: float
    draw: float
    memory: int


def resident_bytes() -> int:
    """What the process holds in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure_replay(capacity: int, prioritized: bool) -> ReplayCost:
    """Fill a replay, and draw from it."""
    torch.set_num_threads(1)
    num_envs, generator = 1_000, torch.Generator()
    layout = Layout(cartpole(num_envs))
    steps = random_steps(layout, num_envs)
    full_replay(layout, num_envs, prioritized, steps)  # what the first one loads is not the replay's
    before = resident_bytes()
    replay = full_replay(layout, capacity, prioritized, steps)
    memory = resident_bytes() - before
    write = seconds_of(lambda: replay.write(steps)) / num_envs
    return ReplayCost(write, seconds_of(partial(draw, replay, generator)), memory)


def full_replay(layout: Layout, capacity: int, prioritized: bool, steps: Transitions) -> Replay:
    """A replay that holds ``capacity`` transitions."""
    arguments = layout, capacity, steps.count, torch.device("cpu")
    replay = PrioritizedReplay(*arguments, n_step=1, exponent=0.6) if prioritized else Replay(*arguments)
    for _ in range(replay.length):
        replay.write(steps)
    return replay


def draw(replay: Replay, generator: torch.Generator) -> None:
    """A batch, and for priorities what goes with it."""
    index = replay.draw(task.BATCH_SIZE, 1, generator)
    replay.gather(index, 0.99)
    if isinstance(replay, PrioritizedReplay):
        replay.weights(index, 0.4)
        replay.update(index, torch.ones(task.BATCH_SIZE))


def replays(quick: bool, compiled: bool) -> Iterator[Row]:
    """Writing, drawing and memory over the transitions that a replay holds, each size in a fresh process."""
    capacities = (10_000, 100_000) if quick else (10_000, 100_000, 1_000_000, 10_000_000)
    layout = Layout(cartpole(1))
    data_bytes = sum(dtype.itemsize * math.prod(shape) for dtype, shape in layout.fields.values())
    for prioritized in (False, True):
        costs = []
        for capacity in capacities:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                costs.append(pool.submit(measure_replay, capacity, prioritized).result())
        name = "prioritized replay" if prioritized else "replay"
        for what, unit, work in (("write", "transition", 1), ("draw", "transition", task.BATCH_SIZE)):
            for capacity, cost in zip(capacities, costs, strict=True):
                data = capacity * data_bytes
                note = f"{cost.memory / 1e6:,.1f} MB for {data / 1e6:,.1f} MB of data" if what == "write" else ""
                seconds = cost.write if what == "write" else cost.draw
                yield Row(f"{name}, {what}", f"{capacity:,} transitions", seconds, work, unit, note)


PARTS: dict[str, Callable[[bool, bool], Iterator[Row]]] = {
    "environments": environments,
    "batches": batches,
    "networks": networks,
    "replays": replays,
}


def in_units(seconds: float) -> str:
    """A time as one reads it."""
    scale, unit = next((s, u) for s, u in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (0.0, "ns")) if seconds >= s)
    return f"{seconds / (scale or 1e-9):.3g} {unit}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small values")
    parser.add_argument("--only", default="", help="parts with this in their name: " + ", ".join(PARTS))
    parser.add_argument("--compile", action="store_true", help="compiled gradient steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| what | size | cost | unit | growth | memory |")
    print("|---|---:|---:|---:|---:|---|")
    for name, part in PARTS.items():
        above: Row | None = None
        for row in part(options.quick, options.compile) if options.only in name else ():
            unit, growth = row.seconds / row.work, ""
            if above is not None and above.what == row.what:
                growth = f"{unit / (above.seconds / above.work):.2f}"
            cells = row.what, row.size, in_units(row.seconds), f"{in_units(unit)} per {row.unit}", growth, row.note
            print(f"| {' | '.join(cells)} |", flush=True)
            above = row


if __name__ == "__main__":
    main()
