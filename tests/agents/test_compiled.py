"""Gradient steps of both agents through torch's own compiler, which other tests leave out for the time it takes."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable

import pytest
import torch
from torch.testing import assert_close

from agents import A2C, DQN, Agent
from rlloss import HLGaussLoss, HuberLoss, TDLoss
from tests.agents.parts.test_device_rounds import make_envs, play_plain

AGENTS: dict[str, Callable[[], Agent]] = {
    "DQN": lambda: DQN(
        batch_size=16, hidden_sizes=[16], learning_starts=40, replay_ratio=0.25, n_step=2, priority_exponent=0.6,
        loss=TDLoss(HuberLoss(), double=True),
    ),
    "A2C": lambda: A2C(hidden_sizes=[16], critic_loss=HLGaussLoss(low=0.0, high=50.0, num_bins=11), optimizer="Adam"),
}  # fmt: skip


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", AGENTS)
def test_compiled_for_real(name: str) -> None:
    plain_envs, envs = make_envs("CartPole-v1"), make_envs("CartPole-v1")
    plain, agent = AGENTS[name]().build(plain_envs.spec), AGENTS[name]().build(envs.spec, compiled=True)
    metrics, finished = play_plain(plain, plain_envs, 300)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # that it goes on without
        own_metrics, own_finished = play_plain(agent, envs, 300)
    assert len(metrics) >= 15 and own_finished == finished
    assert_close(torch.stack(own_metrics), torch.stack(metrics), rtol=2e-3, atol=2e-4)
    for p, q in zip(agent.model.parameters(), plain.model.parameters(), strict=True):
        assert_close(p, q, rtol=2e-3, atol=2e-4)
