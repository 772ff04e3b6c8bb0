"""Where runs happen changes nothing about them, and a worker that dies loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from agents.__main__ import main
from agents.study.executors import next_command, run_in
from agents.study.results import read_results
from agents.study.variants import load_study
from tests.agents.run.probes import rows
from tests.agents.study.test_running import ROOT, TINY

KILLED = TINY | {"seeds": 1, "overrides": TINY["overrides"] | {"steps": 4000, "checkpoint_every": 500}}


def test_the_next_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run begins, begins anew where it left nothing to go on from, and goes on where it did."""
    monkeypatch.chdir(ROOT)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(TINY))
    job = load_study(tmp_path / "study.yaml")[1][0]
    (tmp_path / "s0").mkdir()
    begin = next_command(job, tmp_path / "s0")
    assert begin[:3] == ["train", "--config", str(tmp_path / "s0" / "job.yaml")] and "--seed" in begin
    assert (tmp_path / "s0" / "job.yaml").read_text() == job.configuration

    run = tmp_path / "s0" / "CartPole-v1" / "dqn" / "run-s0"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    assert run_in(tmp_path / "s0") == run
    assert next_command(job, tmp_path / "s0") == begin and not run.exists()

    run.mkdir(parents=True)
    for name in ("config.yaml", "checkpoint.pt"):
        (run / name).touch()
    assert next_command(job, tmp_path / "s0")[:2] == ["resume", str(run)]


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(TINY))
    command = ["study", "--config", str(tmp_path / "study.yaml"), "--directory", str(tmp_path), "--executor", "ray"]
    assert main(command) == 2
    assert "needs pip install -e '.[ray]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    """The run goes on in another worker from its checkpoint, and its rows are those of one that nobody disturbed."""
    pytest.importorskip("ray")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(KILLED))
    command = [sys.executable, "-m", "agents", "study", "--config", str(tmp_path / "study.yaml"), "--progress", "false"]
    process = subprocess.Popen(
        [*command, "--executor", "ray", "--directory", str(tmp_path / "ray")], cwd=ROOT, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "RAY_ADDRESS": "local"},
    )  # fmt: skip
    killed = _kill_a_worker(tmp_path / "ray", process)
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 0, error
    log = (killed / "log.txt").read_text()
    assert log.count("DQN on CartPole-v1") == 2, "it was not killed, or not started again"
    assert subprocess.run([*command, "--directory", str(tmp_path / "here")], cwd=ROOT, check=False).returncode == 0
    one, two = (read_results(tmp_path / name / "tiny-study") for name in ("ray", "here"))
    curves = [[point[:2] for run in results.runs for point in run.curve] for results in (one, two)]
    assert len(one.runs) == 2 and curves[0] == curves[1] and not one.failures
    for path in sorted((tmp_path / "here").rglob("metrics.csv")):
        assert rows(path.parent) == rows(tmp_path / "ray" / path.parent.relative_to(tmp_path / "here"))


def _kill_a_worker(directory: Path, study: subprocess.Popen[str]) -> Path:
    """Kill the worker of a run that has left a checkpoint; that run's folder."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and study.poll() is None:
        for checkpoint in directory.rglob("checkpoint.pt"):
            folder = next(parent for parent in checkpoint.parents if parent.name.startswith("s0-"))
            for number in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
                if _writes_to(number, folder / "log.txt"):
                    os.kill(number, signal.SIGKILL)
                    return folder
        time.sleep(0.05)
    pytest.fail("no run left a checkpoint")


def _writes_to(number: int, path: Path) -> bool:
    try:
        return any(file.resolve() == path for file in Path(f"/proc/{number}/fd").iterdir())
    except OSError:  # gone meanwhile, or another user's
        return False
