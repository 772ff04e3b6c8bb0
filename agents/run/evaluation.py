"""Evaluation: play whole episodes with a trained agent, and say how sure the mean is."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import scipy.stats
import torch
from torch import Tensor

from agents.agent import Agent
from agents.parts.envs import Envs, make_vec, record_video
from agents.run.checkpoint import load_model
from agents.run.configuration import load_config, make_agent
from rlloss.core.checks import check_choice, check_integer

MAX_ENVS = 100
# Longer than the episodes of any usual environment (Atari's end after 27,000): one that never ends is cut here.
MAX_EPISODE_STEPS = 50_000

Device: TypeAlias = Literal["auto", "cpu", "cuda"]


def choose_device(function: str, name: str) -> Literal["cpu", "cuda"]:
    """Resolve "auto", and refuse a GPU that is not there."""
    check_choice(function, "device", name, get_args(Device))
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"{function}: device is cuda, but torch finds no GPU")
    return "cuda" if name != "cpu" and torch.cuda.is_available() else "cpu"


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
        length = f"mean length {self.length_mean:.1f}"
        if self.episodes == 1:
            return f"return {self.mean:.2f}, 1 episode, {length}"
        interval = f"95% CI [{self.ci_low:.2f}, {self.ci_high:.2f}]"
        return (
            f"return {self.mean:.2f} ± {self.std:.2f} (standard deviation), {interval}, "
            f"{self.episodes} episodes, {length}"
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


def choose(agent: Agent, envs: Envs, *, explore: bool) -> Tensor:
    """The agent's actions for the next step, among the possible ones where the environments say which they are."""
    if envs.action_mask is None:
        return agent.act(envs.observation, explore=explore)
    return agent.act_among(envs.observation, envs.action_mask, explore=explore)


def play(
    agent: Agent,
    envs: Envs,
    episodes: int,
    *,
    seed: int,
    greedy: bool = True,
    before_step: Callable[[], None] | None = None,
) -> Evaluation:
    """Play ``episodes`` episodes; every environment plays its share, so that short episodes are not favoured.

    An episode that reaches ``MAX_EPISODE_STEPS`` counts with its return until there and is its environment's last.

    Args:
        agent: Who acts.
        envs: Where; restarted with ``seed``.
        episodes: How many episodes, >= 1.
        seed: Seed of the environments.
        greedy: Take the most likely action; otherwise act as in training.
        before_step: Called before every step; what it raises ends the evaluation.

    Returns:
        What the episodes returned.
    """
    quota = np.full(envs.spec.num_envs, episodes // envs.spec.num_envs)
    quota[: episodes % envs.spec.num_envs] += 1
    returns: list[float] = []
    lengths: list[int] = []
    envs.reset(seed)
    while quota.any():
        if before_step is not None:
            before_step()
        envs.step(choose(agent, envs, explore=not greedy))
        for index, episode_return, length in envs.finished:
            if quota[index]:
                quota[index] -= 1
                returns.append(episode_return)
                lengths.append(length)
        for index, episode_return, length in envs.running(MAX_EPISODE_STEPS):
            if quota[index]:
                warnings.warn(f"evaluation: an episode was cut after {length} steps", stacklevel=2)
                quota[index] = 0
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
    device: Device = "cpu",
    video: bool = False,
) -> Evaluation:
    """Evaluate the model of a run directory. Nothing in it is unpickled.

    Args:
        run: The run directory.
        episodes: Whole episodes to play, >= 1.
        seed: Seed of the environments, in [0, 2^32).
        greedy: Take the most likely action; otherwise act as at the end of training.
        model: The last model, or the one that did best in the evaluations while training (eval_every).
        device: Where the networks live.
        video: First record one episode, as an mp4 file in the run directory's ``videos``.

    Returns:
        What the episodes returned.

    Raises:
        ValueError: Not a run directory, or an argument out of range.
        EnvironmentFault: An environment raised, or returned a number that is not finite.
    """
    check_integer("evaluate", "episodes", episodes, low=1)
    check_integer("evaluate", "seed", seed, high=2**32 - 1)
    check_choice("evaluate", "model", model, ("last", "best"))
    device = choose_device("evaluate", device)
    run = Path(run)
    config = load_config(run / "config.yaml")
    agent = make_agent(config["agent"])
    env = make_vec(
        config["env"],
        min(episodes, MAX_ENVS),
        vectorization=config["vectorization"],
        env_kwargs=config["env_kwargs"],
    )
    envs = Envs(env, device, squash=agent.squash)
    try:
        # Built for the run's own number of environments; acting works for any.
        agent.build(replace(envs.spec, num_envs=config["num_envs"]), device=device, seed=seed)
        agent.steps = config["steps"]  # what exploration is left then
        load_model(run / ("best.safetensors" if model == "best" else "model.safetensors"), agent.model)
        if video:
            with record_video(config["env"], run / "videos", env_kwargs=config["env_kwargs"]) as recorded:
                play(agent, Envs(recorded, device, squash=agent.squash), 1, seed=seed, greedy=greedy)
        return play(agent, envs, episodes, seed=seed, greedy=greedy)
    finally:
        envs.close()
