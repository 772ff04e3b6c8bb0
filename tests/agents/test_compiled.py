"""Gradient steps of both agents through torch's own compiler, which other tests leave out for the time it takes."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from agents import A2C, DQN, Agent
from agents.parts import graphs
from agents.parts.graphs import Compiled
from rlloss import ClippedSurrogateLoss, HLGaussLoss, HuberLoss, TDLoss
from tests.agents import cuda_graphs
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


SEVERAL: dict[str, Callable[[HuberLoss], DQN | A2C]] = {
    "DQN": lambda loss: DQN(
        batch_size=16, hidden_sizes=[16], learning_starts=16, replay_ratio=0.75, loss=TDLoss(loss), optimizer="SGD"
    ),
    "A2C": lambda loss: A2C(
        hidden_sizes=[16], critic_loss=loss, policy_loss=ClippedSurrogateLoss(), epochs=2, minibatches=2,
        rollout_length=4, optimizer="SGD",
    ),
}  # fmt: skip


@pytest.mark.usefixtures("by_torch")
@pytest.mark.filterwarnings("ignore:DQN. acting cannot be compiled")
@pytest.mark.parametrize("name", SEVERAL)
def test_steps_in_a_row_look_once_at_a_loss_and_see_its_changes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[Compiled] = []
    changed = Compiled.changed

    def counted(compiled: Compiled) -> bool:
        looks.append(compiled)
        return changed(compiled)

    parameters = []
    for compiled in (False, True):
        envs, loss = make_envs("CartPole-v1"), HuberLoss()
        agent = SEVERAL[name](loss).build(envs.spec, compiled=compiled)
        play_plain(agent, envs, 64)
        loss.delta = 0.01
        with monkeypatch.context() as patch:
            patch.setattr(Compiled, "changed", counted)
            metrics, _ = play_plain(agent, envs, 160)
        parameters.append(torch.cat([p.detach().flatten() for p in agent.model.parameters()]))
    assert_close(parameters[1], parameters[0], rtol=2e-3, atol=2e-4)
    updates = {"DQN": 96 // envs.spec.num_envs, "A2C": 96 // (4 * envs.spec.num_envs)}[name]
    assert len(metrics) > 2 * updates
    assert sum(compiled is agent.learner._compiled for compiled in looks) <= updates + 4  # a graph that is made looks


REPLAYED: dict[str, tuple[Callable[[], Agent], str]] = {
    "DQN": (AGENTS["DQN"], "CartPole-v1"),
    "DQN, noisy": (
        lambda: DQN(
            batch_size=16, hidden_sizes=[16], learning_starts=40, replay_ratio=0.3, noisy=True, dueling=True,
            target_update_every=1, target_update_rate=0.1, learning_rate_end=1e-4, learning_rate_steps=200,
            normalize_observations=True, optimizer="AdamW",
        ),
        "CartPole-v1",
    ),
    "A2C": (AGENTS["A2C"], "CartPole-v1"),
    "A2C, minibatches": (
        lambda: A2C(
            policy_loss=ClippedSurrogateLoss(), epochs=2, minibatches=2, rollout_length=4, hidden_sizes=[16],
            learning_rate_end=0.0, learning_rate_steps=400, normalize_advantages=True,
        ),
        "CartPole-v1",
    ),
    "A2C, normalized": (
        lambda: A2C(normalize_observations=True, normalize_rewards=True, hidden_sizes=[16], optimizer="SGD"),
        "Pendulum-v1",
    ),
    "A2C, overlap": (lambda: A2C(overlap=True, hidden_sizes=[16], shared_trunk=True), "CartPole-v1"),
}  # fmt: skip


@pytest.mark.usefixtures("by_torch")
@pytest.mark.parametrize("name", REPLAYED)
def test_cuda_graphs_change_no_number(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In ordinary loops acting is one and a gradient step another, which nothing reads back from."""
    make_agent, env = REPLAYED[name]
    made, results, checks = [], [], []
    compile_graph = graphs.compile_graph

    def spy(graph: Any, inputs: Any, options: dict[str, Any]) -> Any:
        checks.append(options["size_asserts"])
        return compile_graph(graph, inputs, options)

    monkeypatch.setattr(graphs, "compile_graph", spy)
    for on_gpu in (False, True):
        if on_gpu:
            made = cuda_graphs.pretend(monkeypatch)
        envs = make_envs(env)
        agent = make_agent().build(envs.spec, compiled=True)
        metrics, finished = play_plain(agent, envs, 240)
        agent.state_dict()  # which waits for what learns beside
        parameters = [p.detach().clone() for p in agent.model.parameters()]
        results.append((finished, len(metrics), [torch.stack(metrics), *parameters]))
    (*plain, numbers), (*own, own_numbers) = results
    assert own == plain and all(map(torch.equal, own_numbers, numbers))
    assert len(made) >= 2 and all(graph.replays for graph in made)
    assert not any(checks), "all operators are torch's own"
