"""Evaluation: play whole episodes with a trained agent, and say how sure the mean is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.stats
import torch

from agents.agent import Agent
from agents.parts.envs import Envs, make_vec, record_video, spec_of
from agents.run.checkpoint import load_model
from agents.run.configuration import load_config, make_agent

MAX_ENVS = 100


@dataclass(frozen=True)
class Evaluation:
    """Returns of whole episodes.

    Attributes:
        episodes: How many.
        mean: Mean return.
        std: Standard deviation of the returns (n - 1 in the denominator); 0 for one episode.
        ci_low: Lower end of the 95% confidence interval of the mean (Student's t); NaN for one episode.
        ci_high: Upper end.
        length_mean: Mean number of steps.
        returns: The return of each episode.
    """

    episodes: int
    mean: float
    std: float
    ci_low: float
    ci_high: float
    length_mean: float
    returns: tuple[float, ...]

    def __str__(self) -> str:
        interval = f"95% CI [{self.ci_low:.2f}, {self.ci_high:.2f}]"
        return (
            f"return {self.mean:.2f} ± {self.std:.2f} (standard deviation), {interval}, "
            f"{self.episodes} episodes, mean length {self.length_mean:.1f}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; an interval that one episode cannot give is null."""
        data = asdict(self)
        return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in data.items()}


def summarize(returns: Sequence[float], lengths: Sequence[int]) -> Evaluation:
    """Mean, spread and confidence interval of episode returns."""
    n = len(returns)
    mean = float(np.mean(returns))
    std = float(np.std(returns, ddof=1)) if n > 1 else 0.0
    half = float(scipy.stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n) if n > 1 else math.nan
    return Evaluation(n, mean, std, mean - half, mean + half, float(np.mean(lengths)), tuple(returns))


def play(agent: Agent, envs: Envs, episodes: int, *, seed: int, greedy: bool = True) -> Evaluation:
    """Play ``episodes`` episodes; every environment plays its share, so that short episodes are not favoured."""
    quota = np.full(envs.spec.num_envs, episodes // envs.spec.num_envs)
    quota[: episodes % envs.spec.num_envs] += 1
    returns: list[float] = []
    lengths: list[int] = []
    envs.reset(seed)
    while quota.any():
        envs.step(agent.act(envs.observation, explore=not greedy))
        for index, episode_return, length in envs.finished:
            if quota[index]:
                quota[index] -= 1
                returns.append(episode_return)
                lengths.append(length)
    return summarize(returns, lengths)


def evaluate(
    run: Path | str,
    *,
    episodes: int = 100,
    seed: int = 10_000,
    greedy: bool = True,
    model: Literal["last", "best"] = "last",
    device: str = "cpu",
    video: bool = False,
) -> Evaluation:
    """Evaluate the model of a run directory. Nothing in it is unpickled.

    Args:
        run: The run directory.
        episodes: Whole episodes to play, >= 1.
        seed: Seed of the environments.
        greedy: Take the most likely action; otherwise act as in training.
        model: The last model, or the one that did best in the evaluations while training (eval_every).
        device: Where the networks live.
        video: Also record one episode, as an mp4 file in the run directory's ``videos``.

    Returns:
        What the episodes returned.

    Raises:
        ValueError: Not a run directory, or ``episodes`` < 1.
    """
    if episodes < 1:
        raise ValueError(f"evaluate: episodes must be >= 1, got {episodes}")
    run = Path(run)
    config = load_config(run / "config.yaml")
    agent = make_agent(config["agent"])
    env = make_vec(
        config["env"],
        min(episodes, MAX_ENVS),
        vectorization=config["vectorization"],
        env_kwargs=config["env_kwargs"],
    )
    envs = Envs(env, device)
    try:
        # Built for the run's own number of environments; acting works for any.
        agent.build(replace(spec_of(env), num_envs=config["num_envs"]), device=device, seed=seed)
        load_model(run / ("best.safetensors" if model == "best" else "model.safetensors"), agent.model)
        result = play(agent, envs, episodes, seed=seed, greedy=greedy)
    finally:
        envs.close()
    if video:
        with record_video(config["env"], run / "videos", env_kwargs=config["env_kwargs"]) as recorded:
            play(agent, Envs(recorded, torch.device(device)), 1, seed=seed, greedy=greedy)
    return result
