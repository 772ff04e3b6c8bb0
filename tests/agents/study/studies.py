"""A made-up study: seven variants, three environments, ten seeds, and what goes wrong in real ones."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from agents.study.results import CurvePoint, Results, Run, write_results
from agents.study.variants import Environment, Study, Variant

ENVIRONMENTS: dict[str, dict[str, float]] = {
    "CartPole-v1": {"low": 22.0, "high": 500.0, "threshold": 475.0},
    "Acrobot-v1": {"low": -500.0, "high": -75.0, "threshold": -100.0},
    "MinAtar/Breakout-v1": {"low": 0.5, "high": 20.0, "threshold": 10.0},
}
STEPS = {"CartPole-v1": 50_000, "Acrobot-v1": 100_000, "MinAtar/Breakout-v1": 500_000}
AWKWARD = 'Huber <b>"0.1"</b> & $x$'
NEVER = "LogCosh"  # never reaches a threshold
FEWER = "Quantile"  # has fewer seeds, and a failed run
VARIANTS: dict[str, dict[str, Any]] = {
    "Huber": {},
    "MSE": {"agent.loss.criterion": "MSELoss"},
    AWKWARD: {"agent.loss.criterion.delta": 0.1, "agent.learning_rate": 0.001},
    NEVER: {"agent.loss.criterion": "LogCoshLoss"},
    FEWER: {"agent.loss.criterion": "QuantileLoss", "agent.loss.criterion.quantile": 0.7},
    "Asymmetric Huber, continuous": {
        "agent.loss.criterion": {"class_path": "AsymmetricHuberLoss", "init_args": {"alpha": 2.0}}
    },
    "Smooth L1": {"agent.loss.criterion": "SmoothL1Loss"},
}  # fmt: skip
# How much of the scale each variant learns, and how fast; the base's is the first.
LEVELS = [0.85, 0.98, 0.84, 0.45, 0.6, 0.86, 0.8]
SPEEDS = [6.0, 9.0, 6.0, 3.0, 4.0, 5.0, 6.0]
ERROR = 'DivergedError: loss is nan at step 12000; <script>alert("x")</script>'
FAILED = ("Acrobot-v1", FEWER, 9, ERROR)
SEEDS = 10
BASE_AGENT = {
    "class_path": "agents.dqn.DQN",
    "init_args": {
        "learning_rate": 0.0003,
        "loss": {
            "class_path": "rlloss.rl.value.TDLoss",
            "init_args": {
                "double": True,
                "criterion": {"class_path": "rlloss.supervised.regression.HuberLoss", "init_args": {"delta": 1.0}},
            },
        },
    },
}


def write_study(directory: Path, *, variants: Sequence[str] = tuple(VARIANTS), seeds: int = SEEDS) -> Path:
    """Write the files that a report is made of; the same ones every time."""
    generator = np.random.default_rng(0)
    runs: list[Run] = []
    study = Study(
        "td_criteria <made up>",
        list(range(seeds)),
        [Environment(name, **scale) for name, scale in ENVIRONMENTS.items()],
        [Variant(name, VARIANTS[name], {}) for name in variants],
        {name: {variant: _configuration(name, VARIANTS[variant]) for variant in variants} for name in ENVIRONMENTS},
    )
    for environment, scale in ENVIRONMENTS.items():
        for variant, level, speed in zip(VARIANTS, LEVELS, SPEEDS, strict=True):
            for seed in range(SEEDS):
                points = _curve(generator, environment, level, speed)
                if variant not in variants or seed >= seeds or (variant == FEWER and seed >= 9 - (seed % 2)):
                    continue
                if (environment, variant, seed) == FAILED[:3]:
                    continue
                if variant == NEVER:
                    points = [(step, min(value, scale["threshold"] - 1)) for step, value in points]
                rate = 3000 * generator.uniform(0.8, 1.2)
                curve = [CurvePoint(step, value, round(step / rate, 2)) for step, value in points]
                runs.append(Run(environment, variant, seed, study.digest(environment, variant), curve))
    failures = [FAILED] if FEWER in variants and seeds == SEEDS else []
    versions = {"python": "3.11.7", "torch": "2.13.0", "rlloss": "0.1.0", "platform": "Linux x86_64"}
    write_results(directory, Results(study, runs, failures, versions))
    return directory


def _configuration(environment: str, overrides: dict[str, Any]) -> dict[str, Any]:
    """The base's with a variant's overrides, as the command line would make it of them."""
    config = {"agent": deepcopy(BASE_AGENT), "env": environment, "num_envs": 8, "steps": STEPS[environment]}
    for name, value in overrides.items():
        *path, last = name.split(".")
        place: dict[str, Any] = config
        for part in path:
            place = place[part]["init_args"]
        given = {"class_path": f"rlloss.supervised.regression.{value}", "init_args": {}}
        place[last] = given if last == "criterion" and isinstance(value, str) else value
    return config


def _curve(generator: np.random.Generator, environment: str, level: float, speed: float) -> list[tuple[int, float]]:
    """Twenty evaluations that rise towards a level, with luck that a run keeps and noise that it does not."""
    scale, steps = ENVIRONMENTS[environment], STEPS[environment]
    luck = generator.normal(0.0, 0.08)
    points = []
    for step in range(steps // 20, steps + 1, steps // 20):
        share = (level + luck) * (1 - np.exp(-speed * step / steps)) + generator.normal(0.0, 0.03)
        value = scale["low"] + min(max(share, 0.0), 1.1) * (scale["high"] - scale["low"])
        points.append((step, round(min(value, scale["high"]), 2)))
    return points
