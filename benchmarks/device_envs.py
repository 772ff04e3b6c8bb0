"""Environment steps per second while training on CartPole: Gymnasium's own, and ours on the device, in one go.

    python benchmarks/device_envs.py

Agent, network and settings are those of train_speed.py, compiled, with one thread. The speed is that of the last two
thirds of a run; "with start" is the whole run's, compiling and the last evaluation included.
"""

from __future__ import annotations

import contextlib
import csv
import io
import tempfile
import time
from typing import NamedTuple

import torch
from train_speed import make_a2c, make_dqn

import agents
from agents.agent import Agent


class Speed(NamedTuple):
    """Steps per second without and with what happens once, and the mean return of the last 100 episodes."""

    steady: float
    whole: float
    mean_return: float


def measure(agent: Agent, env: str, num_envs: int, steps: int) -> Speed:
    """Train once."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = agents.train(
            agent, env, num_envs=num_envs, steps=steps, log_every=steps // 20, tensorboard=False, progress=False,
            run_dir=folder, eval_episodes=1, device="cpu", compile="on",
        )  # fmt: skip
        whole = steps / (time.perf_counter() - started)
        with (run / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if not row["eval_return_mean"]]
    first, last = rows[len(rows) // 3], rows[-1]
    seconds = float(last["seconds"]) - float(first["seconds"])
    return Speed((int(last["step"]) - int(first["step"])) / seconds, whole, float(last["return_mean"]))


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, environment steps per second")
    print("| agent | environments | Gymnasium's | with start | on the device | with start | ratio | returns |")
    print("|---|---:|---:|---:|---:|---:|---:|---|")
    for name, make, num_envs, steps in (
        ("A2C", make_a2c, 8, 400_000),
        ("A2C", make_a2c, 64, 1_000_000),
        ("A2C", make_a2c, 1_024, 4_000_000),
        ("DQN", make_dqn, 10, 100_000),
    ):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            host, device = (measure(make(), env, num_envs, steps) for env in ("CartPole-v1", "rlloss/CartPole-v1"))
        print(
            f"| {name} | {num_envs:,} | {host.steady:,.0f} | {host.whole:,.0f} | {device.steady:,.0f} "
            f"| {device.whole:,.0f} | {device.steady / host.steady:.1f}x "
            f"| {host.mean_return:.0f}, {device.mean_return:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
