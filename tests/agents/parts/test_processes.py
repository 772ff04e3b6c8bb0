"""Two processes that train one agent: the gradients of one with all environments, and runs that go on bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torch.testing import assert_close

from agents import A2C, DQN
from agents.parts import graphs
from agents.parts.processes import (
    from_first_process,
    largest_of_processes,
    own_share,
    wait_for_processes,
)
from agents.parts.spaces import Box, Discrete, EnvSpec
from agents.parts.transition import Transitions, pack
from rlloss import ClippedSurrogateLoss, MSELoss
from rlloss.core.distributed import process_count, process_rank, sum_over_processes
from tests.agents.run.probes import model_bytes, rows

PROCESSES = 2
ENVS, LENGTH = 6, 5


def test_one_process_needs_nobody() -> None:
    tensor = torch.ones(2)
    assert (process_count(), process_rank(), own_share("train", "num_envs", 7)) == (1, 0, 7)
    assert sum_over_processes(tensor) is tensor and largest_of_processes(-3) == -3
    assert from_first_process(lambda: "made") == "made"
    wait_for_processes()


def spec(num_envs: int, *, has_reset_steps: bool = False) -> EnvSpec:
    return EnvSpec(Box((3,), torch.float32), Discrete(2), num_envs=num_envs, has_reset_steps=has_reset_steps)


def step(agent: A2C | DQN, seed: int, which: slice) -> Transitions:
    """A made-up step of some of six environments."""
    generator = np.random.default_rng(seed)
    return pack(
        agent.layout,
        observation=generator.normal(size=(ENVS, 3))[which],
        action=generator.integers(2, size=ENVS)[which],
        reward=generator.normal(size=ENVS)[which],
        next_observation=generator.normal(size=(ENVS, 3))[which],
        terminated=(generator.random(ENVS) < 0.1)[which],
        truncated=(generator.random(ENVS) < 0.1)[which],
        valid=(generator.random(ENVS) < np.linspace(0.2, 0.9, ENVS))[which],
    )


AGENTS: dict[str, dict[str, Any]] = {
    "one pass": {"optimizer": "SGD", "learning_rate": 0.1},
    "one pass with resets": {"optimizer": "SGD", "learning_rate": 0.1},
    "one pass, compiled": {"optimizer": "Adam", "learning_rate": 0.1, "normalize_observations": True},
    "passes with resets": {"epochs": 2, "policy_loss": ClippedSurrogateLoss(), "optimizer": "SGD"},
    "one by one": {"optimizer": "Adafactor", "learning_rate": 0.1},
    "normalized": {"normalize_observations": True, "normalize_rewards": True, "optimizer": "Adam", "epochs": 2},
}


def learn(name: str, which: slice, *, compiled: bool = False) -> tuple[Tensor, Tensor]:
    """Three rollouts: the parameters, and the metrics."""
    agent = A2C(**AGENTS[name], hidden_sizes=[8])
    agent.build(spec(len(range(ENVS)[which]), has_reset_steps="resets" in name), compiled=compiled)
    metrics = []
    for seed in range(3 * LENGTH):
        agent.observe(step(agent, seed, which))
        metrics += agent.update()
    assert agent.learner.is_one_graph == compiled
    return torch.cat([p.detach().flatten() for p in agent.model.parameters()]), torch.stack(metrics)


def learn_in_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    half = ENVS // PROCESSES
    own = slice(rank * half, (rank + 1) * half)
    graphs.compile_graph = lambda graph, inputs, options: torch.no_grad()(graph)  # by torch's own kernels
    results: dict[str, Any] = {name: learn(name, own, compiled="compiled" in name) for name in AGENTS}
    results["sum"] = sum_over_processes(torch.tensor([1.0 + rank]))
    results["largest"] = largest_of_processes(-rank)
    results["first"] = from_first_process(lambda: f"rank {process_rank()}")
    with pytest.raises(ValueError, match=r"batch_size must be a multiple of the 2 processes, got 5"):
        DQN(batch_size=5).build(spec(half))
    with pytest.raises(ValueError, match=r"A2C: overlap is for one process, got several"):
        A2C(overlap=True).build(spec(half))
    with pytest.raises(ValueError, match=r"critic_loss.reduction must be mean, of which several processes take"):
        A2C(critic_loss=MSELoss(reduction="sum"))
    agent = DQN(
        batch_size=8, replay_capacity=60, hidden_sizes=[8], learning_starts=0, replay_ratio=0.5, priority_exponent=0.6
    )
    agent.build(spec(half))
    results["drawn"] = torch.rand(3, generator=agent.generator)
    losses = []
    for seed in range(8):
        transitions = step(agent, seed, slice(rank * half, (rank + 1) * half))
        agent.observe(Transitions(transitions.packed, agent.layout, ENVS))
        losses += agent.update()
    assert agent.replay is not None
    results["DQN"] = torch.cat([p.detach().flatten() for p in agent.model.parameters()]), torch.stack(losses)
    results["sizes"] = agent.own_batch_size, agent.replay.length * half, agent.updates
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_are_one(tmp_path: Path) -> None:
    """Half of the environments each: parameters and metrics of one process with all of them."""
    spawn(learn_in_process, args=(str(tmp_path),), nprocs=PROCESSES)  # type: ignore[no-untyped-call]
    one, two = (torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES))
    for name in AGENTS:
        parameters, metrics = learn(name, slice(None))
        assert torch.equal(one[name][0], two[name][0])
        assert_close(one[name][0], parameters, rtol=1e-4, atol=1e-5)
        spread = -2  # of advantages: the mean of two standard deviations is not that of all
        keep = [i for i in range(metrics.shape[1]) if i != metrics.shape[1] + spread]
        assert_close(one[name][1][:, keep], metrics[:, keep], rtol=1e-3, atol=1e-5)
    assert one["sum"].item() == two["sum"].item() == 3.0
    assert one["largest"] == two["largest"] == 0
    assert one["first"] == two["first"] == "rank 0"
    assert not torch.equal(one["drawn"], two["drawn"]), "each chooses by itself"
    for one_result, two_result in zip(one["DQN"], two["DQN"], strict=True):
        assert torch.equal(one_result, two_result)
    assert one["sizes"] == two["sizes"] == (4, 30, 24)


def torchrun(*arguments: str, processes: int = PROCESSES) -> subprocess.CompletedProcess[str]:
    """The command line in several processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [*command, "-m", "agents", *arguments, "--progress", "false"], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[3], env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["a2c", "dqn"])
def test_a_run_of_two_processes_goes_on_bitwise(algorithm: str, tmp_path: Path) -> None:
    arguments = ["train", "--config", f"configs/{algorithm}/cartpole.yaml", "--log_every", "400", "--eval_episodes"]
    arguments += ["2", "--compile", "off", "--run_dir", str(tmp_path)]
    if algorithm == "dqn":
        arguments += ["--agent.learning_starts", "200", "--agent.priority_exponent", "0.6"]
    whole = torchrun(*arguments, "--steps", "1600", "--name", "whole")
    assert whole.returncode == 0, whole.stderr
    assert (
        whole.stdout.count("evaluation: ") == 1 and "8 environments" in whole.stderr and "2 processes" in whole.stderr
    )
    assert torchrun(*arguments, "--steps", "840", "--name", "halved").returncode == 0
    run = tmp_path / "CartPole-v1" / algorithm / "halved-s0"
    other = torchrun("resume", str(run), "--steps", "1600", processes=1)
    assert other.returncode != 0 and "was trained by 2 processes" in other.stderr
    assert torchrun("resume", str(run), "--steps", "1600").returncode == 0
    assert rows(run) == rows(run.with_name("whole-s0")) and len(rows(run)) == 4
    assert model_bytes(run) == model_bytes(run.with_name("whole-s0"))


@pytest.mark.slow
def test_what_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    done = torchrun("train", "--config", "configs/a2c/cartpole.yaml", "--num_envs", "3", "--run_dir", str(tmp_path))
    assert done.returncode != 0 and "num_envs must be a multiple of the 2 processes, got 3" in done.stderr
    assert not list(tmp_path.iterdir())
