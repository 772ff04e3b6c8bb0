"""What the tests of runs share: environments that fail on demand, small agents, and how runs are compared."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import EzPickle
from torch import Tensor

from agents import A2C, DQN
from agents.run.tracking import WALL_CLOCK
from rlloss import ClippedSurrogateLoss, MSELoss

SEED = 0
FAULTY_INDEX = 1


class ProbeEnv(gymnasium.Env[np.ndarray, Any]):
    """Episodes of seven steps. Environment 1 fails in its step ``fault_at``: it raises, or returns NaN."""

    def __init__(self, fault: str = "", fault_at: int = 0) -> None:
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(2)
        self.fault, self.fault_at = fault, fault_at
        self.index = -1
        self.total = 0
        self.time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.index = seed - SEED
        self.time = 0
        return self._observe(), {}

    def _observe(self) -> np.ndarray:
        return np.array([self.time / 7.0, self.np_random.uniform(-1.0, 1.0)], dtype=np.float32)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.time += 1
        self.total += 1
        observation, reward = self._observe(), float(action)
        if self.index == FAULTY_INDEX and self.total == self.fault_at:
            if self.fault == "raise":
                raise RuntimeError("the motor\nis hot")
            if self.fault == "reward":
                reward = float("nan")
            if self.fault == "observation":
                observation[0] = np.nan
        return observation, reward, self.time == 7, False, {}


class ForgetfulEnv(ProbeEnv, EzPickle):
    """Pickling keeps the constructor's arguments alone, as for Box2D."""

    def __init__(self) -> None:
        ProbeEnv.__init__(self)
        EzPickle.__init__(self)


gymnasium.register("Probe-v0", f"{__name__}:ProbeEnv")
gymnasium.register("Forgetful-v0", f"{__name__}:ForgetfulEnv")


def dqn(**changes: Any) -> DQN:
    arguments: dict[str, Any] = {
        "hidden_sizes": [16],
        "batch_size": 16,
        "learning_starts": 60,
        "replay_capacity": 240,
        "replay_ratio": 0.25,
        "n_step": 3,
        "target_update_every": 7,
        "epsilon_steps": 400,
    }
    return DQN(**arguments | changes)


def a2c(**changes: Any) -> A2C:
    arguments: dict[str, Any] = {"hidden_sizes": [16], "rollout_length": 7}
    return A2C(**arguments | changes)


def ppo(**changes: Any) -> A2C:
    arguments: dict[str, Any] = {
        "policy_loss": ClippedSurrogateLoss(),
        "critic_loss": MSELoss(),
        "hidden_sizes": [16],
        "rollout_length": 16,
        "epochs": 2,
        "minibatches": 3,
        "normalize_advantages": True,
        "entropy_coefficient": 0.01,
        "gae_lambda": 0.95,
        "optimizer": "Adam",
    }
    return A2C(**arguments | changes)


def overlapped(**changes: Any) -> A2C:
    return ppo(overlap=True, normalize_observations=True, normalize_rewards=True, normalize_advantages=False, **changes)


class RunningLoss(MSELoss):
    """Divides by a running mean of what it gave, in a buffer that is replaced or written to."""

    scale: Tensor

    def __init__(self, *, in_place: bool = False) -> None:
        super().__init__()
        self.in_place = in_place
        self.register_buffer("scale", torch.ones(()))

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        loss = super().forward(input, target, weight=weight, mask=mask)
        scale = 0.9 * self.scale + 0.1 * loss.detach()
        self.scale = self.scale.copy_(scale) if self.in_place else scale
        return loss / scale


AGENTS = {"dqn": dqn, "a2c": a2c, "ppo": ppo, "overlapped": overlapped}


def rows(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv as text, without the columns that no seed can repeat."""
    with (run / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert all(row[name] for row in table for name in WALL_CLOCK)
    return [{key: value for key, value in row.items() if key not in WALL_CLOCK} for row in table]


def model_bytes(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()
