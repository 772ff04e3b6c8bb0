from __future__ import annotations

import io
import math
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import Tensor

import rlloss
from agents.dqn import DQN
from agents.parts.envs import Envs
from agents.parts.networks import draw_noise
from agents.parts.replay import Batch, PrioritizedReplay, Replay
from agents.parts.spaces import Box, Discrete, EnvSpec
from rlloss.rl.value import TDLoss, ValueLoss, ValueLossOutput
from rlloss.supervised.regression import MSELoss
from tests.agents.environments import MODES, ChainEnv, CountingEnv, counting, make_vector
from tests.agents.parts.test_optimization import graphs_of
from tests.conftest import assert_close, mostly_slow


class ThreeHeads(ValueLoss):
    """Three values per action; their mean is the action value, and each learns from it."""

    outputs_per_action = 3

    def q_values(self, outputs: Tensor) -> Tensor:
        return outputs.mean(-1)

    def forward(
        self, outputs: Tensor, action: Tensor, reward: Tensor, discount: Tensor, next_outputs: Tensor, **rest: Any
    ) -> ValueLossOutput:
        heads = [TDLoss()(q, action, reward, discount, self.q_values(next_outputs), **rest) for q in outputs.unbind(-1)]
        return ValueLossOutput(sum((h.loss for h in heads), torch.zeros(())), heads[0].td_error)


TWO_STATES = EnvSpec(Discrete(2), Discrete(2), num_envs=1)
SMALL: dict[str, Any] = {
    "hidden_sizes": [8], "batch_size": 8, "replay_capacity": 60, "learning_starts": 6, "replay_ratio": 0.5,
    "epsilon_steps": 30, "target_update_every": 3,
}  # fmt: skip

RAINBOW: dict[str, Any] = {
    "loss": TDLoss(double=True), "n_step": 3, "dueling": True, "priority_exponent": 0.6, "noisy": True,
    "importance_steps": 40, "epsilon_start": 0.0, "epsilon_end": 0.0,
}  # fmt: skip

VALUE_LOSSES: list[ValueLoss] = [
    rlloss.SarsaLoss(),
    rlloss.ExpectedSarsaLoss(),
    rlloss.SoftQLoss(),
    rlloss.MunchausenLoss(),
    rlloss.AdvantageLearningLoss(),
    rlloss.PersistentLoss(),
    rlloss.QVLoss(rescale=True),
    rlloss.CategoricalTDLoss(low=0.0, high=10.0, num_atoms=11, double=True),
    rlloss.QuantileTDLoss(num_quantiles=5),
    rlloss.HLGaussTDLoss(low=0.0, high=10.0, num_bins=11),
    rlloss.TwoHotTDLoss(low=0.0, high=10.0, num_bins=11, rescale=True),
]


def test_value_losses_are_all_of_them() -> None:
    every = {value for value in vars(rlloss).values() if isinstance(value, type) and issubclass(value, ValueLoss)}
    assert {type(loss) for loss in VALUE_LOSSES} | {TDLoss} == {cls for cls in every if not cls.__abstractmethods__}


def table(**changes: Any) -> DQN:
    """One value per state and action: a network without hidden layers on one-hot states."""
    arguments: dict[str, Any] = {
        "loss": TDLoss(MSELoss()), "discount": 0.9, "hidden_sizes": [], "optimizer": "SGD", "learning_rate": 0.3,
        "max_grad_norm": None, "batch_size": 32, "learning_starts": 50, "replay_ratio": 1.0, "epsilon_end": 1.0,
        "target_update_every": 1,
    } | changes  # fmt: skip
    return DQN(**arguments)


def run(agent: DQN, envs: Envs, steps: int) -> list[Tensor]:
    metrics = []
    while envs.steps < steps:
        agent.observe(envs.step(agent.act(envs.observation)))
        metrics += agent.update()
    return metrics


def start(agent: DQN, vector: Any, seed: int = 0, **options: Any) -> Envs:
    envs = Envs(vector)
    envs.reset(seed=seed)
    agent.build(envs.spec, seed=seed, **options)
    return envs


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("compiled", [False, True])
def test_the_learning_rate_falls(compiled: bool) -> None:
    """By the steps taken: what the optimiser has, not what the log says."""
    agent = DQN(**SMALL, learning_rate=0.5, learning_rate_end=0.1, learning_rate_steps=40)
    envs = start(agent, counting(AutoresetMode.SAME_STEP), compiled=compiled)
    for steps, expected in ((24, 0.26), (36, 0.14), (60, 0.1)):
        run(agent, envs, steps)
        assert agent.steps == steps
        assert float(agent.learner.optimizer.param_groups[0]["lr"]) == pytest.approx(expected)
        assert agent.status()["learning_rate"] == pytest.approx(expected)


@pytest.mark.parametrize(("num_envs", "rounds"), [(1, [6, 12, 18, 24]), (4, [8, 12, 20, 24])])
def test_gradient_steps_come_in_rounds(num_envs: int, rounds: list[int]) -> None:
    """At the multiples of update_every, or the first step after one, all that are due by then."""
    agent = table(update_every=6, replay_ratio=0.5, learning_starts=0, batch_size=4)
    envs = start(agent, make_vector([partial(CountingEnv, (3,), view="parity")] * num_envs, AutoresetMode.SAME_STEP))
    taken = {}
    while envs.steps < 24:
        agent.observe(envs.step(agent.act(envs.observation)))
        number = len(agent.update())
        if number:
            taken[envs.steps] = number
    assert taken == dict.fromkeys(rounds, 3)


BOUNDS: dict[str, float] = {"low": 0.0, "high": 20.0}
VALUE_LOSSES = [
    TDLoss(MSELoss(), double=True),
    TDLoss(MSELoss(), rescale=True),
    rlloss.SarsaLoss(MSELoss()),
    rlloss.ExpectedSarsaLoss(MSELoss()),
    rlloss.SoftQLoss(MSELoss()),
    rlloss.MunchausenLoss(MSELoss(), alpha=0.0),
    rlloss.AdvantageLearningLoss(MSELoss(), alpha=0.5),
    rlloss.PersistentLoss(MSELoss()),
    rlloss.QVLoss(MSELoss()),
    rlloss.QVLoss(MSELoss(), maximum=True),
    rlloss.CategoricalTDLoss(**BOUNDS, double=True),  # type: ignore[arg-type]
    rlloss.QuantileTDLoss(num_quantiles=8),
    rlloss.HLGaussTDLoss(**BOUNDS, num_bins=41),  # type: ignore[arg-type]
    rlloss.TwoHotTDLoss(**BOUNDS, num_bins=41, double=True),  # type: ignore[arg-type]
]


LEARNS_SOON = rlloss.MunchausenLoss, rlloss.CategoricalTDLoss, rlloss.QuantileTDLoss


@pytest.mark.parametrize(
    "loss",
    [
        loss if isinstance(loss, LEARNS_SOON) or number == 0 else pytest.param(loss, marks=pytest.mark.slow)
        for number, loss in enumerate(VALUE_LOSSES)
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_every_value_loss_learns_the_value_of_for_ever(loss: ValueLoss) -> None:
    """Reward 1 for ever is worth 1 / (1 - gamma), whatever a loss makes of the outputs, and time limits are no ends."""
    rate = 0.08 if loss.outputs_per_action > 2 else 0.04
    agent = DQN(
        loss=loss, n_step=2, discount=0.9, hidden_sizes=[], dueling=True, optimizer="Adam", learning_rate=rate,
        max_grad_norm=None, batch_size=32, learning_starts=50, replay_ratio=1.0, epsilon_end=1.0, target_update_every=5,
    )  # fmt: skip
    envs = [partial(CountingEnv, (length,), view="parity") for length in (3, 1, 5)]
    run(agent, start(agent, make_vector(envs, AutoresetMode.SAME_STEP)), 900)
    q = agent.loss.q_values(agent.network(torch.arange(2))).amax(-1)
    assert q.tolist() == pytest.approx([10.0, 10.0], rel=0.05)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n_step", [1, 3])
def test_a_time_limit_is_no_end(mode: AutoresetMode, n_step: int) -> None:
    """Reward 1 for ever is worth 1 / (1 - gamma), however often a time limit cuts it."""
    envs = [partial(CountingEnv, (length,), view="parity") for length in (3, 1, 5)]
    agent = table(n_step=n_step)
    run(agent, start(agent, make_vector(envs, mode)), 450)
    assert_close(agent.network(torch.arange(2)), torch.full((2, 2), 10.0), dtype=torch.float16)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n_step", [1, 3])
def test_a_terminal_state_is_an_end(mode: AutoresetMode, n_step: int) -> None:
    """Two steps of reward 1 are worth 1 + gamma; nothing leaks from the episode that follows."""
    agent = table(n_step=n_step)
    vector = make_vector([partial(CountingEnv, (2,), (True,), view="parity")] * 2, mode)
    run(agent, start(agent, vector), 450)
    expected = torch.tensor([[1.9, 1.9], [1.0, 1.0]])
    assert_close(agent.network(torch.arange(2)), expected, dtype=torch.float16)


def test_a_chain_is_solved() -> None:
    agent = table(epsilon_steps=400, epsilon_end=0.2)
    run(agent, start(agent, make_vector([ChainEnv] * 4, AutoresetMode.SAME_STEP)), 1500)
    q = agent.network(torch.arange(5))[:4].detach()
    assert agent.act(torch.arange(4), explore=False).tolist() == [1, 1, 1, 1]
    torch.testing.assert_close(q[:, 1], 0.9 ** torch.arange(3.0, -1.0, -1.0), rtol=0, atol=0.03)


def test_one_coin_per_environment() -> None:
    agent = table(epsilon_start=0.5).build(EnvSpec(Discrete(2), Discrete(2), num_envs=4000), seed=1)
    observation = torch.zeros(4000, dtype=torch.int64)
    greedy = agent.act(observation, explore=False)
    assert (greedy == greedy[0]).all()
    drawn = [agent.act(observation) != greedy for _ in range(2)]
    for different in drawn:
        assert float(different.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float((drawn[0] & drawn[1]).float().mean()) == pytest.approx(0.0625, abs=0.02)


@pytest.mark.parametrize("noisy", [False, True])
def test_greedy_actions_draw_no_random_number(noisy: bool) -> None:
    agent = DQN(epsilon_start=1.0, noisy=noisy).build(TWO_STATES)

    def state() -> str:
        return f"{agent.generator.get_state().tolist()}, {agent.random_actions.state_dict()}"

    before = state()
    agent.act(torch.zeros(1, dtype=torch.int64), explore=False)
    assert state() == before
    agent.act(torch.zeros(1, dtype=torch.int64))
    assert state() != before


@pytest.mark.parametrize("num_envs", [1, 3, 8])
@pytest.mark.parametrize(("ratio", "starts"), [(0.25, 10), (1.5, 0), (0.1, 7)])
@pytest.mark.parametrize("mode", MODES[:2])
def test_number_of_updates(num_envs: int, ratio: float, starts: int, mode: AutoresetMode) -> None:
    agent = table(replay_ratio=ratio, learning_starts=starts, batch_size=2)
    envs = start(agent, make_vector([CountingEnv] * num_envs, mode))
    total = 0
    for _ in range(15):
        agent.observe(envs.step(agent.act(envs.observation)))
        total += len(agent.update())
        assert total == agent.updates == max(math.floor((envs.steps - starts) * ratio), 0)
        assert agent.update() == []
    assert agent.steps == envs.steps
    assert total == agent.count_updates(envs.steps, num_envs)
    assert agent.status()["updates"] == total


def two_networks(loss: ValueLoss, **changes: Any) -> DQN:
    """Online values [[1, 2], [5, 4]], target values [[0, 0], [10, 20]]."""
    agent = table(loss=loss, discount=0.5, **changes).build(TWO_STATES)
    tables = ([[1.0, 2.0], [5.0, 4.0]], [[0.0, 0.0], [10.0, 20.0]])
    for network, values in zip((agent.network, agent.target_network), tables, strict=True):
        network.advantage.weight.data.copy_(torch.tensor(values).T)
        network.advantage.bias.data.zero_()
    return agent


def batch(mask: Tensor | None = None) -> Batch:
    return Batch(
        torch.tensor([0, 1]), torch.tensor([1, 0]), torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.0]),
        torch.tensor([1, 0]), mask,
    )  # fmt: skip


@pytest.mark.parametrize(("double", "target"), [(False, 11.0), (True, 6.0)])
def test_the_loss_by_hand(double: bool, target: float) -> None:
    agent = two_networks(TDLoss(MSELoss(), double=double))
    loss, metrics = agent.compute_loss(batch())
    errors = torch.tensor([target - 2.0, -1.0 - 5.0])
    assert_close(loss, errors.square().mean())
    assert (*metrics, "grad_norm") == agent.metric_names
    assert_close(metrics["loss"], loss)
    assert_close(metrics["q_value"], torch.tensor(3.0))
    assert_close(metrics["td_error"], errors.abs().mean())
    masked, metrics = agent.compute_loss(batch(torch.tensor([True, False])))
    assert_close(masked, errors[0].square())
    assert_close(metrics["q_value"], torch.tensor(1.5))
    assert_close(metrics["td_error"], errors[0].abs())
    (gradient,) = torch.autograd.grad(loss, [agent.network.advantage.weight])
    assert_close(gradient, torch.tensor([[0.0, -errors[1]], [-errors[0], 0.0]]))  # [action, state]


@pytest.mark.parametrize("options", [{"loss": TDLoss(double=True)}, {"loss": ThreeHeads()}, RAINBOW])
def test_the_loss_changes_nothing(options: dict[str, Any]) -> None:
    agent = DQN(**{"dueling": True, **SMALL, **options})
    run(agent, start(agent, counting(AutoresetMode.NEXT_STEP)), 40)
    assert agent.replay is not None
    drawn = agent.replay.gather(agent.replay.draw(8, agent.n_step, agent.generator), 0.9)
    before, rows = pickled(agent.state_dict()), agent.replay.rows.clone()
    first, _ = agent.compute_loss(drawn)
    again, _ = agent.compute_loss(drawn)
    assert torch.equal(first, again)
    assert_same(before, pickled(agent.state_dict()))
    assert torch.equal(rows, agent.replay.rows)
    assert all(p.grad is None for p in agent.target_network.parameters())
    assert first.requires_grad


@pytest.mark.parametrize("rate", [1.0, 0.25])
def test_the_target_network_follows(rate: float) -> None:
    agent = table(target_update_every=3, target_update_rate=rate, replay_ratio=1.0, learning_starts=0)
    envs = start(agent, make_vector([CountingEnv], AutoresetMode.SAME_STEP))
    expected = [p.detach().clone() for p in agent.target_network.parameters()]
    moved = 0
    for _ in range(9):
        run(agent, envs, envs.steps + 1)
        if agent.updates % 3 == 0:
            online = [p.detach().clone() for p in agent.network.parameters()]
            assert not any(torch.equal(e, o) for e, o in zip(expected, online, strict=True))
            expected = [(1 - rate) * e + rate * o for e, o in zip(expected, online, strict=True)]
            moved += 1
        for p, e in zip(agent.target_network.parameters(), expected, strict=True):
            assert_close(p, e)
    assert moved == 3


def test_epsilon_counts_environment_steps() -> None:
    agent = DQN(epsilon_start=0.9, epsilon_end=0.1, epsilon_steps=20, learning_starts=1000)
    envs = start(agent, make_vector([partial(CountingEnv, (2,))] * 4, AutoresetMode.NEXT_STEP))
    assert agent.epsilon == 0.9
    for steps in (4, 8, 8, 12, 16, 16, 20, 24):  # every third step only resets
        agent.observe(envs.step(agent.act(envs.observation)))
        assert agent.steps == steps
        assert agent.status()["epsilon"] == pytest.approx(0.9 - 0.8 * min(steps, 20) / 20)


def pickled(state: Any) -> Any:
    """Through a file, as a checkpoint goes."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("until", mostly_slow([0, 4, 50, 90], keep=[4, 90]))
@pytest.mark.parametrize("options", [{"n_step": 3, "dueling": True}, {"loss": ThreeHeads()}, RAINBOW])
def test_a_restored_state_goes_on_bitwise(mode: AutoresetMode, until: int, options: dict[str, Any]) -> None:
    agent, other = DQN(**SMALL, **options), DQN(**SMALL, **options)
    envs, others = start(agent, counting(mode)), start(other, counting(mode), seed=9)
    run(agent, envs, until)
    run(other, others, 20)
    other.load_state_dict(pickled(agent.state_dict()))
    others.load_state_dict(envs.state_dict(), seed=0)
    a, b = run(agent, envs, until + 30), run(other, others, until + 30)
    assert len(a) > 5
    assert_same(a, b)
    assert_same(pickled(agent.state_dict()), pickled(other.state_dict()))


@pytest.mark.parametrize("loss", VALUE_LOSSES, ids=lambda loss: type(loss).__name__)
def test_every_loss_goes_on_bitwise(loss: ValueLoss) -> None:
    test_a_restored_state_goes_on_bitwise(AutoresetMode.NEXT_STEP, 50, {"loss": loss, "priority_exponent": 0.6})


def test_a_seed_repeats_a_run() -> None:
    runs = []
    for seed in (3, 3, 4):
        torch.rand(1)  # nothing depends on the global generator, nor touches it
        before = torch.get_rng_state()
        agent = DQN(**SMALL)
        runs.append(run(agent, start(agent, counting(AutoresetMode.SAME_STEP), seed=seed), 40))
        assert torch.equal(torch.get_rng_state(), before)
    assert_same(runs[0], runs[1])
    assert not torch.equal(torch.stack(runs[0]), torch.stack(runs[2]))


def test_no_priority_exponent_is_uniform_replay() -> None:
    """To the last bit, whatever the other arguments are."""
    runs = []
    for options in ({}, {"priority_exponent": 0.0, "importance_exponent_start": 0.1, "importance_steps": 3}):
        agent = DQN(**SMALL, **options)  # type: ignore[arg-type]
        runs.append(run(agent, start(agent, counting(AutoresetMode.SAME_STEP)), 40))
        assert type(agent.replay) is Replay
        drawn = agent.replay.draw(8, 1, torch.Generator().manual_seed(1))
        size = agent.replay.size * 3
        assert torch.equal(drawn[0], torch.randint(size, (8,), generator=torch.Generator().manual_seed(1)))
    assert_same(runs[0], runs[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loss", [TDLoss(), TDLoss(MSELoss(), double=True), ThreeHeads()])
def test_a_prioritized_step_by_hand(mode: AutoresetMode, loss: ValueLoss) -> None:
    """The step weighs what was drawn, and the errors before it become the priorities."""
    agent = DQN(loss=loss, n_step=3, priority_exponent=0.6, importance_steps=80, **SMALL | {"replay_ratio": 0.1})
    envs = start(agent, counting(mode))
    for _ in range(25):
        run(agent, envs, envs.steps + 1)
        replay = agent.replay
        if replay is None or not replay.can_sample(3):
            continue
        assert isinstance(replay, PrioritizedReplay)
        before, largest = agent.generator.get_state(), replay.max_priority.clone()
        index = replay.draw(8, 3, agent.generator)
        agent.generator.set_state(before)
        batch = replay.gather(index, agent.discount)
        assert batch.mask is None or batch.mask.all()
        priority = replay.tree.read(index[0])
        beta = 0.4 + 0.6 * min(agent.steps / 80, 1.0)
        weight = (priority / replay.tree.levels[-1].sum() * 1000.0) ** -beta
        weight = (weight / weight.max()).float()
        with torch.no_grad():
            next_outputs = agent.target_network(batch.next_observation)
            expected, error = agent.loss(
                agent.network(batch.observation), batch.action, batch.reward, batch.discount, next_outputs,
                selector_outputs=agent.network(batch.next_observation), weight=weight,
            )  # fmt: skip
        row = agent._gradient_step(replay, look=True)
        assert_close(row[0], expected)
        assert_close(row[2], error.abs().mean())
        new = (error.double().abs() + 1e-6) ** 0.6
        torch.testing.assert_close(replay.tree.read(index[0]), new, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(replay.max_priority, torch.maximum(largest, new.max()), rtol=1e-4, atol=1e-6)
    assert agent.updates > 20


def test_the_importance_exponent_counts_environment_steps() -> None:
    agent = DQN(priority_exponent=0.5, importance_exponent_start=0.2, importance_exponent_end=0.8, importance_steps=20)
    envs = start(agent, make_vector([CountingEnv] * 4, AutoresetMode.SAME_STEP))
    for steps in (0, 4, 8, 12, 16, 20, 24):
        assert agent.importance_exponent == pytest.approx(0.2 + 0.6 * min(steps, 20) / 20)
        agent.observe(envs.step(agent.act(envs.observation)))


def test_one_noise_for_all_environments_and_a_new_one_for_each_step() -> None:
    spec = EnvSpec(Discrete(2), Discrete(30), num_envs=50)
    agent = DQN(noisy=True, dueling=True, epsilon_start=0.0, epsilon_end=0.0).build(spec)
    observation = torch.zeros(50, dtype=torch.int64)
    actions = torch.stack([agent.act(observation) for _ in range(20)])
    assert (actions == actions[:, :1]).all()
    assert len(set(actions[:, 0].tolist())) > 3
    again = DQN(noisy=True, dueling=True, epsilon_start=0.0, epsilon_end=0.0).build(spec)
    assert torch.equal(torch.stack([again.act(observation) for _ in range(20)]), actions)
    state = torch.arange(2)
    greedy = agent.act(state, explore=False)
    assert torch.equal(greedy, agent.network(state).argmax(-1))
    assert not list(agent.network.buffers()), "a model file holds weights, and no noise"


def test_epsilon_is_left_to_a_noisy_agent() -> None:
    agent = DQN(noisy=True, epsilon_start=1.0).build(EnvSpec(Discrete(2), Discrete(2), num_envs=1000))
    actions = agent.act(torch.zeros(1000, dtype=torch.int64))
    assert float(actions.float().mean()) == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("loss", [TDLoss(MSELoss(), double=True), ThreeHeads()])
def test_each_network_has_a_noise_of_its_own(loss: ValueLoss) -> None:
    agent = DQN(loss=loss, noisy=True, dueling=True, hidden_sizes=[8]).build(TWO_STATES, seed=1)
    for parameter in agent.target_network.parameters():
        parameter.add_(0.1)
    for name, parameter in agent.network.named_parameters():
        if name.endswith("scale"):
            parameter.data.mul_(10.0)  # enough noise to change a choice
    noise = draw_noise(3, agent.network.noise_size, agent.generator)
    drawn = batch()
    outputs = agent.network(drawn.observation, noise[0])
    expected, _ = loss(
        outputs, drawn.action, drawn.reward, drawn.discount, agent.target_network(drawn.next_observation, noise[1]),
        selector_outputs=agent.network(drawn.next_observation, noise[2]),
    )  # fmt: skip
    actual, metrics = agent.compute_loss(drawn, noise)
    assert_close(actual, expected)
    assert_close(metrics["q_value"], loss.q_values(outputs).mean())
    for which in range(2 + loss.double):  # each of them counts
        losses = []
        for _ in range(20):
            changed = noise.clone()
            changed[which] = draw_noise(1, agent.network.noise_size, agent.generator)[0]
            losses.append(agent.compute_loss(drawn, changed)[0])
        assert not torch.allclose(torch.stack(losses), actual)


class Scaled(DQN):
    """An agent of somebody else's, with a number of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scale = 1.0

    def compute_loss(self, *args: Any) -> Any:
        loss, metrics = super().compute_loss(*args)
        return self.scale * loss, metrics


class Remembering(Scaled):
    """One that computes with what it remembers."""

    def compute_loss(self, *args: Any) -> Any:
        self.scale += 0.5
        loss, metrics = super().compute_loss(*args)
        self.last = loss.detach()
        return loss, metrics


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("kind", [Scaled, Remembering])
def test_an_agent_with_attributes_of_its_own(kind: type[Scaled]) -> None:
    results = []
    for compiled in (False, True):
        agent = kind(**SMALL)
        envs = start(agent, counting(AutoresetMode.NEXT_STEP), compiled=compiled)
        warned = pytest.warns(UserWarning, match="what it computes with changes as it computes")
        with warned if compiled and kind is Remembering else nullcontext():
            rows = run(agent, envs, 30)
        agent.scale += 7.0
        rows += run(agent, envs, 30)
        results.append((torch.stack(rows), agent.scale))
        assert agent.learner.is_one_graph == (compiled and kind is Scaled)
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-3, atol=1e-5)
    assert results[0][1] == results[1][1]


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize(
    "options",
    [
        {}, {"priority_exponent": 0.6}, {"noisy": True}, RAINBOW,
        *(
            pytest.param(
                {"loss": loss, "n_step": 2}, id=type(loss).__name__,
                marks=[] if isinstance(loss, rlloss.CategoricalTDLoss | rlloss.SarsaLoss) else pytest.mark.slow,
            )
            for loss in VALUE_LOSSES
        ),
    ],
)  # fmt: skip
def test_the_compiled_step_is_the_eager_one(options: dict[str, Any]) -> None:
    results = []
    for compiled in (False, True):
        agent = DQN(**SMALL, **options)
        rows = run(agent, start(agent, counting(AutoresetMode.NEXT_STEP), compiled=compiled), 50)
        assert len(rows) > 15
        results.append((torch.stack(rows), agent))
    (eager, agent), (graph, other) = results
    assert other.learner.is_one_graph and graphs_of(other.learner) == graphs_of(other.choice) == 1
    torch.testing.assert_close(graph, eager, rtol=1e-3, atol=1e-5)
    for p, q in zip(agent.network.parameters(), other.network.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
    if isinstance(agent.replay, PrioritizedReplay):
        assert isinstance(other.replay, PrioritizedReplay)
        torch.testing.assert_close(agent.replay.tree.levels, other.replay.tree.levels, rtol=1e-2, atol=1e-4)


def test_cut_before_anything_was_observed_and_after() -> None:
    agent = DQN(**SMALL)
    envs = start(agent, counting(AutoresetMode.SAME_STEP))
    agent.cut()
    assert agent.replay is None
    run(agent, envs, 3)
    agent.cut()
    assert agent.replay is not None
    assert agent.replay.layout.read(agent.replay.rows[0], "truncated").all()


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("discount", 1.5), ("learning_rate", 0.0), ("replay_ratio", 0.0), ("n_step", 0), ("batch_size", 0),
        ("replay_capacity", 10), ("learning_starts", -1), ("epsilon_steps", -1), ("target_update_every", 0),
        ("target_update_rate", 0.0), ("target_update_rate", 1.1), ("epsilon_start", 1.1), ("epsilon_end", -0.1),
        ("hidden_sizes", [8, 0]), ("max_grad_norm", 0.0), ("optimizer", "Nothing"), ("optimizer_args", {"x": 1}),
        ("priority_exponent", -0.1), ("importance_exponent_start", 1.1), ("importance_exponent_end", -0.1),
        ("importance_steps", 0.5), ("batch_size", 64.5), ("hidden_sizes", [32.5]), ("activation", "gelu"),
        ("loss", MSELoss()),
    ],
)  # fmt: skip
def test_arguments_out_of_range(argument: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=rf"^DQN.*{argument.removesuffix('_args')}"):
        DQN(**{argument: value})


def test_what_cannot_be_built_or_restored() -> None:
    with pytest.raises(ValueError, match="DQN: needs a Discrete action space"):
        DQN().build(EnvSpec(Discrete(2), Box((1,), torch.float32), num_envs=1))
    short = DQN(n_step=3, batch_size=4, replay_capacity=8)
    short.build(EnvSpec(Discrete(2), Discrete(2), num_envs=3))
    with pytest.raises(ValueError, match=r"replay_capacity must hold 3 steps of each environment.* 8"):
        short.build(EnvSpec(Discrete(2), Discrete(2), num_envs=4))  # two steps each: nothing could ever be drawn
    agent = DQN(**SMALL)
    run(agent, start(agent, counting(AutoresetMode.SAME_STEP)), 60)
    smaller = DQN(**SMALL | {"replay_capacity": 30}).build(agent.spec)
    with pytest.raises(ValueError, match="Replay: stored rows"):
        smaller.load_state_dict(agent.state_dict())
