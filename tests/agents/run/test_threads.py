"""Threads: a run's own number, by what is measured where it is asked for."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from threadpoolctl import threadpool_info
from torch import Tensor

from agents import A2C, DQN, Agent, resume
from agents.parts import processes
from agents.parts.envs import Envs, make_vec
from agents.parts.transition import Transitions
from agents.run import threads, training
from agents.run.threads import measure_threads
from rlloss import AllActionPolicyGradientLoss
from tests.agents.run.probes import a2c, dqn, model_bytes
from tests.agents.run.test_training import run


def threads_now() -> tuple[int, ...]:
    """Of torch, and of each library of matrix products."""
    return torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, ...]]:
    """What a run has where it observes a step."""
    observe, seen = DQN.observe, set()

    def spy(self: DQN, transitions: Transitions) -> None:
        seen.add(threads_now())
        observe(self, transitions)

    monkeypatch.setattr(DQN, "observe", spy)
    return seen


def test_threads_are_those_of_the_run_and_then_the_caller_s(tmp_path: Path, seen: set[tuple[int, ...]]) -> None:
    before = threads_now()
    expected = 2, *[1] * (len(before) - 1)  # numpy's would wait for torch's
    assert len(before) > 1
    left = run(dqn(), tmp_path, steps=30, threads=2)
    assert (seen, threads_now()) == ({expected}, before)
    seen.clear()
    resume(left, steps=60, progress=False)
    assert (seen, threads_now()) == ({expected}, before)
    with pytest.raises(ValueError, match="NoSuchEnv"):
        run(dqn(), tmp_path, "NoSuchEnv-v0", threads=2)
    assert threads_now() == before


def test_a_measured_number_is_the_run_s(
    tmp_path: Path, seen: set[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = threads_now()
    monkeypatch.setattr(training, "measure_threads", lambda agent: 2 if agent.batch_rows else 1)
    left = run(dqn(), tmp_path, steps=30, threads="auto")
    assert {torch_s for torch_s, *_ in seen} == {2} and threads_now() == before
    assert ", 2 threads, " in capsys.readouterr().err
    assert yaml.safe_load((left / "config.yaml").read_text())["threads"] == 2
    # The number found is as good as given, weights included, and these are the same with one.
    agent = a2c(hidden_sizes=[64, 64])
    by_measure, given, one = (run(agent, tmp_path, steps=3, threads=number) for number in ("auto", 2, 1))
    assert model_bytes(by_measure) == model_bytes(given) == model_bytes(one)
    seen.clear()
    capsys.readouterr()
    monkeypatch.setattr(training, "measure_threads", lambda agent: 1)
    resume(left, steps=60, progress=False)
    assert ", 2 threads, " in capsys.readouterr().err, "it is not measured anew"
    assert {torch_s for torch_s, *_ in seen} == {2}


@pytest.mark.parametrize(
    ("seconds", "cores", "processes", "expected"),
    [
        ({1: 8.0, 2: 4.1, 4: 2.4, 8: 2.0}, 8, 1, 4),
        ({1: 8.0, 2: 4.1, 4: 2.4, 8: 1.3}, 8, 1, 8),
        ({1: 8.0, 2: 4.1, 4: 2.4}, 7, 1, 4),
        ({1: 8.0, 2: 4.1}, 8, 3, 2),
        ({1: 8.0, 2: 6.5}, 8, 1, 1),
        ({1: 8.0, 2: 16.0}, 2, 1, 1),
        ({1: 8.0}, 1, 1, 1),
    ],
)
def test_more_threads_must_earn_it(
    seconds: dict[int, float], cores: int, processes: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_cores", lambda: cores)
    monkeypatch.setattr(threads, "_seconds_of_a_gradient", lambda agent, number: seconds[number])
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    envs = Envs(make_vec("CartPole-v1", 1))
    agent = dqn().build(envs.spec)
    assert measure_threads(agent) == expected
    monkeypatch.setattr(threads, "largest_of_processes", lambda number: max(number, -1))  # another one that takes 1
    assert measure_threads(agent) == 1, "the smallest number of all"
    monkeypatch.undo()
    agent.device = torch.device("cuda")
    assert measure_threads(agent) == 1, "which threads of the CPU make no faster"


AGENTS: dict[str, tuple[Agent, str, int]] = {
    "dqn": (DQN(batch_size=24, dueling=True, noisy=True), "CartPole-v1", 12),
    "dqn of numbers": (DQN(batch_size=24), "FrozenLake-v1", 12),
    "a2c": (A2C(rollout_length=4), "CartPole-v1", 12),
    "a2c, minibatches": (A2C(rollout_length=4, minibatches=5, shared_trunk=True), "Pendulum-v1", 3),
    "a2c, action values": (A2C(policy_loss=AllActionPolicyGradientLoss()), "CartPole-v1", 15),
    "a2c, normalized": (A2C(normalize_observations=True, normalize_rewards=True), "CartPole-v1", 15),
}


@pytest.mark.parametrize("name", AGENTS)
def test_to_measure_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the gradient of all networks, of as many rows as a gradient step of one process has."""
    agent, env, rows = AGENTS[name]
    with monkeypatch.context() as patch:
        patch.setattr(processes, "process_count", lambda: 2)
        agent.build(Envs(make_vec(env, 3)).spec)
    reached = set()
    for parameter_name, parameter in agent.model.named_parameters():
        parameter.register_hook(lambda _, name=parameter_name: reached.add(name))  # type: ignore[no-untyped-call]
    seen: set[tuple[int, int]] = set()

    def spy(module: Any, arguments: tuple[Tensor, ...]) -> None:
        seen.add((len(arguments[0]), torch.get_num_threads()))

    agent.model.register_forward_pre_hook(spy)
    monkeypatch.setattr(threads, "_WORTH_TWICE_THE_THREADS", 0.0)
    monkeypatch.setattr(threads, "_SECONDS_OF_MEASURING", 0.01)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    before, generator = copy.deepcopy(agent.model.state_dict()), agent.generator.get_state()
    random, number = torch.get_rng_state(), torch.get_num_threads()
    assert measure_threads(agent) == 2
    assert seen == {(rows, 1), (rows, 2)}
    assert torch.get_num_threads() == number
    assert torch.equal(agent.generator.get_state(), generator) and torch.equal(torch.get_rng_state(), random)
    for key, value in agent.model.state_dict().items():
        assert torch.equal(before[key], value)
    assert all(p.grad is None for p in agent.model.parameters())
    trained = {key for key, _ in agent.model.named_parameters() if "log_std" not in key and "_scale" not in key}
    assert reached >= trained
