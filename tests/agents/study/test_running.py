"""A tiny study end to end: what is done stays, what was stopped goes on, what has changed or failed begins anew."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.__main__ import main
from agents.study.results import read_results
from agents.study.variants import Study, load_study

ROOT = Path(__file__).parents[3]
TINY: dict[str, Any] = {
    "name": "tiny study",
    "base": str(ROOT / "configs/dqn/cartpole.yaml"),
    "seeds": 2,
    "overrides": {
        "steps": 400, "num_envs": 4, "log_every": 200, "eval_every": 200, "eval_episodes": 2,
        "agent.learning_starts": 200, "agent.batch_size": 16, "compile": "off", "tensorboard": False,
    },
    "environments": {"CartPole-v1": {"low": 20, "high": 500, "threshold": 5.0}},
    "variants": {"Huber": {}, "MSE": {"agent.loss.criterion": "MSELoss"}},
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Path]]:
    """Runs a study's file; the exit code and the study's directory."""
    monkeypatch.chdir(ROOT)

    def run_study(content: dict[str, Any], *arguments: str) -> tuple[int, Path]:
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        command = ["study", "--config", str(tmp_path / "study.yaml"), "--directory", str(tmp_path / "studies")]
        return main([*command, "--progress", "false", *arguments]), tmp_path / "studies" / "tiny-study"

    return run_study


def test_a_study(run: Callable[..., tuple[int, Path]], capfd: pytest.CaptureFixture[str]) -> None:
    code, folder = run(TINY, "--seeds", "1")
    assert code == 0
    assert capfd.readouterr().out == f"study: {folder}\nreport: {folder / 'report.html'}\n"
    results = read_results(folder)
    assert [(r.environment, r.variant, r.seed) for r in results.runs] == [
        ("CartPole-v1", "Huber", 0),
        ("CartPole-v1", "MSE", 0),
    ]
    for result in results.runs:
        curve = results.curves["CartPole-v1", result.variant, 0]
        assert [step // 200 for step, _ in curve] == [1, 2]
        assert curve[-1][1] == result.final_return
        assert result.steps == curve[1][0] and result.steps_to_threshold == curve[0][0]
        assert 0 < (result.seconds_to_threshold or 0) < result.seconds
    made = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.csv")}
    assert len(made) == 2 and not list(folder.rglob("checkpoint.pt"))

    # A further seed, a variant that has changed, one that fails: the others are not run again.
    changed = TINY | {"seeds": 1, "variants": {"Huber": {}, "MSE": {"agent.loss.criterion": "MAELoss"}}}
    changed["variants"]["Broken"] = {"env_kwargs": {"no_such": 1}}
    code, _ = run(changed)
    captured = capfd.readouterr()
    assert code == 1
    assert "s0 is of another configuration and begins anew" in captured.err
    assert "1 runs failed, the first: CartPole-v1, Broken, seed 0: error: make_vec" in captured.err
    again = {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.csv")}
    assert [path.parts for path in made if again[path] == made[path]] == [p.parts for p in made if "Huber" in p.parts]
    results = read_results(folder)
    assert [r.variant for r in results.runs] == ["Huber", "MSE"]
    assert [failure[1] for failure in results.failures] == ["Broken"]

    # The small files are enough to go on from, as on another machine; not where the threshold is another by now.
    shutil.rmtree(folder / "runs")
    del changed["variants"]["Broken"]
    assert run(changed)[0] == 0
    assert not (folder / "runs").exists()
    assert read_results(folder).runs == results.runs and read_results(folder).curves == results.curves
    assert run(changed | {"environments": {"CartPole-v1": {"low": 20, "high": 500, "threshold": 6.0}}})[0] == 0
    assert len(list(folder.rglob("metrics.csv"))) == 2


@pytest.mark.slow
def test_a_study_that_was_stopped_goes_on(tmp_path: Path) -> None:
    long = TINY | {"seeds": 1, "variants": {"Huber": {}}, "overrides": TINY["overrides"] | {"steps": 6000}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(long))
    command = [sys.executable, "-m", "agents", "study", "--config", str(tmp_path / "study.yaml"), "--progress", "false"]
    command += ["--directory", str(tmp_path)]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=120)[1]
    assert process.returncode == 128 + signal.SIGTERM, error
    assert error.splitlines()[-1].endswith(f"to go on: {' '.join(['python', *command[1:6]])} --directory {tmp_path}")
    (checkpoint,) = tmp_path.rglob("checkpoint.pt")
    head = next(tmp_path.rglob("metrics.csv")).read_text().splitlines()[:2]
    assert main(command[3:]) == 0
    assert not checkpoint.exists()
    assert next(tmp_path.rglob("metrics.csv")).read_text().splitlines()[:2] == head, "begun anew"
    (result,) = read_results(tmp_path / "tiny-study").runs
    assert result.steps >= 6000


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "argument": ({"variants": {"Bad": {"agent.loss.criterio": "MSELoss"}}}, "variant 'Bad': "),
    "value": ({"variants": {"Bad": {"agent.learning_rate": -1}}}, "learning_rate must be in (0, inf)"),
    "environment": ({"variants": {"Bad": {"environments": {"Nope-v0": {}}}}}, "has arguments for Nope-v0"),
    "scale": ({"environments": {"CartPole-v1": {"low": 5, "high": 5}}}, "high of CartPole-v1 must be in (5, inf)"),
    "field": ({"variant": {}}, "must name name, base, seeds, environments, variants"),
    "seeds": ({"seeds": 0}, "seeds is empty"),
    "base": ({"base": "nowhere.yaml"}, "nowhere.yaml"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_study_is_refused_before_its_first_run(
    name: str, run: Callable[..., tuple[int, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    change, complaint = WRONG[name]
    code, folder = run(TINY | change)
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and complaint in line
    assert not folder.exists()


def test_every_study_that_ships_can_be_planned() -> None:
    paths = sorted((ROOT / "configs" / "studies").glob("*.yaml"))
    assert paths
    for path in paths:
        study, jobs = load_study(path)
        assert len(jobs) == len(study.seeds) * len(study.environments) * len(study.variants)
        assert len({(job.environment, job.configuration) for job in jobs}) == len(study.environments) * len(
            study.variants
        )
        assert Study.from_yaml(study.to_yaml()) == study
