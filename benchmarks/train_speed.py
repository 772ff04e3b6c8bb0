"""Environment steps per second while training, ours and Stable-Baselines3's, in one go.

    python benchmarks/train_speed.py

Both get the same task, network, optimiser, batch size, update ratio and number of threads, and take turns, so that the
ratio holds where the machine's speed drifts. Each steps CartPole as it does by default: ours through Gymnasium's
vectorised version, the peer through single environments. The mean return of the last 100 episodes stands beside each
speed: a fast run that learns nothing is not a fast run.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from agents import A2C, DQN, train
from agents.agent import Agent
from rlloss import MSELoss, SmoothL1Loss, TDLoss

ENV = "CartPole-v1"
DQN_NET = [120, 84]
A2C_NET = [64, 64]


WARM_UP = 5_000  # environment steps before the clock starts, on both sides: learning has begun, graphs are compiled


class Result(NamedTuple):
    """One run: environment steps per second, mean return of its last 100 episodes, seconds lost at the start."""

    speed: float
    mean_return: float
    start_up: float


def run_ours(agent: Agent, num_envs: int, steps: int, seed: int, compiled: bool) -> Result:
    """Train ours, as a user would."""
    with tempfile.TemporaryDirectory() as folder:
        run = train(
            agent, ENV, num_envs=num_envs, steps=steps, seed=seed, tensorboard=False, progress=False, run_dir=folder,
            eval_episodes=1, device="cpu", compile="on" if compiled else "off",
        )  # fmt: skip
        with (run / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if not row["eval_return_mean"]]  # the last one timed more
    first = next(row for row in rows if int(row["step"]) >= WARM_UP)
    last = rows[-1]
    speed = (int(last["step"]) - int(first["step"])) / (float(last["seconds"]) - float(first["seconds"]))
    start_up = float(first["seconds"]) - int(first["step"]) / speed
    return Result(speed, float(last["return_mean"]), max(start_up, 0.0))


def make_dqn() -> DQN:
    """Our DQN with Stable-Baselines3's loss and the benchmark's settings."""
    return DQN(
        loss=TDLoss(SmoothL1Loss()), hidden_sizes=DQN_NET, learning_rate=1e-3, batch_size=128, replay_ratio=0.1,
        replay_capacity=50_000, learning_starts=1_000, target_update_every=50, epsilon_steps=10_000,
    )  # fmt: skip


def make_a2c() -> A2C:
    """Our A2C with Stable-Baselines3's defaults."""
    return A2C(critic_loss=MSELoss(), hidden_sizes=A2C_NET, optimizer_args={"eps": 1e-5})


def run_sb3(model: Any, steps: int) -> Result:
    """Train Stable-Baselines3's model, with the clock of :func:`run_ours`."""
    from stable_baselines3.common.callbacks import BaseCallback

    class Clock(BaseCallback):  # type: ignore[misc, unused-ignore]  # untyped where the peer is not installed
        """Notes when the warm-up is over."""

        started: tuple[float, int] | None = None

        def _on_step(self) -> bool:
            if self.started is None and self.num_timesteps >= WARM_UP:
                self.started = (time.perf_counter(), self.num_timesteps)
            return True

    clock = Clock()
    model.learn(steps, callback=clock)
    assert clock.started is not None
    seconds = time.perf_counter() - clock.started[0]
    returns = [episode["r"] for episode in model.ep_info_buffer]
    return Result((model.num_timesteps - clock.started[1]) / seconds, float(np.mean(returns)), 0.0)


def dqn_sb3(num_envs: int, steps: int, seed: int) -> Result:
    """Stable-Baselines3's DQN: one update for every ten environment steps."""
    from stable_baselines3 import DQN as Peer
    from stable_baselines3.common.env_util import make_vec_env

    model = Peer(
        "MlpPolicy", make_vec_env(ENV, num_envs, seed=seed), learning_rate=1e-3, batch_size=128, train_freq=10,
        gradient_steps=num_envs, buffer_size=50_000, learning_starts=1_000, target_update_interval=500,
        exploration_fraction=10_000 / steps, policy_kwargs={"net_arch": DQN_NET}, seed=seed, device="cpu",
    )  # fmt: skip
    return run_sb3(model, steps)


def a2c_sb3(num_envs: int, steps: int, seed: int) -> Result:
    """Stable-Baselines3's A2C with its defaults: 64-64 networks of tanh, RMSprop, 5 steps per update."""
    from stable_baselines3 import A2C as Peer
    from stable_baselines3.common.env_util import make_vec_env

    env = make_vec_env(ENV, num_envs, seed=seed)
    model = Peer("MlpPolicy", env, use_rms_prop=False, seed=seed, device="cpu", policy_kwargs=_torch_rmsprop())
    return run_sb3(model, steps)


def _torch_rmsprop() -> dict[str, object]:
    return {"optimizer_class": torch.optim.RMSprop, "optimizer_kwargs": {"alpha": 0.99, "eps": 1e-5, "weight_decay": 0}}


class Case(NamedTuple):
    """A line of the table."""

    name: str
    ours: Callable[[], Agent]
    peer: Callable[[int, int, int], Result]
    num_envs: int
    steps: int


CASES = [
    Case("DQN", make_dqn, dqn_sb3, 1, 30_000),
    Case("DQN", make_dqn, dqn_sb3, 8, 50_000),
    Case("A2C", make_a2c, a2c_sb3, 8, 100_000),
]


def median(results: list[Result]) -> Result:
    """Median of each figure."""
    return Result(*(statistics.median(column) for column in zip(*results, strict=True)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["DQN", "A2C"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{ENV}, torch {torch.__version__}, 1 thread, median of {options.repeats}, environment steps per second")
    print(
        "| agent | environments | SB3 | ours, eager | ratio | ours, compiled | ratio | start-up | return: SB3, ours |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        if options.only not in (None, case.name):
            continue
        runs: list[tuple[Result, Result, Result]] = []
        for seed in range(options.repeats):
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                peer = case.peer(case.num_envs, case.steps, seed)
                eager, compiled = (run_ours(case.ours(), case.num_envs, case.steps, seed, on) for on in (False, True))
            runs.append((peer, eager, compiled))
        peer, eager, compiled = (median(list(column)) for column in zip(*runs, strict=True))
        ratios = [statistics.median(run[side].speed / run[0].speed for run in runs) for side in (1, 2)]
        print(
            f"| {case.name} | {case.num_envs} | {peer.speed:,.0f} | {eager.speed:,.0f} | {ratios[0]:.1f}x "
            f"| {compiled.speed:,.0f} | {ratios[1]:.1f}x | {compiled.start_up:.1f} s "
            f"| {peer.mean_return:.0f}, {compiled.mean_return:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
