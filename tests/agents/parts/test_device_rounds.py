"""Rounds on the device: the same numbers as the plain loop, whatever loss, optimiser, environment or interruption."""

from __future__ import annotations

import copy
import csv
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from agents import A2C, DQN, Agent, evaluate, resume, train
from agents.parts import device_rounds, graphs
from agents.parts.classic_control import CartPole
from agents.parts.device_envs import DeviceVectorEnv, Finished
from agents.parts.device_rounds import to_environment
from agents.parts.envs import Envs, make_vec
from agents.parts.spaces import Box, Discrete
from agents.run.evaluation import choose
from rlloss import (
    AllActionPolicyGradientLoss,
    ClippedSurrogateLoss,
    FocalLoss,
    HLGaussLoss,
    HuberLoss,
    MSELoss,
    MunchausenLoss,
    PolicyGradientLoss,
    TDLoss,
)
from tests.agents import cuda_graphs
from tests.agents.run.probes import RunningLoss, model_bytes, rows
from tests.conftest import mostly_slow

AGENTS: dict[str, tuple[Callable[[], A2C], str]] = {
    "plain": (lambda: A2C(optimizer_args={"eps": 1e-5}), "CartPole-v1"),
    "adam, shared": (lambda: A2C(optimizer="Adam", shared_trunk=True, max_grad_norm=None), "CartPole-v1"),
    "focal, huber": (
        lambda: A2C(policy_loss=PolicyGradientLoss(FocalLoss()), critic_loss=HuberLoss(), entropy_coefficient=0.01),
        "Acrobot-v1",
    ),
    "clipped, normalized": (
        lambda: A2C(policy_loss=ClippedSurrogateLoss(), normalize_advantages=True, optimizer="AdamW"), "MountainCar-v0",
    ),
    "schedule, sgd": (
        lambda: A2C(
            optimizer="SGD", optimizer_args={"momentum": 0.9}, learning_rate_end=0.0, learning_rate_steps=240
        ),
        "CartPole-v1",
    ),
    "schedule, nadam": (
        lambda: A2C(optimizer="NAdam", learning_rate_end=0.0, learning_rate_steps=240), "CartPole-v1",
    ),
    "all actions": (lambda: A2C(policy_loss=AllActionPolicyGradientLoss()), "CartPole-v1"),
    "hl-gauss, upgo": (
        lambda: A2C(critic_loss=HLGaussLoss(low=0.0, high=50.0, num_bins=11), advantage="upgo"), "CartPole-v1",
    ),
    "vtrace, kl": (lambda: A2C(advantage="vtrace", kl_coefficient=0.1, gae_lambda=0.9), "CartPole-v1"),
}  # fmt: skip


def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace and run the graphs as they are, which takes no compiler and a second instead of half a minute."""
    compile = torch.compile

    def traced(function: Any, *, options: Any = None, **rest: Any) -> Any:
        return compile(function, backend="aot_eager", **rest)

    monkeypatch.setattr(torch, "compile", traced)
    for module in (device_rounds, graphs):
        monkeypatch.setattr(module, "compile_graph", lambda graph, inputs, options: torch.no_grad()(graph))


def play_plain(agent: Agent, envs: Envs, steps: int) -> tuple[list[Tensor], list[tuple[int, float, int]]]:
    metrics, finished = [], []
    while envs.steps < steps:
        agent.observe(envs.step(choose(agent, envs, explore=True)))
        metrics += agent.update()
        finished += envs.finished
    return metrics, finished


def play_rounds(agent: Agent, envs: Envs, steps: int) -> tuple[list[Tensor], list[tuple[int, float, int]]]:
    metrics, finished = [], []
    while envs.steps < steps:
        assert isinstance(envs.env, DeviceVectorEnv)
        played = agent.play_on_device(envs.env, steps - envs.steps)
        assert played is not None
        envs.follow(played.finished)
        metrics += played.metrics
        finished += envs.finished
    return metrics, finished


def make_envs(name: str, num_envs: int = 4, **options: Any) -> Envs:
    envs = Envs(make_vec(f"rlloss/{name}", num_envs), **options)
    envs.reset(0)
    return envs


# Graphs that no compiler made faster take their time.
@pytest.mark.parametrize("name", mostly_slow(list(AGENTS), keep=["plain"]))
def test_the_same_numbers_as_the_plain_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers, actions, episodes and gradient steps are those of agent and environments without a compiler."""
    without_compiler(monkeypatch)
    make_agent, env = AGENTS[name]
    plain_envs, envs = make_envs(env), make_envs(env)
    plain, agent = make_agent().build(plain_envs.spec), make_agent().build(envs.spec, compiled=True)
    metrics, finished = play_plain(plain, plain_envs, 240)
    own_metrics, own_finished = play_rounds(agent, envs, 240)
    assert envs.steps == plain_envs.steps == agent.steps == 240
    assert len(own_metrics) == len(metrics) == agent.updates == 12
    assert own_finished == finished
    assert finished or env != "CartPole-v1"
    torch.testing.assert_close(torch.stack(own_metrics), torch.stack(metrics), rtol=2e-3, atol=2e-4)
    for p, q in zip(agent.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=2e-3, atol=2e-4)
    torch.testing.assert_close(envs.observation, plain_envs.observation, rtol=1e-4, atol=1e-4)
    for one, two in zip(envs.running(0), plain_envs.running(0), strict=True):
        assert one == pytest.approx(two, rel=1e-6)


DQNS: dict[str, tuple[dict[str, Any], int]] = {
    "one update a step": ({}, 4),
    "copies": (
        {
            "target_update_every": 3, "target_update_rate": 1.0, "replay_ratio": 0.3,
            "loss": TDLoss(HuberLoss(), double=True),
        },
        3,
    ),
    "rounds of updates": (
        {"update_every": 16, "replay_ratio": 0.25, "dueling": True, "loss": MunchausenLoss(), "replay_capacity": 90}, 4,
    ),
}  # fmt: skip


def make_small_dqn(name: str) -> DQN:
    arguments: dict[str, Any] = {
        "batch_size": 16, "hidden_sizes": [32, 32], "learning_starts": 20, "replay_ratio": 0.25, "epsilon_steps": 150,
        "replay_capacity": 500, "target_update_every": 1, "target_update_rate": 0.1,
    }  # fmt: skip
    return DQN(**arguments | DQNS[name][0])


@pytest.mark.parametrize("name", mostly_slow(list(DQNS), keep=["copies"]))
def test_dqn_has_the_same_numbers_as_the_plain_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among them the transitions that are drawn, of which some are of the very call and some overwritten in it."""
    without_compiler(monkeypatch)
    num_envs = DQNS[name][1]
    plain_envs, envs = make_envs("CartPole-v1", num_envs), make_envs("CartPole-v1", num_envs)
    plain, agent = make_small_dqn(name).build(plain_envs.spec), make_small_dqn(name).build(envs.spec, compiled=True)
    metrics, finished = play_plain(plain, plain_envs, 216)
    monkeypatch.setattr(agent.learner, "step", None)  # a graph of its own for the few gradient steps before the rounds
    own_metrics: list[Tensor] = []
    own_finished: list[tuple[int, float, int]] = []
    rounds = 0
    while envs.steps < 216:
        assert isinstance(envs.env, DeviceVectorEnv)
        played = agent.play_on_device(envs.env, 216 - envs.steps)
        if played is None:
            more, ended = play_plain(agent, envs, envs.steps + 1)
        else:
            envs.follow(played.finished)
            more, ended, rounds = played.metrics, envs.finished, rounds + 1
        own_metrics, own_finished = own_metrics + more, own_finished + ended
    assert rounds >= 1 and agent.steps == plain.steps and agent.updates == plain.updates == len(metrics)
    assert own_finished == finished and len(finished) > 3
    torch.testing.assert_close(torch.stack(own_metrics), torch.stack(metrics), rtol=2e-3, atol=2e-4)
    for p, q in zip(agent.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=2e-3, atol=2e-4)
    torch.testing.assert_close(agent.target_parameters, plain.target_parameters, rtol=2e-3, atol=2e-4)
    assert agent.replay is not None and plain.replay is not None
    assert (agent.replay.head, agent.replay.size) == (plain.replay.head, plain.replay.size)
    for field in agent.layout.fields:
        one, two = (each.layout.read(each.replay.rows, field) for each in (agent, plain))  # type: ignore[union-attr]
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    assert torch.equal(agent.generator.get_state(), plain.generator.get_state())
    agent.load_state_dict(copy.deepcopy(agent.state_dict()))
    head = agent.replay.head
    play_rounds(agent, envs, 240)
    assert agent.replay.head == (head + 24 // num_envs) % agent.replay.length, "learns from a replay that is gone"


def play_by_turns(agent: Agent, envs: Envs) -> tuple[list[Tensor], list[Finished]]:
    """On the device, some 30 steps a call, then not, then again, and from an earlier state."""
    metrics, finished, earlier = [], [], copy.deepcopy(agent.state_dict())
    for until in (120, 260, 360):
        while envs.steps < until:
            assert isinstance(envs.env, DeviceVectorEnv)
            played = agent.play_on_device(envs.env, min(30, until - envs.steps))
            if played is None:  # before DQN's first gradient step
                metrics += play_plain(agent, envs, envs.steps + 1)[0]
            else:
                envs.follow(played.finished)
                metrics += played.metrics
                finished.append(played.finished)
        if until == 120:
            earlier = copy.deepcopy(agent.state_dict())
            metrics += play_plain(agent, envs, 160)[0]
        elif until == 260:
            agent.load_state_dict(earlier)
    return metrics, finished


ON_GPU: dict[str, tuple[Callable[[], Agent], str, int]] = {
    **{f"A2C, {name}": (make, env, 4) for name, (make, env) in AGENTS.items()},
    **{f"DQN, {name}": (partial(make_small_dqn, name), "CartPole-v1", n) for name, (_, n) in DQNS.items()},
}


@pytest.mark.parametrize("name", mostly_slow(list(ON_GPU), keep=["A2C, schedule, sgd", "DQN, copies"]))
def test_a_gpu_s_way_has_the_same_numbers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several calls, between which others change parameters, optimiser and episodes."""
    without_compiler(monkeypatch)
    make_agent, env, num_envs = ON_GPU[name]
    recorded: list[Any] = []

    def spy(*arguments: Any) -> Any:
        recorded.append(graphs.replayed(*arguments))
        return recorded[-1]

    monkeypatch.setattr(device_rounds, "replayed", spy)
    results = []
    for on_gpu in (False, True):
        if on_gpu:
            cuda_graphs.pretend(monkeypatch)
        envs = make_envs(env, num_envs)
        agent = make_agent().build(envs.spec, compiled=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # that it goes on without
            metrics, finished = play_by_turns(agent, envs)
        assert len(finished) > 3
        results.append([torch.stack(metrics), *finished, *agent.model.parameters()])
    # DQN's rounds are made anew with the replay of an earlier state.
    assert [x._graph.replays > 5 for x in recorded] == [True] * (4 if isinstance(agent, DQN) else 1)
    torch.testing.assert_close(results[1], results[0], rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", ["dqn", "a2c", "a2c in place"])
def test_a_loss_with_a_state_of_its_own_goes_on_without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the graph it would be what it was when the graph was made."""
    without_compiler(monkeypatch)
    plain_envs, envs = make_envs("CartPole-v1"), make_envs("CartPole-v1")
    plain, agent = (
        make_dqn(loss=TDLoss(RunningLoss()))
        if name == "dqn"
        else A2C(critic_loss=RunningLoss(in_place="in place" in name))
        for _ in range(2)
    )
    plain.build(plain_envs.spec)
    agent.build(envs.spec, compiled=True)
    metrics, _ = play_plain(plain, plain_envs, 200)
    own_metrics: list[Tensor] = []
    with pytest.warns(UserWarning, match=r"goes on without: \w+Loss keeps a state of its own, scale"):
        while envs.steps < 200:
            assert isinstance(envs.env, DeviceVectorEnv)
            played = agent.play_on_device(envs.env, 200 - envs.steps)
            if played is None:
                own_metrics += play_plain(agent, envs, envs.steps + 1)[0]
            else:
                envs.follow(played.finished)
                own_metrics += played.metrics
    torch.testing.assert_close(torch.stack(own_metrics), torch.stack(metrics), rtol=2e-3, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("squash", [False, True])
def test_a_box_of_actions(squash: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaussian noise is drawn for a round at once, which is another stream than step by step; so by its results."""
    without_compiler(monkeypatch)
    envs = make_envs("Pendulum-v1", squash=squash)
    agent = A2C(squash=squash, log_std_init=1.0).build(envs.spec, compiled=True)
    metrics, finished = play_rounds(agent, envs, 820)
    assert len(metrics) == 41 and torch.stack(metrics).isfinite().all()
    assert [length for _, _, length in finished] == [200] * 4
    assert all(-3_300 < episode_return < -50 for _, episode_return, _ in finished)


def test_actions_as_the_environments_take_them() -> None:
    action = torch.tensor([[-9.0], [0.5], [9.0]])
    box = Box((1,), torch.float32, (-2.0,), (2.0,))
    assert to_environment(action, box, (1,)).tolist() == [[-2.0], [0.5], [2.0]]
    squashed = Box((1,), torch.float32, (-2.0,), (4.0,), squashed=True)
    expected = 1.0 + 3.0 * action.tanh()
    torch.testing.assert_close(to_environment(action, squashed, (1,)), expected)
    choices = torch.tensor([0, 1])
    assert to_environment(choices, Discrete(2), ()) is choices


@pytest.mark.parametrize(
    "agent",
    [
        A2C(epochs=2), A2C(minibatches=2), A2C(normalize_observations=True), A2C(normalize_rewards=True),
        A2C(optimizer="Adafactor"), A2C(optimizer_args={"fused": True}, optimizer="Adam"),
    ],
    ids=["epochs", "minibatches", "observations", "rewards", "adafactor", "fused"],
)  # fmt: skip
def test_what_falls_back(agent: A2C) -> None:
    envs = make_envs("CartPole-v1")
    agent.build(envs.spec, compiled=True)
    assert isinstance(envs.env, DeviceVectorEnv)
    before = envs.env.generator.get_state()
    assert agent.play_on_device(envs.env, 100) is None
    assert torch.equal(envs.env.generator.get_state(), before)
    assert A2C().build(envs.spec, compiled=False).play_on_device(envs.env, 100) is None


class ReadsBack(MSELoss):
    """A loss that no graph can hold."""

    def forward(self, *arguments: Any, **options: Any) -> Tensor:
        loss = super().forward(*arguments, **options)
        return loss * 2.0 if float(loss.sum()) > 1e9 else loss


def test_what_cannot_be_compiled_goes_on_without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_compiler(monkeypatch)
    with pytest.warns(UserWarning, match="cannot be compiled, goes on without"):
        run = run_of(A2C(critic_loss=ReadsBack()), tmp_path)
    assert len(rows(run)) == 4 and all(row["loss"] for row in rows(run))


@torch.library.custom_op("rlloss_test::same", mutates_args=())
def same(x: Tensor) -> Tensor:
    return x.clone()


@same.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@pytest.mark.parametrize("agent", [A2C(), DQN(batch_size=16, learning_starts=16)], ids=["A2C", "DQN"])
@pytest.mark.parametrize("own", [False, True], ids=["torch's", "own"])
def test_sizes_are_checked_where_an_operator_is_not_torch_s(
    agent: Agent, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe, checks = CartPole.observe, []
    monkeypatch.setattr(torch, "compile", lambda function, *, options, **_: checks.append(options["size_asserts"]))
    if own:
        monkeypatch.setattr(CartPole, "observe", lambda self, state: same(observe(self, state)))
    envs = make_envs("CartPole-v1")
    agent.build(envs.spec, compiled=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # None is no function
        while not checks:
            assert isinstance(envs.env, DeviceVectorEnv)
            played = agent.play_on_device(envs.env, 20)
            if played is None and not checks:
                play_plain(agent, envs, envs.steps + 20)
    assert checks == [own]


@pytest.mark.parametrize("make_agent", [A2C, lambda: make_dqn()], ids=["A2C", "DQN"])
def test_a_kernel_that_a_gpu_refuses_is_gone_without(
    make_agent: Callable[[], Agent], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is found out when it runs first, and not half-way through a round."""
    without_compiler(monkeypatch)
    off = run_of(make_agent(), tmp_path, compile="off")
    cuda_graphs.pretend(monkeypatch)

    def refuse(*tensors: Tensor) -> list[Tensor]:
        raise RuntimeError("out of resource: shared memory")

    monkeypatch.setattr(device_rounds, "compile_graph", lambda graph, inputs, options: refuse)
    with pytest.warns(UserWarning, match="rounds on the device cannot be compiled, goes on without: out of resource"):
        on = run_of(make_agent(), tmp_path)
    for one, two in zip(rows(on), rows(off), strict=True):
        assert float(one["loss"] or 0) == pytest.approx(float(two["loss"] or 0), rel=1e-3, abs=1e-4)


def run_of(agent: Agent, folder: Path, env: str = "rlloss/CartPole-v1", **changes: Any) -> Path:
    arguments: dict[str, Any] = {
        "num_envs": 4, "steps": 400, "log_every": 100, "eval_episodes": 1, "tensorboard": False, "progress": False,
        "run_dir": str(folder), "compile": "on",
    }  # fmt: skip
    return train(agent, env, **arguments | changes)


def make_dqn(**changes: Any) -> DQN:
    return DQN(
        batch_size=16, learning_starts=100, target_update_every=3, hidden_sizes=[16], epsilon_steps=300, **changes
    )  # fmt: skip


STOPPED = [
    pytest.param(AGENTS["schedule, sgd"][0], "rlloss/CartPole-v1", id="CartPole"),
    pytest.param(A2C, "rlloss/Pendulum-v1", id="Pendulum"),
    pytest.param(make_dqn, "rlloss/CartPole-v1", id="DQN"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("make_agent", "env"), STOPPED)
def test_stopping_changes_nothing(
    make_agent: Callable[[], Agent], env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resumed in the middle of a row, rounds come in other calls: the same to the last bit."""
    without_compiler(monkeypatch)
    whole = run_of(make_agent(), tmp_path, env)
    halved = run_of(make_agent(), tmp_path, env, steps=240)
    assert resume(halved, steps=400, progress=False) == halved
    assert rows(halved) == rows(whole) and len(rows(whole)) == 4
    assert model_bytes(halved) == model_bytes(whole)
    assert evaluate(whole, episodes=2).episodes == 2
    with (whole / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == [100, 200, 300, 400], "no call goes beyond the next row by a round or more"


@pytest.mark.slow
def test_compiled_or_not_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_compiler(monkeypatch)
    on, off = (run_of(A2C(), tmp_path, compile=choice) for choice in ("on", "off"))
    for one, two in zip(rows(on), rows(off), strict=True):
        assert one.keys() == two.keys()
        for name in one:
            assert (one[name] == two[name]) or float(one[name]) == pytest.approx(float(two[name]), rel=1e-3, abs=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_for_real() -> None:
    plain_envs, envs = make_envs("CartPole-v1"), make_envs("CartPole-v1")
    plain, agent = A2C().build(plain_envs.spec), A2C().build(envs.spec, compiled=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # that it goes on without
        own_metrics, own_finished = play_rounds(agent, envs, 600)
    metrics, finished = play_plain(plain, plain_envs, 600)
    assert own_finished == finished
    torch.testing.assert_close(torch.stack(own_metrics), torch.stack(metrics), rtol=2e-3, atol=2e-4)
