from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor
from torch.distributions import Categorical, Normal

import rlloss
import rlloss.functional as F
from agents import evaluate, resume, train
from agents.a2c import A2C, PolicyBatch
from agents.parts.envs import Envs, make_vec
from agents.parts.overlap import Overlap
from agents.parts.spaces import Box, Discrete, EnvSpec, MultiDiscrete
from agents.parts.transition import Transitions, pack
from agents.run.evaluation import choose, play
from rlloss.rl.policy import ClippedSurrogateLoss, PolicyGradientLoss, PolicyLoss
from rlloss.supervised.classification import FocalLoss, PolyLoss
from rlloss.supervised.regression import HuberLoss
from tests.agents.environments import MODES, ChainEnv, CountingEnv, counting, make_vector
from tests.agents.parts.test_optimization import graphs_of
from tests.agents.test_dqn import assert_same, pickled
from tests.conftest import assert_close, mostly_slow

BOX = spaces.Box(-1.0, 1.0, (2,))
MULTI = spaces.MultiDiscrete([2, 4, 3], start=[1, 0, -1])
ACTION_SPACES = pytest.mark.parametrize("action_space", [None, BOX, MULTI], ids=["discrete", "box", "multi"])
PPO: dict[str, Any] = {"policy_loss": ClippedSurrogateLoss(), "epochs": 2, "minibatches": 3, "optimizer": "Adam"}
NORMALIZE: dict[str, Any] = {"normalize_observations": True, "normalize_rewards": True}
SCHEDULE: dict[str, Any] = {"learning_rate": 0.01, "learning_rate_end": 0.0, "learning_rate_steps": 60}
DISCRETE = EnvSpec(Box((3,), torch.float32), Discrete(4), num_envs=2)
SEVERAL = EnvSpec(Box((3,), torch.float32), MultiDiscrete((2, 4)), num_envs=2)
CONTINUOUS = EnvSpec(Box((3,), torch.float32), Box((2,), torch.float32, (-1.0,) * 2, (1.0,) * 2), num_envs=2)


def table(**changes: Any) -> A2C:
    """One value per state: networks without hidden layers on one-hot states."""
    arguments: dict[str, Any] = {
        "discount": 0.9, "gae_lambda": 0.9, "hidden_sizes": [], "optimizer": "SGD", "learning_rate": 0.5,
        "max_grad_norm": None,
    } | changes  # fmt: skip
    return A2C(**arguments)


def start(agent: A2C, vector: Any, seed: int = 0, *, compiled: bool = False) -> Envs:
    envs = Envs(vector, squash=agent.squash)
    envs.reset(seed=seed)
    agent.build(envs.spec, seed=seed, compiled=compiled)
    return envs


def run(agent: A2C, envs: Envs, steps: int) -> list[Tensor]:
    metrics = []
    while envs.steps < steps:
        agent.observe(envs.step(choose(agent, envs, explore=True)))
        metrics += agent.update()
    return metrics


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gae_lambda", [0.0, 0.9])
def test_a_time_limit_is_no_end(mode: AutoresetMode, gae_lambda: float) -> None:
    """Reward 1 for ever is worth 1 / (1 - gamma), however often a time limit cuts it."""
    envs = [partial(CountingEnv, (length,), view="parity") for length in (3, 1, 5)]
    agent = table(gae_lambda=gae_lambda)
    run(agent, start(agent, make_vector(envs, mode)), 3000)
    assert_close(agent.network.criticize(torch.arange(2)), torch.full((2,), 10.0), dtype=torch.float16)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("gae_lambda", [0.0, 1.0])
def test_a_terminal_state_is_an_end(mode: AutoresetMode, gae_lambda: float) -> None:
    agent = table(gae_lambda=gae_lambda)
    vector = make_vector([partial(CountingEnv, (2,), (True,), view="parity")] * 2, mode)
    run(agent, start(agent, vector), 1500)
    assert_close(agent.network.criticize(torch.arange(2)), torch.tensor([1.9, 1.0]), dtype=torch.float16)


@pytest.mark.parametrize(
    "options",
    [{}, PPO | {"rollout_length": 16}, PPO | {"rollout_length": 16, "shared_trunk": True, "hidden_sizes": [16]}],
    ids=["one pass", "ppo", "shared"],
)
def test_a_chain_is_solved(options: dict[str, Any]) -> None:
    agent = table(**options | {"learning_rate": 0.05 if options else 0.5})
    run(agent, start(agent, make_vector([partial(ChainEnv, 4)] * 4, AutoresetMode.SAME_STEP)), 3000)
    assert agent.act(torch.arange(3), explore=False).tolist() == [1, 1, 1]
    torch.testing.assert_close(
        agent.network.criticize(torch.arange(3)).detach(), torch.tensor([0.81, 0.9, 1.0]), rtol=0.0, atol=0.1
    )


ADVANTAGES = ["gae", "return", "upgo", "vtrace"]


@pytest.mark.parametrize("advantage", ADVANTAGES)
@pytest.mark.parametrize("epochs", mostly_slow([1, 3], keep=[1]))
def test_every_advantage_solves_a_chain(advantage: str, epochs: int) -> None:
    options: dict[str, Any] = {"rollout_length": 16, "epochs": epochs, "gae_lambda": 0.95, "entropy_coefficient": 0.01}
    if epochs > 1:
        options |= {"policy_loss": ClippedSurrogateLoss(), "minibatches": 2}
    agent = table(advantage=advantage, **options | {"learning_rate": 0.2})
    run(agent, start(agent, make_vector([partial(ChainEnv, 4)] * 4, AutoresetMode.SAME_STEP)), 4000)
    assert agent.act(torch.arange(3), explore=False).tolist() == [1, 1, 1]


POLICY_LOSSES = [
    rlloss.PolicyGradientLoss(),
    rlloss.PolicyGradientLoss(rlloss.FocalLoss(gamma=1.0)),
    rlloss.PolicyGradientLoss(rlloss.PolyLoss()),
    rlloss.ClippedSurrogateLoss(dual_clip=3.0, kl_coefficient=0.1),
    rlloss.AdvantageWeightedRegressionLoss(temperature=0.2),
    rlloss.AllActionPolicyGradientLoss(),
    rlloss.RegretPolicyGradientLoss(),
]


@pytest.mark.parametrize("policy_loss", POLICY_LOSSES, ids=lambda loss: " ".join(repr(loss).split()))
def test_every_policy_loss_solves_a_chain(policy_loss: rlloss.PolicyLoss | rlloss.AllActionPolicyLoss) -> None:
    agent = table(policy_loss=policy_loss, rollout_length=16, gae_lambda=0.95, learning_rate=0.2)
    run(agent, start(agent, make_vector([partial(ChainEnv, 4)] * 4, AutoresetMode.SAME_STEP)), 6000)
    assert agent.act(torch.arange(3), explore=False).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "critic_loss",
    [rlloss.HLGaussLoss(low=0.0, high=20.0, num_bins=41), rlloss.TwoHotLoss(low=0.0, high=20.0, num_bins=41)],
    ids=lambda loss: type(loss).__name__,
)
@pytest.mark.parametrize("shared_trunk", [False, True])
def test_a_critic_may_predict_a_distribution(critic_loss: rlloss.HistogramLoss, shared_trunk: bool) -> None:
    envs = [partial(CountingEnv, (length,), view="parity") for length in (3, 1, 5)]
    agent = table(critic_loss=critic_loss, shared_trunk=shared_trunk, optimizer="Adam", learning_rate=0.05)
    run(agent, start(agent, make_vector(envs, AutoresetMode.SAME_STEP)), 4000)
    assert agent.network.criticize(torch.arange(2)).shape == (2, 41)
    assert agent.critic_loss.value(agent.network.criticize(torch.arange(2))).tolist() == pytest.approx(
        [10, 10], abs=0.3
    )


ALL_ACTIONS: dict[str, Any] = {"policy_loss": rlloss.AllActionPolicyGradientLoss()}


@pytest.mark.parametrize("mode", mostly_slow(MODES, keep=[AutoresetMode.NEXT_STEP]))
@pytest.mark.parametrize(
    "options", [{}, pytest.param({"epochs": 2, "minibatches": 2}, marks=pytest.mark.slow)], ids=["one pass", "epochs"]
)
def test_a_critic_of_actions_knows_a_time_limit_from_an_end(mode: AutoresetMode, options: dict[str, Any]) -> None:
    for terminates, expected in ((False, [10.0, 10.0]), (True, [1.9, 1.0])):
        agent = table(**ALL_ACTIONS | options, entropy_coefficient=1.0)  # no action is to be forgotten
        length = 2 if terminates else 3
        envs = [partial(CountingEnv, (length,), (terminates,), view="parity")] * 3
        run(agent, start(agent, make_vector(envs, mode)), 6000)
        action_values = agent.network.criticize(torch.arange(2))
        assert_close(action_values, torch.tensor(expected).unsqueeze(-1).expand(2, 2), dtype=torch.float16)


def test_a_critic_of_actions_learns_from_retrace() -> None:
    """One value per state and action, by hand: the critic's targets, the policy's loss, the critic's loss."""
    agent = table(**ALL_ACTIONS, discount=0.5, gae_lambda=0.8, rollout_length=4, value_coefficient=0.25)
    agent.build(EnvSpec(Discrete(3), Discrete(2), num_envs=1))
    q = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.5, 5.0]])
    logits = torch.tensor([[0.0, 1.0], [0.5, 0.0], [-1.0, 0.0]])
    for head, weight in ((agent.network.critic.head, q), (agent.policy.head, logits)):
        head.weight.data.copy_(weight.T)
        head.bias.data.zero_()
    steps = [  # observation, action, reward, next_observation, terminated, truncated
        (0, 1, 1.0, 1, False, False),
        (1, 0, 2.0, 2, False, True),
        (0, 0, 3.0, 2, False, False),
        (2, 1, 4.0, 0, True, False),
    ]
    for s, a, r, next_s, terminated, truncated in steps:
        agent.observe(
            pack(
                agent.layout, observation=[s], action=[a], reward=[r], next_observation=[next_s],
                terminated=[terminated], truncated=[truncated], valid=[True],
            )
        )  # fmt: skip
    v = (logits.softmax(-1) * q).sum(-1)
    truncated_target = 2.0 + 0.5 * v[2]
    expected = torch.stack([
        1.0 + 0.5 * (v[1] + 0.8 * (truncated_target - q[1, 0])),
        truncated_target,
        3.0 + 0.5 * (v[2] + 0.8 * (4.0 - q[2, 1])),
        torch.tensor(4.0),
    ])  # fmt: skip
    batch = agent._prepare(agent.rollout.read())
    assert_close(batch.value_target, expected)
    loss, metrics = agent.compute_loss(batch)
    assert_close(metrics["policy_loss"], -v[[0, 1, 0, 2]].mean())
    taken = torch.stack([q[s, a] for s, a, *_ in steps])
    assert_close(metrics["value_loss"], (expected - taken).square().mean())
    assert_close(loss, metrics["policy_loss"] + 0.25 * metrics["value_loss"])
    policy, critic = torch.autograd.grad(loss, [agent.policy.head.weight, agent.network.critic.head.weight])
    logits.requires_grad_()
    (reference,) = torch.autograd.grad(-(logits.softmax(-1) * q).sum(-1)[[0, 1, 0, 2]].mean(), [logits])
    assert_close(policy.T, reference)
    assert critic.T[1, 1] == critic.T[2, 0] == 0.0, "values of actions that were not taken"


def test_a_critic_of_actions_weighs_what_the_policy_has_become() -> None:
    agent = table(**ALL_ACTIONS, epochs=2, minibatches=1, rollout_length=4, learning_rate=0.5)
    first, second = spy_on_prepare(agent)
    assert first.old_log_prob is not None and second.old_log_prob is not None
    assert torch.equal(first.old_log_prob, second.old_log_prob)
    assert not torch.equal(first.value_target, second.value_target)


@pytest.mark.parametrize("critic_loss", [rlloss.HLGaussLoss(low=0.0, high=2.0, num_bins=21), HuberLoss()])
@pytest.mark.parametrize("policy_loss", [rlloss.AllActionPolicyGradientLoss(), rlloss.RegretPolicyGradientLoss()])
def test_a_critic_of_actions_may_predict_a_distribution_and_share_a_trunk(critic_loss: Any, policy_loss: Any) -> None:
    agent = table(
        policy_loss=policy_loss, critic_loss=critic_loss, shared_trunk=True, hidden_sizes=[16], rollout_length=8,
        optimizer="Adam", learning_rate=0.02,
    )  # fmt: skip
    run(agent, start(agent, make_vector([partial(ChainEnv, 4)] * 4, AutoresetMode.SAME_STEP)), 6000)
    assert agent.act(torch.arange(3), explore=False).tolist() == [1, 1, 1]


def test_where_a_critic_of_actions_cannot_be() -> None:
    for spec in (CONTINUOUS, SEVERAL):
        with pytest.raises(ValueError, match="A2C: policy_loss AllActionPolicyGradientLoss needs a Discrete action"):
            A2C(**ALL_ACTIONS).build(spec)
    for option in ({"advantage": "upgo"}, {"normalize_advantages": True}):
        with pytest.raises(ValueError, match="advantage must stay 'gae' and normalize_advantages False"):
            A2C(**ALL_ACTIONS, **option)


def test_what_a_critic_of_actions_expects_leaves_impossible_actions_out() -> None:
    agent = A2C(**ALL_ACTIONS, gae_lambda=0.0, rollout_length=1, discount=0.5, hidden_sizes=[])
    spec = EnvSpec(Discrete(2), Discrete(3), num_envs=3, has_action_mask=True)
    agent.build(spec)
    for parameter in agent.network.parameters():
        parameter.data.zero_()
    agent.network.critic.head.bias.data.copy_(torch.tensor([1.0, 3.0, 8.0]))
    rows = pack(
        agent.layout,
        observation=[0, 0, 0], action=[0, 0, 0], reward=[0.0, 0.0, 7.0], next_observation=[1, 1, 1],
        terminated=[False, False, True], truncated=[False] * 3,
        next_action_mask=[[True, True, True], [True, True, False], [False, False, False]],
    )  # fmt: skip
    targets = agent._prepare(rows.packed.unsqueeze(0)).value_target
    assert targets.tolist() == [0.5 * (1 + 3 + 8) / 3, 0.5 * (1 + 3) / 2, 7.0]


def spy_on_prepare(agent: A2C) -> list[PolicyBatch]:
    """Train on one rollout of a chain; the batches that its epochs learn from."""
    envs = start(agent, make_vector([partial(ChainEnv, 4)] * 4, AutoresetMode.SAME_STEP))
    seen: list[PolicyBatch] = []
    prepare = agent._prepare
    agent._prepare = lambda *arguments: seen.append(prepare(*arguments)) or seen[-1]  # type: ignore[method-assign,func-returns-value]
    run(agent, envs, 16)
    return seen


def test_vtrace_estimates_anew_in_every_epoch() -> None:
    """The log-probabilities stay those of the policy that acted; advantages follow the policy that learns."""
    agent = table(advantage="vtrace", epochs=2, minibatches=1, rollout_length=4, learning_rate=0.5)
    first, second = spy_on_prepare(agent)
    assert first.old_log_prob is not None and second.old_log_prob is not None
    assert torch.equal(first.old_log_prob, second.old_log_prob)
    outputs = agent.policy(first.observation)
    assert not torch.allclose(agent.policy.log_prob(outputs, first.action), first.old_log_prob)
    assert not torch.equal(first.value_target, second.value_target)


def test_advantages_are_the_functions_of_the_library() -> None:
    generator = torch.Generator().manual_seed(0)
    log_rho, reward, value, next_value = torch.randn(4, 5, 2, generator=generator)
    discount, truncated = torch.full((5, 2), 0.9), torch.rand(5, 2, generator=generator) < 0.3
    trajectory = log_rho, reward, discount, value, next_value, truncated

    def estimate(name: str) -> tuple[Tensor, Tensor]:
        return table(advantage=name, gae_lambda=0.7)._estimate(*trajectory)

    gae = F.gae(reward, discount, value, next_value, lambda_=0.7, truncated=truncated)
    assert_close(estimate("gae")[0], gae)
    assert_close(estimate("gae")[1], value + gae)
    returns = F.lambda_returns(reward, discount, next_value, lambda_=0.7, truncated=truncated)
    assert_close(estimate("return")[0], returns)
    assert_close(estimate("upgo")[0], F.upgo_returns(reward, discount, next_value, truncated=truncated) - value)
    expected = F.vtrace(log_rho, reward, discount, value, next_value, lambda_=0.7, truncated=truncated)
    assert_close(estimate("vtrace")[0], expected.advantage)
    assert_close(estimate("vtrace")[1], expected.target)


def test_the_kl_penalty_is_paid_once() -> None:
    with pytest.raises(ValueError, match=r"A2C: kl_coefficient must be 0 .* its own, 0.5, got 0.25"):
        A2C(policy_loss=ClippedSurrogateLoss(kl_coefficient=0.5), kl_coefficient=0.25)


def test_the_kl_penalty_is_the_library_s() -> None:
    agent = table(kl_coefficient=0.5, entropy_coefficient=0.0, epochs=2, minibatches=1, rollout_length=4)
    envs = start(agent, make_vector([partial(ChainEnv, 4)] * 4, AutoresetMode.SAME_STEP))
    seen: list[PolicyBatch] = []
    compute = agent.learner._compute_loss

    def watched(*batch: Any) -> Any:
        seen.append(PolicyBatch(*batch))
        return compute(*batch)

    agent.learner._compute_loss = watched
    run(agent, envs, 16)
    batch = seen[1]
    assert batch.old_log_prob is not None
    loss, metrics = agent.compute_loss(batch)
    log_prob = agent.policy.log_prob(agent.policy(batch.observation), batch.action)
    penalty = F.policy_kl_penalty(log_prob, batch.old_log_prob, drawn_from="old")
    assert float(penalty) > 1e-6
    assert_close(loss, metrics["policy_loss"] + 0.5 * metrics["value_loss"] + 0.5 * penalty)


def test_vtrace_has_its_bounds() -> None:
    generator = torch.Generator().manual_seed(0)
    log_rho, reward, value, next_value = torch.randn(4, 5, 2, generator=generator)
    discount, truncated = torch.full((5, 2), 0.9), torch.zeros(5, 2, dtype=torch.bool)
    agent = table(advantage="vtrace", vtrace_clip=1.5, vtrace_leak=0.2, gae_lambda=1.0)
    expected = F.vtrace(
        log_rho, reward, discount, value, next_value, clip_rho=1.5, clip_c=1.5, clip_pg_rho=1.5, leak=0.2
    )
    advantage, target = agent._estimate(log_rho, reward, discount, value, next_value, truncated)
    assert_close(advantage, expected.advantage)
    assert_close(target, expected.target)


class Aim(CountingEnv):
    """One step; the reward is minus the squared distance of the action from (0.5, -0.5)."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = super().step(action)
        reward = -((float(action[0]) - 0.5) ** 2 + (float(action[1]) + 0.5) ** 2)
        return observation, reward, terminated, truncated, info


@pytest.mark.parametrize("squash", [False, True])
def test_a_continuous_action_is_learned(squash: bool) -> None:
    agent = table(optimizer="Adam", learning_rate=0.03, rollout_length=4, normalize_advantages=True, squash=squash)
    vector = make_vector([partial(Aim, (1,), (True,), view="parity", action_space=BOX)] * 16, AutoresetMode.SAME_STEP)
    run(agent, start(agent, vector), 12_000)
    action = agent.act(torch.zeros(1, dtype=torch.int64), explore=False)
    action = torch.tanh(action) if squash else action
    torch.testing.assert_close(action, torch.tensor([[0.5, -0.5]]), rtol=0.0, atol=0.15)


def test_entropy_keeps_a_squashed_action_in_the_middle() -> None:
    """Its bonus alone makes actions uniform on (-1, 1)."""
    agent = table(squash=True, optimizer="Adam", learning_rate=0.03, entropy_coefficient=1.0, log_std_init=-2.0)
    vector = make_vector(
        [partial(CountingEnv, (1,), (True,), view="parity", action_space=BOX)] * 16, AutoresetMode.SAME_STEP
    )
    envs = start(agent, vector)
    agent.policy.head.bias.data.fill_(1.0)
    metrics = run(agent, envs, 16_000)
    entropy = metrics[-1][agent.metric_names.index("entropy")]
    assert 2 * math.log(2.0) - 0.1 < entropy < 2 * math.log(2.0) + 0.01, "that of two uniform actions"


def test_squash_is_said_to_the_environments() -> None:
    for agent, squash in ((A2C(squash=True), False), (A2C(), True)):
        with pytest.raises(ValueError, match=f"A2C: squash is {agent.squash}"):
            agent.build(Envs(counting(MODES[0], action_space=BOX), squash=squash).spec)


class Combination(CountingEnv):
    """One step; the reward is the number of dials that stand at 2, 3 and 0."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, float((action == np.array([2, 3, 0])).sum()), terminated, truncated, info


def test_several_discrete_actions_are_learned() -> None:
    agent = table(optimizer="Adam", learning_rate=0.05, rollout_length=4, entropy_coefficient=0.01)
    make = partial(Combination, (1,), (True,), view="parity", action_space=MULTI)
    run(agent, start(agent, make_vector([make] * 16, AutoresetMode.SAME_STEP)), 12_000)
    action = agent.act(torch.zeros(1, dtype=torch.int64), explore=False)
    assert action.tolist() == [[1, 3, 1]], "numbered from 0"


class Locks(CountingEnv):
    """One of three actions is possible at each step; the last action of a cycle of three pays 1."""

    def __init__(self) -> None:
        super().__init__((6,), view="parity", action_space=spaces.Discrete(3))

    def _info(self) -> dict[str, Any]:
        return {"action_mask": np.array([self.index % 3 != 0, True, self.index % 3 != 1], np.int8)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return super().reset(seed=seed, options=options)[0], self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self._info()["action_mask"][action], "impossible"
        observation, _, terminated, truncated, _ = super().step(action)
        return observation, float(action != 1), terminated, truncated, self._info()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "options", [{}, pytest.param(PPO, marks=pytest.mark.slow), ALL_ACTIONS], ids=["one pass", "ppo", "all actions"]
)
def test_impossible_actions_are_never_taken(mode: AutoresetMode, options: dict[str, Any]) -> None:
    """Not while it explores, not by a greedy policy that prefers them; and the others are learned among."""
    agent = table(**options | {"learning_rate": 0.05, "entropy_coefficient": 0.01, "max_grad_norm": 1.0})
    envs = start(agent, make_vector([Locks] * 4, mode))
    assert envs.spec.has_action_mask
    metrics = run(agent, envs, 3_000)
    assert torch.stack(metrics).isfinite().all()
    assert play(agent, Envs(make_vector([Locks] * 2, mode)), 4, seed=0).mean == 6.0
    agent.policy.head.bias.data.copy_(torch.tensor([50.0, 0.0, 50.0]))
    assert play(agent, Envs(make_vector([Locks] * 2, mode)), 4, seed=0, greedy=False).mean == 6.0
    observation, mask = torch.tensor([0, 1]), torch.tensor([[False, True, False], [False, True, True]])
    assert agent.act(observation, explore=False)[0] != 1
    for explore in (False, True):
        assert agent.act_among(observation, mask, explore=explore).tolist() == [1, 2]


def test_masks_enter_the_loss() -> None:
    spec = EnvSpec(Box((3,), torch.float32), Discrete(4), num_envs=2, has_action_mask=True)
    agent = A2C(hidden_sizes=[5], orthogonal_init=False, entropy_coefficient=0.7, value_coefficient=0.0).build(spec)
    batch = make_batch(spec)._replace(action=torch.tensor([0, 1, 0, 2, 3, 1]))
    mask = torch.rand(6, 4) < 0.5
    mask[torch.arange(6), batch.action] = True
    loss, metrics = agent.compute_loss(batch._replace(action_mask=mask))
    logits = agent.policy(batch.observation)
    rows: list[Any] = [Categorical(logits=row[keep]) for row, keep in zip(logits, mask, strict=True)]
    places = [int(keep[:action].sum()) for keep, action in zip(mask, batch.action, strict=True)]
    log_prob = torch.stack([row.log_prob(torch.tensor(place)) for row, place in zip(rows, places, strict=True)])
    entropy = torch.stack([row.entropy() for row in rows]).mean()
    assert_close(metrics["entropy"], entropy)
    assert_close(loss, -(log_prob * batch.advantage).mean() - 0.7 * entropy)


def test_advantages_at_the_ends_of_episodes_by_hand() -> None:
    spec = EnvSpec(Discrete(3), Discrete(2), num_envs=1, has_reset_steps=True)
    agent = table(discount=0.5, gae_lambda=0.5, policy_loss=ClippedSurrogateLoss()).build(spec)
    agent.network.critic.head.weight.data.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
    agent.network.critic.head.bias.data.zero_()
    steps = [  # observation, next_observation, reward, terminated, truncated, valid
        (0, 1, 1.0, False, False, True),
        (1, 2, 2.0, False, True, True),
        (2, 0, 0.0, False, False, False),
        (0, 1, 4.0, True, False, True),
        (0, 2, 1.0, False, False, True),
    ]
    for s, next_s, r, terminated, truncated, valid in steps:
        agent.observe(
            pack(
                agent.layout, observation=[s], action=[1], reward=[r], next_observation=[next_s],
                terminated=[terminated], truncated=[truncated], valid=[valid],
            )
        )  # fmt: skip
    batch = agent._prepare(agent.rollout.read())
    assert batch.mask is not None
    keep = batch.mask
    assert keep.tolist() == [True, True, False, True, True]
    last = 2.0 + 0.5 * 3.0 - 2.0  # the truncated step bootstraps, and nothing flows into it
    expected = torch.tensor([1.0 + 0.5 * 2.0 - 1.0 + 0.25 * last, last, 4.0 - 1.0, 1.0 + 0.5 * 3.0 - 1.0])
    assert_close(batch.advantage[keep], expected)
    assert_close(batch.value_target[keep], expected + torch.tensor([1.0, 2.0, 1.0, 1.0]))
    assert batch.old_log_prob is not None
    reference: Any = Categorical(logits=agent.policy(batch.observation))
    assert_close(batch.old_log_prob, reference.log_prob(batch.action))
    assert not any(field.requires_grad for field in batch if field is not None)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("policy_loss", [rlloss.PolicyGradientLoss(), rlloss.AllActionPolicyGradientLoss()], ids=str)
def test_the_values_of_successors_are_those_of_all_successors(
    policy_loss: rlloss.PolicyLoss | rlloss.AllActionPolicyLoss, mode: AutoresetMode
) -> None:
    """Where resets are steps of their own, the critic is asked for the last ones alone."""
    agent = A2C(policy_loss=policy_loss, rollout_length=6, hidden_sizes=[8])
    envs = start(agent, counting(mode))
    for _ in range(4):
        while not agent.rollout.full:
            agent.observe(envs.step(agent.act(envs.observation)))
        rollout = Transitions(agent.rollout.read(), agent.layout, 0)
        assert torch.equal(rollout.next_observation[:-1], rollout.observation[1:]) == envs.spec.has_reset_steps
        observation, successor = (x.flatten(0, 1) for x in (rollout.observation, rollout.next_observation))
        with torch.no_grad():
            outputs = agent._taken(agent.network.criticize(observation), rollout.action.flatten())
            value = agent.critic_loss.value(outputs).view(6, 3)
            assert_close(agent._next_value(rollout, value).flatten(), agent._state_value(successor, None))


def make_batch(spec: EnvSpec, mask: Tensor | None = None) -> PolicyBatch:
    action = torch.randint(4, (6,)) if isinstance(spec.action, Discrete) else torch.randn(6, 2)
    if isinstance(spec.action, MultiDiscrete):
        action = torch.stack([torch.randint(n, (6,)) for n in spec.action.nvec], -1)
    return PolicyBatch(torch.randn(6, 3), action, torch.randn(6) * 3 + 1, torch.randn(6), torch.randn(6) - 2, mask)


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS, SEVERAL], ids=["discrete", "box", "multi"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_loss_by_hand(spec: EnvSpec, masked: bool, normalize: bool) -> None:
    agent = A2C(
        critic_loss=HuberLoss(), value_coefficient=0.3, entropy_coefficient=0.7, normalize_advantages=normalize,
        hidden_sizes=[5], orthogonal_init=False,
    ).build(spec)  # fmt: skip
    mask = torch.tensor([True, False, True, True, False, True]) if masked else None
    keep = torch.ones(6, dtype=torch.bool) if mask is None else mask
    batch = make_batch(spec, mask)
    loss, metrics = agent.compute_loss(batch)
    outputs = agent.policy(batch.observation)
    reference: Any
    if isinstance(spec.action, Discrete):
        reference = Categorical(logits=outputs)
        log_prob, entropy = reference.log_prob(batch.action), reference.entropy()
    elif isinstance(spec.action, MultiDiscrete):
        logits = agent.policy.head(agent.policy.encoder(batch.observation)).split(list(spec.action.nvec), -1)
        references: list[Any] = [Categorical(logits=part) for part in logits]
        log_prob = sum(r.log_prob(a) for r, a in zip(references, batch.action.T, strict=True))
        entropy = sum(r.entropy() for r in references)
    else:
        reference = Normal(outputs, agent.policy.log_std.exp())  # type: ignore[operator]
        log_prob, entropy = reference.log_prob(batch.action).sum(-1), reference.entropy().sum(-1)
    advantage = batch.advantage[keep]
    if normalize:
        advantage = (advantage - advantage.mean()) / advantage.std(correction=0)
    policy_loss = -(log_prob[keep] * advantage).mean()
    value_loss = torch.nn.functional.huber_loss(
        agent.network.criticize(batch.observation)[keep], batch.value_target[keep]
    )
    assert_close(metrics["policy_loss"], policy_loss)
    assert_close(metrics["value_loss"], value_loss)
    assert_close(metrics["entropy"], entropy[keep].mean())
    assert_close(loss, policy_loss + 0.3 * value_loss - 0.7 * entropy[keep].mean())
    assert_close(metrics["loss"], loss)
    assert (*metrics, "grad_norm") == agent.metric_names


@pytest.mark.parametrize(
    "loss",
    [PolicyGradientLoss(), PolicyGradientLoss(FocalLoss(gamma=2.0)), PolicyGradientLoss(PolyLoss(epsilon=1.0))],
    ids=["cross-entropy", "focal", "poly"],
)
def test_other_policy_losses(loss: PolicyLoss) -> None:
    agent = A2C(policy_loss=loss, hidden_sizes=[5], orthogonal_init=False).build(DISCRETE)
    batch = make_batch(DISCRETE)
    log_prob = agent.policy.log_prob(agent.policy(batch.observation), batch.action)
    p = log_prob.exp()
    assert isinstance(loss, PolicyGradientLoss)
    per_step = {
        "CrossEntropyLoss": -log_prob,
        "FocalLoss": -((1 - p) ** 2) * log_prob,
        "PolyLoss": -log_prob + (1 - p),
    }[type(loss.criterion).__name__]
    assert_close(agent.compute_loss(batch)[1]["policy_loss"], (per_step * batch.advantage).mean())
    learner = table(policy_loss=loss)
    run(learner, start(learner, make_vector([partial(ChainEnv, 3)] * 4, AutoresetMode.SAME_STEP)), 2000)
    assert learner.act(torch.arange(2), explore=False).tolist() == [1, 1]


@ACTION_SPACES
def test_one_pass_of_the_clipped_surrogate_is_the_policy_gradient(action_space: Any) -> None:
    """At a ratio of 1 the gradients are the same; epochs and minibatches of 1 included."""
    agents = [A2C(policy_loss=loss, hidden_sizes=[4]) for loss in (PolicyGradientLoss(), ClippedSurrogateLoss())]
    for agent in agents:
        envs = start(agent, counting(AutoresetMode.NEXT_STEP, action_space=action_space))
        assert len(run(agent, envs, 14)) == 1
    for p, q in zip(agents[0].network.parameters(), agents[1].network.parameters(), strict=True):
        assert_close(p, q)


@pytest.mark.parametrize(("epochs", "minibatches"), [(1, 1), (3, 1), (1, 4), (2, 3)])
def test_each_epoch_sees_each_step_once(epochs: int, minibatches: int, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = A2C(**PPO | {"epochs": epochs, "minibatches": minibatches}, rollout_length=5)
    envs = start(agent, counting(AutoresetMode.SAME_STEP))
    seen: list[PolicyBatch] = []
    compute_loss = agent.compute_loss

    def spy(batch: PolicyBatch) -> Any:
        seen.append(batch)
        return compute_loss(batch)

    monkeypatch.setattr(agent, "compute_loss", spy)
    for rollouts in (1, 2):
        before, observed = len(seen), []
        for _ in range(5):
            assert len(seen) == before
            transitions = envs.step(agent.act(envs.observation))
            observed += transitions.observation.tolist()
            agent.observe(transitions)
        metrics = agent.update()
        assert len(metrics) == epochs * minibatches
        assert agent.updates == rollouts * epochs * minibatches == agent.count_updates(envs.steps, 3)
        assert all(m.shape == (len(agent.metric_names),) and m.isfinite().all() for m in metrics)
        orders = []
        for epoch in range(epochs):
            parts = seen[before + epoch * minibatches : before + (epoch + 1) * minibatches]
            assert {len(part.advantage) for part in parts} <= {
                15 // minibatches, -(-15 // minibatches),
            }  # fmt: skip
            orders.append([row for part in parts for row in part.observation.tolist()])
            assert sorted(orders[-1]) == sorted(observed)
        if minibatches > 1:
            assert orders[0] != observed, "not shuffled"
            assert epochs == 1 or orders[0] != orders[1]
        # Before the first gradient step the ratio is 1, and the loss minus the mean advantage.
        assert_close(metrics[0][1], -seen[before].advantage.mean())
    assert agent.update() == []


@pytest.mark.parametrize("mode", MODES[:2])
@ACTION_SPACES
def test_the_loss_changes_nothing(mode: AutoresetMode, action_space: Any) -> None:
    agent = A2C(**PPO, hidden_sizes=[4])
    run(agent, start(agent, counting(mode, action_space=action_space)), 36)
    batch = agent._prepare(agent.rollout.rows)
    before = pickled(agent.state_dict())
    first, again = agent.compute_loss(batch)[0], agent.compute_loss(batch)[0]
    assert torch.equal(first, again)
    assert first.requires_grad
    assert_same(before, pickled(agent.state_dict()))


@pytest.mark.parametrize("mode", MODES)
@ACTION_SPACES
@pytest.mark.parametrize("options", [{}, PPO | SCHEDULE | NORMALIZE], ids=["one pass", "ppo"])
@pytest.mark.parametrize("until", [0, 20])
def test_a_restored_state_goes_on_bitwise(
    mode: AutoresetMode, action_space: Any, options: dict[str, Any], until: int
) -> None:
    agent, other = A2C(**options, hidden_sizes=[4]), A2C(**options, hidden_sizes=[4])
    envs, others = (start(a, counting(mode, action_space=action_space), seed=i) for i, a in enumerate((agent, other)))
    run(agent, envs, until)
    run(other, others, 10)
    other.load_state_dict(pickled(agent.state_dict()))
    others.load_state_dict(envs.state_dict(), seed=0)
    a, b = run(agent, envs, until + 50), run(other, others, until + 50)
    assert len(a) >= 3
    assert_same(a, b)
    assert_same(pickled(agent.state_dict()), pickled(other.state_dict()))


@pytest.mark.parametrize("name", ["all actions", "regret", "upgo", "vtrace", "kl", "distributional critic"])
def test_every_kind_of_loss_goes_on_bitwise(name: str) -> None:
    test_a_restored_state_goes_on_bitwise(AutoresetMode.NEXT_STEP, None, COMPILED[name][0], 20)


@ACTION_SPACES
def test_a_shared_trunk_is_one_encoder(action_space: Any) -> None:
    """The same values as of two networks with the same weights, and the sum of their gradients."""
    shared, apart = A2C(hidden_sizes=[4], shared_trunk=True), A2C(hidden_sizes=[4])
    envs = start(shared, counting(AutoresetMode.SAME_STEP, action_space=action_space))
    apart.build(envs.spec)
    count = [sum(p.numel() for p in agent.network.parameters()) for agent in (shared, apart)]
    encoder = sum(p.numel() for p in shared.policy.encoder.parameters())
    assert count[0] == count[1] - encoder > 0
    state = shared.network.state_dict()
    copied = {name.replace("policy.encoder", "critic.encoder"): value for name, value in state.items()}
    apart.network.load_state_dict(copied | state)
    run(shared, envs, 12)  # not yet a whole rollout
    rows = shared.rollout.rows
    losses = [agent._loss_of_rollout(rows) for agent in (shared, apart)]
    assert losses[0][0] == losses[1][0]
    together, policy_side, critic_side = (
        torch.autograd.grad(loss[0], list(encoder.parameters()), retain_graph=True)
        for loss, encoder in (
            (losses[0], shared.policy.encoder),
            (losses[1], apart.policy.encoder),
            (losses[1], apart.network.critic.encoder or apart.network),
        )
    )
    for both, one, other in zip(together, policy_side, critic_side, strict=True):
        assert_close(both, one + other)
        assert one.any() and other.any()
    observation = torch.randn(3, 2)
    assert torch.equal(shared.act(observation, explore=False), apart.act(observation, explore=False))


COMPILED: dict[str, tuple[dict[str, Any], Any]] = {
    "one pass": ({}, None),
    "multi": ({"entropy_coefficient": 0.1}, MULTI),
    "schedule": (SCHEDULE, None),
    "normalize": (NORMALIZE | {"shared_trunk": True}, None),
    "squash": ({"squash": True, "entropy_coefficient": 0.1}, BOX),
    "shared": ({"shared_trunk": True}, None),
    "masks": ({"entropy_coefficient": 0.1}, "masks"),
    "all actions": (ALL_ACTIONS, None),
    "all actions, masks": (ALL_ACTIONS | {"entropy_coefficient": 0.1}, "masks"),
    "regret": ({"policy_loss": rlloss.RegretPolicyGradientLoss(), "epochs": 2}, None),
    "return": ({"advantage": "return"}, None),
    "upgo": ({"advantage": "upgo"}, None),
    "vtrace": ({"advantage": "vtrace", "epochs": 2, "vtrace_leak": 0.5}, None),
    "kl": ({"kl_coefficient": 0.5, "epochs": 2}, None),
    "regression": ({"policy_loss": rlloss.AdvantageWeightedRegressionLoss(temperature=1.0)}, None),
    "distributional critic": ({"critic_loss": rlloss.HLGaussLoss(low=0.0, high=9.0, num_bins=10)}, None),
}


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize(
    "name", mostly_slow(list(COMPILED), keep=["one pass", "normalize", "squash", "masks", "vtrace", "schedule"])
)
def test_compiled_is_eager(name: str) -> None:
    """One graph, which stays the same one over all gradient steps."""
    options, action_space = COMPILED[name]
    agents = [A2C(**options, hidden_sizes=[4]) for _ in range(2)]
    rows = []
    for agent in agents:
        if action_space == "masks":
            vector = make_vector([Locks] * 3, AutoresetMode.SAME_STEP)
        else:
            vector = counting(AutoresetMode.SAME_STEP, action_space=action_space)
        envs = start(agent, vector, compiled=agent is agents[1])
        rows.append(torch.stack(run(agent, envs, 180)))
    assert agents[1].learner.is_one_graph and graphs_of(agents[1].learner) == graphs_of(agents[1].choice) == 1
    torch.testing.assert_close(rows[1], rows[0], rtol=1e-4, atol=1e-5)
    for p, q in zip(agents[0].network.parameters(), agents[1].network.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def test_actions() -> None:
    for spec, shape in ((DISCRETE, (2,)), (CONTINUOUS, (2, 2)), (SEVERAL, (2, 2))):
        agent = A2C(hidden_sizes=[4]).build(spec)
        observation = torch.randn(2, 3)
        before = agent.generator.get_state()
        greedy = agent.act(observation, explore=False)
        assert greedy.shape == shape
        assert torch.equal(agent.generator.get_state(), before)
        assert torch.equal(greedy, agent.policy.mode(agent.policy(observation)))
        drawn = [agent.act(observation) for _ in range(20)]
        assert drawn[0].shape == shape
        assert any(not torch.equal(drawn[0], d) for d in drawn)
        again = A2C(hidden_sizes=[4]).build(spec)
        assert torch.equal(again.act(observation), drawn[0])


def test_cut_stops_what_flows_back() -> None:
    agent = A2C(rollout_length=2)
    envs = start(agent, make_vector([partial(CountingEnv, (9,))], AutoresetMode.SAME_STEP))
    agent.cut()  # of an empty rollout: nothing
    agent.observe(envs.step(agent.act(envs.observation)))
    agent.cut()
    agent.observe(envs.step(agent.act(envs.observation)))
    assert agent.layout.read(agent.rollout.rows, "truncated").tolist() == [[True], [False]]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("discount", -0.1), ("gae_lambda", 1.1), ("rollout_length", 0), ("epochs", 0), ("minibatches", 0),
        ("entropy_coefficient", -1.0), ("value_coefficient", -1.0), ("learning_rate", 0.0), ("hidden_sizes", [0]),
        ("max_grad_norm", -1.0), ("optimizer", "Nothing"), ("optimizer_args", {"x": 1}),
        ("log_std_init", float("nan")), ("epochs", 1.5), ("policy_loss", FocalLoss()), ("critic_loss", PolyLoss()),
    ],
)  # fmt: skip
def test_arguments_out_of_range(argument: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^A2C.*{argument.removesuffix('_args')}"):
        A2C(**{argument: value})


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"learning_rate_end": -1.0}, "learning_rate_end"),
        ({"learning_rate_end": 0.0}, "learning_rate_steps"),
        ({"learning_rate_end": 0.0, "learning_rate_steps": 1.5}, "learning_rate_steps"),
    ],
)
def test_schedules_out_of_range(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"^A2C: {match}"):
        A2C(**arguments)


def test_the_learning_rate_goes_by_environment_steps() -> None:
    agent = A2C(**SCHEDULE, optimizer="SGD", max_grad_norm=None, hidden_sizes=[4])
    envs = start(agent, counting(AutoresetMode.SAME_STEP))
    assert agent.status() == {"updates": 0, "learning_rate": 0.01}
    for steps, rate in ((15, 0.0075), (30, 0.005), (45, 0.0025), (60, 0.0), (75, 0.0)):
        before = torch.cat([p.detach().flatten() for p in agent.network.parameters()])
        run(agent, envs, steps)
        assert agent.status()["learning_rate"] == agent.learner.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
        after = torch.cat([p.detach().flatten() for p in agent.network.parameters()])
        assert torch.equal(before, after) == (rate == 0.0)
    assert A2C().build(DISCRETE).status() == {"updates": 0}


class Unscaled(CountingEnv):
    """One step; the observation tells the right action in its last digit, and the reward is in thousands."""

    def _observe(self) -> Any:
        self.right = int(self.np_random.integers(2))
        return np.array([5_000.0 + self.right, 0.0], np.float32)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = -3_000.0 * float(action != self.right)
        return super().step(action)[0], reward, True, False, {}


@pytest.mark.parametrize("normalize", [False, True])
def test_numbers_of_any_scale_are_learned_from_when_normalised(normalize: bool) -> None:
    """The two observations are told apart, and values come out in units of the return's deviation."""
    agent = A2C(
        rollout_length=4, optimizer="Adam", learning_rate=0.01, hidden_sizes=[16],
        normalize_observations=normalize, normalize_rewards=normalize,
    )  # fmt: skip
    envs = start(agent, make_vector([partial(Unscaled, (1,), (True,))] * 16, AutoresetMode.SAME_STEP))
    metrics = run(agent, envs, 8_000)
    observation = torch.tensor([[5_000.0, 0.0], [5_001.0, 0.0]])
    assert (agent.act(observation, explore=False).tolist() == [0, 1]) == normalize
    assert (metrics[-1][agent.metric_names.index("value_loss")] < 1.0) == normalize


def test_moments_move_with_training_alone() -> None:
    agent = A2C(**NORMALIZE, rollout_length=5, hidden_sizes=[4], discount=0.5)
    envs = start(agent, counting(AutoresetMode.NEXT_STEP))
    normalizer, rewards = agent.network.normalizer, agent.reward_normalizer
    assert normalizer is not None and rewards is not None
    seen = []
    for step in range(1, 11):
        transitions = envs.step(agent.act(envs.observation))
        assert transitions.mask is not None
        seen.append(transitions.observation[transitions.mask])
        agent.observe(transitions)
        before = normalizer.mean.clone()
        assert len(agent.update()) == (step % 5 == 0)
        agent.act(envs.observation + 100.0, explore=False)
        if step % 5:
            assert torch.equal(normalizer.mean, before)
            continue
        all_seen = torch.cat(seen).double()
        assert float(normalizer.count) == float(rewards.moments.count) == len(all_seen) < 3 * step
        assert_close(normalizer.mean, all_seen.mean(0))
        assert_close(normalizer.variance, all_seen.var(0, correction=0))
    assert {"normalizer.mean", "normalizer.variance", "normalizer.count"} <= agent.model.state_dict().keys()
    assert not any("returns" in name for name in agent.model.state_dict())


def test_normalised_rewards_enter_the_advantages() -> None:
    agent = table(**NORMALIZE, rollout_length=4, discount=0.5, gae_lambda=0.0, hidden_sizes=[4], learning_rate=1e-9)
    plain = table(rollout_length=4, discount=0.5, gae_lambda=0.0, hidden_sizes=[4])
    envs = start(agent, counting(AutoresetMode.SAME_STEP, action_space=spaces.Discrete(2)))
    plain.build(envs.spec)
    run(agent, envs, 12)
    rows = agent.rollout.rows
    normalizer, rewards = agent.network.normalizer, agent.reward_normalizer
    assert normalizer is not None and rewards is not None
    batch = agent._prepare(rows)
    transitions = Transitions(rows, agent.layout, 0)
    values = agent.network.critic(normalizer(transitions.observation.flatten(0, 1)))
    following = agent.network.critic(normalizer(transitions.next_observation.flatten(0, 1)))
    reward = transitions.reward.flatten() / rewards.moments.variance.sqrt().float()
    discount = torch.where(transitions.terminated.flatten(), 0.0, 0.5)
    assert_close(batch.advantage, (reward + discount * following - values).detach())
    assert not (reward == 1.0).any()


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
@pytest.mark.parametrize("empty", [False, True])
def test_cut_ends_the_returns_too(empty: bool, mode: AutoresetMode) -> None:
    agent = A2C(**NORMALIZE, rollout_length=2, discount=1.0)
    envs = start(agent, make_vector([partial(CountingEnv, (99,))], mode))
    run(agent, envs, 2 if empty else 3)
    agent.cut()
    run(agent, envs, 4)
    assert agent.reward_normalizer is not None
    assert agent.reward_normalizer.returns.tolist() == [2.0 if empty else 1.0]


@pytest.mark.parametrize("space", [Discrete(4), Box((3,), torch.uint8), Box((3,), torch.bool)], ids=str)
def test_observations_that_need_no_normalising_are_refused(space: Discrete | Box) -> None:
    with pytest.raises(ValueError, match="normalize_observations needs observations that are a Box of numbers, got"):
        A2C(normalize_observations=True).build(EnvSpec(space, Discrete(2), num_envs=1))


@pytest.mark.parametrize(
    ("env", "squash"),
    [("Pendulum-v1", False), ("Pendulum-v1", True), ("tests.agents.worlds:Masked-v0", False)],
    ids=["box", "squashed", "masked"],
)
def test_a_run_that_was_stopped_goes_on_bitwise(env: str, squash: bool, tmp_path: Path) -> None:
    """With moments and a schedule in it; what evaluate loads acts as the agent did."""
    options: dict[str, Any] = {"steps": 400, "num_envs": 3, "eval_episodes": 2, "tensorboard": False, "progress": False}
    agent: dict[str, Any] = SCHEDULE | NORMALIZE | {"squash": squash, "hidden_sizes": [8], "learning_rate_steps": 300}
    whole = train(A2C(**agent), env, run_dir=str(tmp_path), **options)
    halved = train(A2C(**agent), env, run_dir=str(tmp_path), **options | {"steps": 200})
    resume(halved, steps=400, progress=False)
    assert (whole / "model.safetensors").read_bytes() == (halved / "model.safetensors").read_bytes()
    states = [torch.load(path / "checkpoint.pt", weights_only=True)["agent"] for path in (whole, halved)]
    assert_same(*states)
    learner = A2C(**agent)
    envs = Envs(make_vec(env, 2), squash=squash)
    learner.build(envs.spec)
    learner.network.load_state_dict(states[0]["network"])
    assert learner.network.normalizer is not None and learner.network.normalizer.count == 390
    assert evaluate(whole, episodes=2, seed=5).returns == play(learner, envs, 2, seed=5).returns


def test_what_cannot_be_built_or_restored() -> None:
    with pytest.raises(ValueError, match=r"minibatches must be at most rollout_length \* num_envs = 10, got 11"):
        A2C(minibatches=11).build(DISCRETE)
    A2C(minibatches=10).build(DISCRETE)
    agent = A2C(rollout_length=7)
    run(agent, start(agent, counting(AutoresetMode.SAME_STEP)), 18)
    with pytest.raises(ValueError, match="Rollout: stored rows"):
        A2C(rollout_length=5).build(agent.spec).load_state_dict(agent.state_dict())


@pytest.mark.parametrize("criterion", [FocalLoss(), PolyLoss()])
def test_probability_criteria_refuse_densities(criterion: FocalLoss | PolyLoss) -> None:
    spec = EnvSpec(Box((1,), torch.float32), Box((1,), torch.float32, (-1.0,), (1.0,)), num_envs=1)
    with pytest.raises(ValueError, match="needs a Discrete action space"):
        A2C(policy_loss=PolicyGradientLoss(criterion)).build(spec)


OVERLAPPED: dict[str, dict[str, Any]] = {
    "one pass": {},
    "epochs": {"policy_loss": rlloss.ClippedSurrogateLoss(), "epochs": 2, "minibatches": 2},
    "vtrace": {"advantage": "vtrace", "normalize_observations": True},
}


@pytest.mark.parametrize("name", OVERLAPPED)
def test_learning_beside_acting(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread changes no number; who acts is one update behind, and the losses are told how it acted."""

    def play() -> tuple[A2C, list[Tensor], list[Tensor], list[Tensor]]:
        agent = A2C(**OVERLAPPED[name], overlap=True, hidden_sizes=[4], learning_rate=0.1)
        envs = start(agent, counting(AutoresetMode.SAME_STEP))
        acted: list[Tensor] = []
        learned, metrics = [weights(agent.network)], []
        given: list[Tensor | None] = []
        prepare = agent._prepare

        def spy(rows: Tensor, old_log_prob: Tensor | None = None) -> PolicyBatch:
            given.append(old_log_prob)
            return prepare(rows, old_log_prob)

        monkeypatch.setattr(agent, "_prepare", spy)
        while len(acted) < 6:
            agent.observe(envs.step(choose(agent, envs, explore=True)))
            if agent.rollout.full:
                acted.append(weights(agent.actor))
                steps = Transitions(agent.rollout.rows.flatten(0, 1).clone(), agent.layout, 0)
                observation, action = steps.observation, steps.action
                expected = agent.actor.policy.log_prob(agent.actor.policy(agent.actor.normalized(observation)), action)
                metrics += agent.update()
                agent.beside.wait()
                learned.append(weights(agent.network))
                if agent._compares_policies:
                    told = given[-1]
                    assert told is not None
                    assert_close(told, expected)
        return agent, acted, learned, metrics

    def start_at_once(overlap: Overlap, function: Callable[..., list[Tensor]], *arguments: Any) -> None:
        overlap.results = function(*arguments)

    agent, acted, learned, metrics = play()
    assert len(metrics) == 5 * agent.epochs * agent.minibatches and agent.updates == len(metrics) * 6 // 5
    assert torch.equal(acted[0], learned[0])
    for number in range(1, 6):
        assert torch.equal(acted[number], learned[number - 1])
        assert not torch.equal(acted[number], learned[number])
    monkeypatch.setattr(Overlap, "start", start_at_once)
    other, *_, other_metrics = play()
    assert torch.equal(torch.stack(metrics), torch.stack(other_metrics))
    assert torch.equal(weights(agent.network), weights(other.network))


@pytest.mark.usefixtures("by_torch")
def test_compiled_beside_acting() -> None:
    """The thread that learns has the compiler's settings too."""
    results = []
    for compiled in (False, True):
        agent = A2C(overlap=True, hidden_sizes=[4])
        metrics = run(agent, start(agent, counting(AutoresetMode.SAME_STEP), compiled=compiled), 180)
        agent.beside.wait()
        assert agent.learner.is_one_graph == compiled
        results.append((torch.stack(metrics), weights(agent.network)))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


def weights(network: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_what_goes_wrong_beside_acting_is_raised() -> None:
    agent = A2C(overlap=True, hidden_sizes=[4])
    envs = start(agent, counting(AutoresetMode.SAME_STEP))
    agent.learner.step = None  # type: ignore[method-assign, assignment]
    with pytest.raises(TypeError, match="not callable"):
        run(agent, envs, 60)
