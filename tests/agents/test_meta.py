"""The device "meta" holds shapes and no values: what runs there reads no value back and copies nothing to the host."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from agents import A2C, DQN
from agents.parts.optimization import Learner
from agents.parts.replay import PrioritizedReplay, Replay
from agents.parts.rollout import Rollout
from agents.parts.spaces import Box, Discrete, EnvSpec, MultiDiscrete, Space
from agents.parts.transition import Transitions
from rlloss import (
    AllActionPolicyGradientLoss,
    ClippedSurrogateLoss,
    FocalLoss,
    HuberLoss,
    PolicyGradientLoss,
    RegretPolicyGradientLoss,
    TDLoss,
)

META = torch.device("meta")
OBSERVATIONS: list[Space] = [Box((3,), torch.float32), Discrete(5), Box((4, 36, 36), torch.uint8)]


def learn(agent: DQN | A2C, module: nn.Module, compute_loss: Any, *batch: Any) -> Tensor:
    learner = Learner(
        "Test", module, compute_loss, optimizer="SGD", learning_rate=0.1, optimizer_args={"fused": False},
        max_grad_norm=1.0, compiled=False,
    )  # fmt: skip
    row = learner.step(*batch)
    assert row.shape == (len(agent.metric_names),)
    assert row.is_meta
    return row


@pytest.mark.parametrize("observation", OBSERVATIONS, ids=["vector", "discrete", "image"])
@pytest.mark.parametrize("reset_steps", [False, True])
@pytest.mark.parametrize(
    "agent",
    [
        DQN(batch_size=8),
        DQN(batch_size=8, n_step=3, dueling=True, loss=TDLoss(HuberLoss(), double=True)),
        DQN(batch_size=8, n_step=3, noisy=True, priority_exponent=0.5, loss=TDLoss(HuberLoss(), double=True)),
    ],
    ids=["plain", "n-step double dueling", "prioritized noisy"],
)
def test_dqn(agent: DQN, observation: Space, reset_steps: bool) -> None:
    spec = EnvSpec(observation, Discrete(2), num_envs=2, has_reset_steps=reset_steps)
    agent.build(spec)
    agent.network.to(META)
    agent.target_network.to(META)
    agent.exponent = agent.exponent.to(META)
    agent.replay = (
        PrioritizedReplay(agent.layout, 20, 2, META, n_step=3, exponent=0.5)
        if agent.priority_exponent
        else Replay(agent.layout, 20, 2, META)
    )
    packed = torch.zeros(2, agent.layout.row_bytes, dtype=torch.uint8, device=META)
    for _ in range(4):
        agent.replay.write(Transitions(packed, agent.layout, 2))
    agent.replay.cut()
    index = torch.zeros(agent.n_step, 8, dtype=torch.int64, device=META)
    if isinstance(agent.replay, PrioritizedReplay):
        noise = torch.zeros(3, agent.network.noise_size, device=META)
        uniform = torch.zeros(8, dtype=torch.float64, device=META)
        learn(agent, agent.network, agent._loss_by_priority, uniform, agent.exponent, noise)
    else:
        learn(agent, agent.network, agent._loss_at, index)
    agent._update_target(agent.target_parameters)


@pytest.mark.parametrize("observation", OBSERVATIONS, ids=["vector", "discrete", "image"])
@pytest.mark.parametrize("reset_steps", [False, True])
@pytest.mark.parametrize(
    "action",
    [Discrete(2), Box((2,), torch.float32, (-1.0,) * 2, (1.0,) * 2), MultiDiscrete((2, 3))],
    ids=["d", "box", "multi"],
)
@pytest.mark.parametrize(
    "agent",
    [
        A2C(normalize_advantages=True),
        A2C(policy_loss=ClippedSurrogateLoss(), critic_loss=HuberLoss()),
        A2C(shared_trunk=True),
        A2C(squash=True),
        A2C(policy_loss=PolicyGradientLoss(FocalLoss()), entropy_coefficient=0.1),
    ],
    ids=["plain", "clipped", "shared", "squash", "focal"],
)
def test_a2c(agent: A2C, observation: Space, action: Space, reset_steps: bool) -> None:
    if isinstance(action, Box):
        action = replace(action, squashed=agent.squash)
    elif agent.squash:
        return  # there are no bounds
    if isinstance(getattr(agent.policy_loss, "criterion", None), FocalLoss) and isinstance(action, Box):
        return  # refused: a density is no probability
    agent.build(EnvSpec(observation, action, num_envs=2, has_reset_steps=reset_steps))
    agent.network.to(META)
    agent.rollout = Rollout(agent.layout, agent.rollout_length, 2, META)
    packed = torch.zeros(2, agent.layout.row_bytes, dtype=torch.uint8, device=META)
    for _ in range(agent.rollout_length):
        agent.observe(Transitions(packed, agent.layout, 2))
    assert agent.rollout.full
    agent.cut()
    rows = agent.rollout.read()
    learn(agent, agent.network, agent._loss_of_rollout, rows)
    learn(agent, agent.network, agent._loss_and_mask, *agent._prepare(rows))


@pytest.mark.parametrize("reset_steps", [False, True])
def test_a2c_that_normalizes(reset_steps: bool) -> None:
    agent = A2C(normalize_observations=True, normalize_rewards=True)
    agent.build(EnvSpec(OBSERVATIONS[0], Discrete(2), num_envs=2, has_reset_steps=reset_steps))
    assert agent.reward_normalizer is not None
    agent.network.to(META)
    agent.reward_normalizer.to(META)
    rows = torch.zeros(agent.rollout_length, 2, agent.layout.row_bytes, dtype=torch.uint8, device=META)
    agent._see_rewards(rows)
    learn(agent, agent.network, agent._loss_of_rollout, rows)
    agent._see_observations(rows)


@pytest.mark.parametrize(
    ("policy_loss", "masks"),
    [(ClippedSurrogateLoss(), True), (AllActionPolicyGradientLoss(), False), (RegretPolicyGradientLoss(), False)],
    ids=["masks", "all actions", "regret"],
)
def test_a2c_with_discrete_actions(policy_loss: Any, masks: bool) -> None:
    agent = A2C(policy_loss=policy_loss)
    agent.build(EnvSpec(OBSERVATIONS[0], Discrete(3), num_envs=2, has_action_mask=masks))
    agent.network.to(META)
    rows = torch.zeros(agent.rollout_length, 2, agent.layout.row_bytes, dtype=torch.uint8, device=META)
    learn(agent, agent.network, agent._loss_of_rollout, rows)


def test_a_value_read_would_fail_here() -> None:
    for read in (lambda t: t.sum().item(), lambda t: bool(t[0] > 0), lambda t: t[t > 0], lambda t: t.cpu()):
        with pytest.raises((NotImplementedError, RuntimeError)):
            read(torch.zeros(3, device=META))
