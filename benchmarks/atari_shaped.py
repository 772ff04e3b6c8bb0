"""What replay and gradient steps cost at Atari's size: frames of 84 x 84 x 4 bytes, the Nature CNN, batches of 32.

    python benchmarks/atari_shaped.py                            # ours and Stable-Baselines3's, three repeats
    python benchmarks/atari_shaped.py --capacity 500 --seconds 1 --repeats 1

No game is played: the frames are random, and no ALE is needed. All take turns, with one thread; figures are medians of
the repeats, ratios those of the same repeat. A gradient step draws its batch, as in training; "drawn" are the
transitions a second that the replay alone gives. A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from importlib.util import find_spec
from statistics import median
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is imported

import gymnasium
import numpy as np
import torch
from timing import seconds_of

from agents import DQN
from agents.parts.spaces import Box, Discrete, EnvSpec
from agents.parts.transition import pack
from rlloss import SmoothL1Loss, TDLoss

SHAPE = (84, 84, 4)
ACTIONS = 4
NUM_ENVS = 8
BATCH_SIZE = 32
LEARNING_RATE = 1e-4


class Contender(NamedTuple):
    """What is timed: a gradient step, and drawing a batch."""

    update: Callable[[], object]
    draw: Callable[[], object]


def random_frames() -> np.ndarray:
    """Of a step of all environments."""
    return np.random.default_rng(0).integers(256, size=(NUM_ENVS, *SHAPE), dtype=np.uint8)


def make_ours(capacity: int, compiled: bool) -> Contender:
    """Our DQN with a full replay."""
    agent = DQN(
        loss=TDLoss(SmoothL1Loss()), learning_rate=LEARNING_RATE, batch_size=BATCH_SIZE, replay_capacity=capacity,
        learning_starts=0, replay_ratio=1 / capacity,
    )  # fmt: skip
    agent.build(EnvSpec(Box(SHAPE, torch.uint8), Discrete(ACTIONS), num_envs=NUM_ENVS), compiled=compiled)
    frames = random_frames()
    steps = pack(
        agent.layout, observation=frames, action=np.zeros(NUM_ENVS, np.int64), reward=np.ones(NUM_ENVS),
        next_observation=frames, terminated=np.zeros(NUM_ENVS, bool), truncated=np.zeros(NUM_ENVS, bool),
    )  # fmt: skip
    for _ in range(-(-capacity // NUM_ENVS)):
        agent.observe(steps)
    replay = agent.replay
    assert replay is not None

    def update() -> None:
        agent.steps += capacity  # which a gradient step is due for
        agent.update()

    return Contender(update, lambda: replay.gather(replay.draw(BATCH_SIZE, 1, agent.generator), 0.99))


class FakeGame(gymnasium.Env[np.ndarray, Any]):
    """An environment that nobody plays."""

    observation_space = gymnasium.spaces.Box(0, 255, SHAPE, np.uint8)
    action_space = gymnasium.spaces.Discrete(ACTIONS)


def make_sb3(capacity: int) -> Contender:
    """Stable-Baselines3's DQN with a full replay."""
    from stable_baselines3 import DQN as Peer
    from stable_baselines3.common.logger import configure
    from stable_baselines3.common.vec_env import DummyVecEnv

    model = Peer(
        "CnnPolicy", DummyVecEnv([FakeGame] * NUM_ENVS), learning_rate=LEARNING_RATE, batch_size=BATCH_SIZE,
        buffer_size=capacity, seed=0, device="cpu",
    )  # fmt: skip
    model.set_logger(configure(None, []))
    replay: Any = model.replay_buffer
    frames, nothing = random_frames().transpose(0, 3, 1, 2), np.zeros(NUM_ENVS)
    infos: list[dict[str, Any]] = [{}] * NUM_ENVS
    for _ in range(-(-capacity // NUM_ENVS)):
        replay.add(frames, frames, nothing, nothing, nothing, infos)
    return Contender(lambda: model.train(1, BATCH_SIZE), lambda: replay.sample(BATCH_SIZE))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--capacity", type=int, default=10_000, help="transitions in each replay, of 56 KB")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long a figure is timed")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    contenders = {
        "rlloss, eager": make_ours(options.capacity, compiled=False),
        "rlloss, compiled": make_ours(options.capacity, compiled=True),
    }
    if find_spec("stable_baselines3") is None:
        print("SB3 is left out: stable_baselines3 not installed")
    else:
        contenders["SB3"] = make_sb3(options.capacity)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(options.repeats):
        for name, it in contenders.items():
            times[name].append((seconds_of(it.update, options.seconds), seconds_of(it.draw, options.seconds)))
    peer = times[list(times)[-1]]
    print(f"torch {torch.__version__}, 1 thread, median of {options.repeats}, against {list(times)[-1]}\n")
    print("| who | gradient step | as fast | drawn | as fast |")
    print("|---|---:|---:|---:|---:|")
    for name, runs in times.items():
        update, draw = (median(run[k] for run in runs) for k in (0, 1))
        ratios = [median(b[k] / a[k] for a, b in zip(runs, peer, strict=True)) for k in (0, 1)]
        print(
            f"| {name} | {update * 1e3:.1f} ms | {ratios[0]:.2f}x | {BATCH_SIZE / draw:,.0f}/s | {ratios[1]:.2f}x |",
            flush=True,
        )


if __name__ == "__main__":
    main()
