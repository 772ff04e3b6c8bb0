"""Runs: repeatable, resumable to the last bit, and safe when something breaks."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agents import A2C, DQN, Agent, resume, train
from agents.parts.errors import DivergedError, EnvironmentFault
from agents.parts.transition import Transitions
from agents.run import training
from agents.run.checkpoint import load_checkpoint
from agents.run.configuration import load_config
from agents.run.training import Interrupted, Settings
from rlloss import TDLoss
from rlloss.supervised.regression import MSELoss
from tests.agents.run.probes import AGENTS, RunningLoss, a2c, dqn, model_bytes, rows
from tests.conftest import mostly_slow

CPU = torch.device("cpu")
HALF = 450
EVERY = 100


def run(agent: Agent, folder: Path, env: str = "CartPole-v1", **changes: Any) -> Path:
    """A tiny training run."""
    arguments: dict[str, Any] = {
        "num_envs": 3,
        "steps": 2 * HALF,
        "log_every": EVERY,
        "eval_episodes": 1,
        "tensorboard": False,
        "progress": False,
        "run_dir": str(folder),
    }
    return train(agent, env, **arguments | changes)


def assert_same_training(one: Path, other: Path) -> None:
    assert rows(one) == rows(other)
    assert len(rows(one)) == 2 * HALF // EVERY
    assert rows(one)[-1]["eval_return_mean"], "the last row holds the last evaluation"
    assert rows(one)[-1]["loss"], "no gradient step was taken"
    assert model_bytes(one) == model_bytes(other)


def signal_at(call: int, number: int, monkeypatch: pytest.MonkeyPatch, cls: type[Agent]) -> None:
    """Let an agent's n-th step send this process a signal."""
    observe = cls.observe
    calls = 0

    def observe_and_signal(self: Agent, transitions: Transitions) -> None:
        nonlocal calls
        calls += 1
        observe(self, transitions)
        if calls == call:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(cls, "observe", observe_and_signal)


@pytest.mark.parametrize("name", mostly_slow(list(AGENTS), keep=["dqn", "overlapped"]))
def test_same_seed_same_numbers(name: str, tmp_path: Path) -> None:
    one, same, other = (run(AGENTS[name](), tmp_path, seed=seed) for seed in (3, 3, 4))
    assert_same_training(one, same)
    assert rows(one) != rows(other)
    assert model_bytes(one) != model_bytes(other)


@pytest.mark.parametrize(
    "env", mostly_slow(["CartPole-v1", "Acrobot-v1", "Probe-v0"], keep=["CartPole-v1", "Probe-v0"])
)
@pytest.mark.parametrize("name", AGENTS)
def test_stopping_changes_nothing(name: str, env: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(AGENTS[name](), tmp_path, env)

    halved = run(AGENTS[name](), tmp_path, env, steps=HALF)
    assert [int(row["step"]) // 50 for row in rows(halved)] == [2, 4, 6, 8, 9], "the last row is outside the interval"
    assert resume(halved, steps=2 * HALF, progress=False) == halved
    assert_same_training(halved, whole)

    signal_at(HALF // 3 - 23, signal.SIGTERM, monkeypatch, type(AGENTS[name]()))  # in the middle of everything
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted, match="resume") as stopped:
        run(AGENTS[name](), tmp_path, env)
    assert signal.getsignal(signal.SIGTERM) is before
    assert stopped.value.signal == signal.SIGTERM
    (interrupted,) = set(whole.parent.iterdir()) - {whole, halved}
    steps = load_checkpoint(interrupted / "checkpoint.pt", CPU)["envs"]["steps"]
    assert steps < HALF and steps % EVERY, "the stop was to come between two rows"
    resume(interrupted, progress=False)
    assert_same_training(interrupted, whole)


def test_second_signal_acts_as_usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    observe = DQN.observe

    def observe_and_signal(self: DQN, transitions: Transitions) -> None:
        observe(self, transitions)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(DQN, "observe", observe_and_signal)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            run(dqn(), tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)


def test_runs_outside_the_main_thread(tmp_path: Path) -> None:
    done: list[Path] = []
    thread = threading.Thread(target=lambda: done.append(run(dqn(), tmp_path, steps=30)))
    thread.start()
    thread.join()
    assert model_bytes(done[0])


@pytest.mark.parametrize("name", AGENTS)
def test_environments_that_cannot_be_captured_begin_new_episodes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = run(AGENTS[name](), tmp_path, "Forgetful-v0", steps=100)
    assert "cannot be captured: a resumed run begins new episodes" in capsys.readouterr().err
    state = load_checkpoint(stopped / "checkpoint.pt", CPU)["envs"]
    assert state["env"] is None
    assert (state["lengths"] > 0).any(), "the stop was to come within an episode"

    cls = type(AGENTS[name]())
    cut, calls = cls.cut, []

    def counted(self: Agent) -> None:
        calls.append(self)
        cut(self)

    monkeypatch.setattr(cls, "cut", counted)
    resume(stopped, steps=300, progress=False)
    assert len(calls) == 1
    if isinstance(calls[0], DQN):
        assert_no_window_crosses(calls[0])

    captured = run(AGENTS[name](), tmp_path, "Probe-v0", steps=100)
    assert "cannot be captured" not in capsys.readouterr().err.split("Probe-v0")[-1]
    resume(captured, steps=150, progress=False)
    assert len(calls) == 1, "episodes that go on are not cut"


def assert_no_window_crosses(agent: DQN) -> None:
    """Time rises by one within every n-step window: a probe's first observation is its time over seven."""
    assert agent.replay is not None
    index = agent.replay.draw(2_000, agent.n_step, torch.Generator().manual_seed(0))
    batch = agent.replay.gather(index, agent.discount)
    time, later = (batch.observation[:, 0] * 7).round(), (batch.next_observation[:, 0] * 7).round()
    wide = (batch.discount - agent.discount**agent.n_step).abs() < 1e-6  # neither terminated nor cut short
    assert wide.any() and not wide.all()
    assert torch.equal(later[wide], time[wide] + agent.n_step)


def test_run_directories_are_numbered(tmp_path: Path) -> None:
    first = run(dqn(), tmp_path, steps=30, name="tuned", seed=5)
    assert first == tmp_path / "CartPole-v1/dqn/tuned-s5"
    before = {path: path.read_bytes() for path in first.iterdir() if path.is_file()}
    assert run(dqn(), tmp_path, steps=60, name="tuned", seed=5).name == "tuned-2-s5"
    assert run(dqn(), tmp_path, steps=30, name="tuned", seed=5).name == "tuned-3-s5"
    assert run(dqn(), tmp_path, steps=30, name="tuned", seed=6).name == "tuned-s6"
    assert {path: path.read_bytes() for path in first.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be >= 1, got 0"),
        ({"num_envs": 0}, "num_envs must be >= 1"),
        ({"threads": 0}, "threads must be >= 1"),
        ({"log_every": 0}, "log_every must be >= 1"),
        ({"eval_episodes": 0}, "eval_episodes must be >= 1"),
        ({"eval_every": -1}, "eval_every must be >= 0"),
        ({"checkpoint_every": -1}, "checkpoint_every must be >= 0"),
        ({"seed": -1}, "seed must be in"),
        ({"seed": 2**32}, "seed must be in"),
        ({"compile": "yes"}, "compile must be one of auto, on, off, got 'yes'"),
        ({"vectorization": "none"}, "vectorization must be one of auto, sync, async, got 'none'"),
        ({"device": "tpu"}, "device must be one of auto, cpu, cuda, got 'tpu'"),
        ({"steps": 1e2}, r"steps must be an integer, got 100.0 \(float\)"),
        ({"threads": True}, "threads must be an integer"),
        ({"threads": "many"}, "threads must be 'auto' or an integer >= 1, got 'many'"),
        ({"env_kwargs": {"fault": object()}}, "is no plain data"),
        ({"name": "a/b"}, "name must consist of"),
        ({"name": ""}, "name must consist of"),
        ({"env": "NoSuchEnv-v0"}, "NoSuchEnv"),
        ({"env": "no_such_module_x:Env-v0"}, "no_such_module_x"),
        ({"env": "Pendulum-v1"}, "DQN: needs a Discrete action space"),
        ({"env": "Probe-v0", "env_kwargs": {"speed": 3}}, "speed"),
    ],
)
def test_bad_argument_leaves_no_run_directory(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        run(dqn(), tmp_path / "runs", **changes)
    assert not (tmp_path / "runs").exists()


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    agent = dqn(learning_rate=np.float64(1e-3), optimizer_args={"eps": np.float64(1e-7)})
    left = run(agent, tmp_path, "Probe-v0", seed=np.int64(3), steps=30, env_kwargs={"fault_at": np.int64(0)})
    resume(left, steps=60, progress=False)


def test_loss_that_no_other_process_can_import(tmp_path: Path) -> None:
    class LocalLoss(MSELoss):
        pass

    with pytest.raises(ValueError, match="LocalLoss is defined inside a function"):
        run(dqn(loss=TDLoss(LocalLoss())), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_run_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"run directory .* cannot be made"):
        run(dqn(), tmp_path / "file")


@pytest.mark.parametrize("fault", ["raise", "reward", "observation"])
def test_environment_faults_leave_a_checkpoint(fault: str, tmp_path: Path) -> None:
    words = {
        "raise": "raised RuntimeError",
        "reward": "reward is not finite",
        "observation": "observation is not finite",
    }
    env_kwargs = {"fault": fault, "fault_at": 51}
    with pytest.raises(EnvironmentFault) as error:
        run(dqn(), tmp_path, "Probe-v0", env_kwargs=env_kwargs)
    for part in ("environment 1", words[fault], "at step 150", "the last checkpoint is kept"):
        assert part in str(error.value)
    (left,) = (tmp_path / "Probe-v0/dqn").iterdir()
    state = load_checkpoint(left / "checkpoint.pt", CPU)["envs"]
    assert state["steps"] == 150
    assert state["env"] is None, "what a failed step left of the environments is not to go on from"
    resume(left, steps=240, progress=False)
    assert load_checkpoint(left / "checkpoint.pt", CPU)["envs"]["steps"] == 240


def test_fault_in_an_evaluation_leaves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise EnvironmentFault("environment 0 raised")

    whole = run(dqn(), tmp_path, eval_every=150)
    with monkeypatch.context() as context:
        context.setattr(training, "play", fail)
        with pytest.raises(EnvironmentFault, match="environment 0 raised; the last checkpoint is kept in"):
            run(dqn(), tmp_path, eval_every=150)
    (left,) = set(whole.parent.iterdir()) - {whole}
    assert load_checkpoint(left / "checkpoint.pt", CPU)["envs"]["steps"] in (150, 151)
    resume(left, progress=False)
    assert rows(left) == rows(whole)


@pytest.mark.parametrize("last", [False, True])
def test_signal_in_an_evaluation_is_heard(last: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = 0 if last else 150
    whole = run(dqn(), tmp_path, eval_every=every)
    act, calls = DQN.act, 0

    def act_and_signal(self: DQN, observation: Tensor, *, explore: bool = True) -> Tensor:
        nonlocal calls
        calls += not explore
        if calls == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return act(self, observation, explore=explore)

    monkeypatch.setattr(DQN, "act", act_and_signal)
    with pytest.raises(Interrupted):
        run(dqn(), tmp_path, eval_every=every)
    assert calls == 3
    (interrupted,) = set(whole.parent.iterdir()) - {whole}
    steps = load_checkpoint(interrupted / "checkpoint.pt", CPU)["envs"]["steps"]
    assert steps // EVERY == (2 * HALF if last else 150) // EVERY
    resume(interrupted, progress=False)
    assert rows(interrupted) == rows(whole)


class WildPolicy(A2C):
    """Its actions are not finite from the fifth step on."""

    def act(self, observation: Tensor, *, explore: bool = True) -> Tensor:
        action = super().act(observation, explore=explore)
        return action * float("nan") if self.steps >= 12 else action


def test_action_that_is_not_finite_is_the_agent_s_fault(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="the agent's action is not finite at step 12"):
        run(WildPolicy(), tmp_path, "Pendulum-v1")


class ExplodingLoss(MSELoss):
    """NaN from its n-th call on."""

    def __init__(self, calls: int = 1_000) -> None:
        super().__init__()
        self.calls = calls
        self.count = 0

    def forward(
        self, input: Tensor, target: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        self.count += 1
        loss = super().forward(input, target, weight=weight, mask=mask)
        return loss * float("nan") if self.count > self.calls else loss


@pytest.mark.parametrize(
    ("agent", "step"),
    [
        (lambda calls: dqn(loss=TDLoss(ExplodingLoss(calls)), replay_ratio=0.1), 300),
        (lambda calls: A2C(critic_loss=ExplodingLoss(calls), hidden_sizes=[16], rollout_length=10), 200),
    ],
)
def test_diverged_loss_keeps_the_checkpoint(agent: Any, step: int, tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=rf"loss is nan at step {step}; the last checkpoint is kept in"):
        run(agent(14), tmp_path, "Probe-v0", num_envs=1, checkpoint_every=100, log_every=500)
    (left,) = (tmp_path / "Probe-v0").glob("*/*")
    assert not (left / "metrics.csv").exists()
    state = load_checkpoint(left / "checkpoint.pt", CPU)
    assert state["envs"]["steps"] == step - 100
    assert all(torch.isfinite(value).all() for value in state["agent"]["network"].values())
    resume(left, steps=state["envs"]["steps"] + 5, progress=False)


@pytest.mark.parametrize("name", mostly_slow(list(AGENTS), keep=["dqn", "overlapped"]))
def test_evaluation_does_not_change_training(name: str, tmp_path: Path) -> None:
    plain = run(AGENTS[name](), tmp_path)
    evaluated = run(AGENTS[name](), tmp_path, eval_every=150, eval_episodes=3, checkpoint_every=70)
    assert model_bytes(plain) == model_bytes(evaluated)
    with_evaluation = {int(row["step"]): row for row in rows(evaluated)}
    seen = [step for step, row in with_evaluation.items() if row["eval_return_mean"]]
    assert len(seen) == 2 * HALF // 150
    assert [bool(row["eval_return_mean"]) for row in rows(plain)] == [False] * (len(rows(plain)) - 1) + [True]
    for row in rows(plain)[:1]:  # later rows are means over other intervals
        assert row["loss"] == with_evaluation[int(row["step"])]["loss"]


def test_evaluation_survives_resume(tmp_path: Path) -> None:
    whole = run(dqn(), tmp_path, eval_every=150)
    halved = run(dqn(), tmp_path, eval_every=150, steps=HALF)
    resume(halved, steps=2 * HALF, progress=False)
    assert rows(whole) == rows(halved)


@pytest.mark.parametrize(
    ("env", "n_step", "enough"),
    [
        ("CartPole-v1", 1, training.UPDATES_WORTH_COMPILING),
        ("rlloss/CartPole-v1", 1, training.UPDATES_WORTH_COMPILING_ON_DEVICE),
        ("rlloss/CartPole-v1", 3, training.UPDATES_WORTH_COMPILING),  # not drawn on the device
    ],
)
def test_auto_compiles_long_runs_with_a_compiler(
    env: str, n_step: int, enough: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    agent = dqn(replay_ratio=1.0, learning_starts=0, n_step=n_step)
    left = run(agent, tmp_path, env=env, steps=30, num_envs=1)
    settings = Settings.from_config(load_config(left / "config.yaml"))
    assert settings.compile == "off"
    long, short = replace(settings, steps=enough), replace(settings, steps=enough - 1)
    found: str | None = "/bin/g++"
    monkeypatch.setattr("shutil.which", lambda name: found)
    envs = training._make_envs(settings, 1, agent)
    assert training._compile("auto", agent, long, envs) == "on"
    assert training._compile("auto", agent, short, envs) == "off"
    assert training._compile("on", agent, short, envs) == "on"
    assert training._compile("off", agent, long, envs) == "off"
    found = None
    assert training._compile("auto", agent, long, envs) == "off"


@pytest.mark.parametrize("name", ["dqn", "a2c"])
def test_what_a_loss_remembers_is_in_the_checkpoint(name: str, tmp_path: Path) -> None:
    def agent() -> Agent:
        return dqn(loss=TDLoss(RunningLoss())) if name == "dqn" else a2c(critic_loss=RunningLoss())

    whole = run(agent(), tmp_path)
    halved = run(agent(), tmp_path, steps=HALF)
    resume(halved, steps=2 * HALF, progress=False)
    assert_same_training(halved, whole)


def test_resume_does_not_go_back(tmp_path: Path) -> None:
    left = run(dqn(), tmp_path, steps=300)
    before = (left / "config.yaml").read_text()
    with pytest.raises(ValueError, match=r"resume: steps must be >= 30\d, which are done, got 100"):
        resume(left, steps=100, progress=False)
    assert (left / "config.yaml").read_text() == before


def test_one_process_looks_for_a_signal_before_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    advance = training._Run._advance

    def spy(self: training._Run, steps: int) -> None:
        calls.append("step")
        advance(self, steps)

    monkeypatch.setattr(training._Run, "_advance", spy)
    monkeypatch.setattr(training._Run, "_check_signals", lambda self: calls.append("look"))
    run(dqn(), tmp_path, steps=60)
    assert calls[:40] == ["look", "step"] * 20


def test_resume_refuses_what_does_not_fit(tmp_path: Path) -> None:
    left = run(dqn(), tmp_path, steps=30)
    config = (left / "config.yaml").read_text()
    for old, new, message in [
        ("- 16\n", "- 8\n", "does not fit the agent of config.yaml"),
        ("log_every", "log_evry", "settings missing or unknown: log_every, log_evry"),
        ("device: cpu", "device: cuda", "resume: device is cuda, but torch finds no GPU"),
        ("steps: 30", "steps: many", "steps is of another type"),
        ("compile: 'off'", "compile: maybe", "compile must be one of on, off, got 'maybe'"),
    ]:
        assert old in config
        (left / "config.yaml").write_text(config.replace(old, new))
        with pytest.raises(ValueError, match=message):
            resume(left, progress=False)
    (left / "config.yaml").write_text(config)
    metrics = (left / "metrics.csv").read_text()
    (left / "metrics.csv").write_text(metrics + "garbage,1\n")
    with pytest.raises(ValueError, match=r"metrics.csv holds a row that the run did not write"):
        resume(left, progress=False)
    (left / "metrics.csv").write_text(metrics)
    (left / "checkpoint.pt").write_bytes((left / "checkpoint.pt").read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a checkpoint, or is damaged"):
        resume(left, progress=False)


def test_resume_needs_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run directory"):
        resume(tmp_path)
    left = run(dqn(), tmp_path, steps=30)
    with pytest.raises(ValueError, match="steps must be >= 1, got 0"):
        resume(left, steps=0)
    (left / "checkpoint.pt").unlink()
    with pytest.raises(ValueError, match="holds no checkpoint"):
        resume(left)


def test_run_directory_holds_what_the_manual_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = run(dqn(), tmp_path, steps=120, tensorboard=True)
    names = {path.name for path in left.iterdir()}
    assert names == {"config.yaml", "metrics.csv", "model.safetensors", "checkpoint.pt", "tensorboard"}
    assert len(list((left / "tensorboard").iterdir())) == 1
    assert capsys.readouterr().out.endswith(f"run: {left}\n")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such switch")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    code = """
import ctypes, resource, torch
from agents.run.training import _keep_freed_memory

def cleared_pages():
    counts = []
    for _ in range(13):
        parts = [torch.ones(2**19) for _ in range(8)]
        del parts
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
    return counts[-1] - counts[2]

ctypes.CDLL(None).mallopt(-3, 2**17)  # as it is at first, where it would grow with what is freed
print(cleared_pages())
_keep_freed_memory()
print(cleared_pages())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    pages = 10 * 2**24 // os.sysconf("SC_PAGE_SIZE")  # 10 steps of 16 MB
    assert before > pages / 2
    assert after < pages / 100
